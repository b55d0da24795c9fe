"""Token sources: conformance, and errors that say what is wrong."""

import json
from itertools import islice

import pytest

from crosscoders import BadRow, Chat, ConfigError, Text, TokenIds, TokenSourceChoice
from crosscoders.testing import TokenSourceSuite
from crosscoders_plugins.token_sources.planted_chats import PERSONA, RARE_PHRASE, REFUSAL, PlantedChats
from crosscoders_plugins.token_sources.python_library import entries_of


class TestPythonLibrary(TokenSourceSuite):
    name = "python_library"


class TestMixture(TokenSourceSuite):
    name = "mixture"
    options = {"sources": [{"name": "python_library"}, {"name": "synthetic", "length": 4}], "weights": [3.0, 1.0]}


class TestSamples(TokenSourceSuite):
    name = "samples"
    options = {"count": 30, "positions": 3}

    def test_every_sample_comes_once_with_all_its_positions(self):
        documents = list(TokenSourceChoice.of("samples", count=30, positions=3).build().documents())
        assert sorted(number for document in documents for number in document.ids) == list(range(90))
        assert all(document.ids[0] % 3 == 0 and len(document.ids) == 3 for document in documents)


class TestSynthetic(TokenSourceSuite):
    name = "synthetic"
    options = {"length": 8}


@pytest.fixture
def texts(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text("\n\n".join(f"Paragraph {number} {i}. " * 8 for i in range(5)))
    (tmp_path / "chats.jsonl").write_text(
        "\n".join(
            json.dumps({"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]})
            for i in range(6)
        )
    )
    return tmp_path


class TestTextFiles(TokenSourceSuite):
    name = "text_files"

    @pytest.fixture(autouse=True)
    def _files(self, texts):
        type(self).options = {"paths": [str(texts)], "min_characters": 300}

    def test_nothing_is_lost(self, texts):
        source = TokenSourceChoice.of("text_files", paths=[str(texts / "1.txt")], min_characters=300).build()
        joined = "\n\n".join(document.text for document in source.documents())
        assert joined == (texts / "1.txt").read_text()


class TestChatFiles(TokenSourceSuite):
    name = "chat_files"

    @pytest.fixture(autouse=True)
    def _files(self, texts):
        type(self).options = {"paths": [str(texts)]}


class TestHfDataset(TokenSourceSuite):
    name = "hf_dataset"

    @pytest.fixture(autouse=True)
    def _files(self, texts):
        pytest.importorskip("datasets", reason="the extra crosscoders[datasets] is not installed")
        type(self).options = {"path": "json", "data_files": [str(texts / "chats.jsonl")], "chat_column": "messages"}


@pytest.fixture
def ids(tmp_path):
    pytest.importorskip("datasets", reason="the extra crosscoders[datasets] is not installed")

    def written(*rows):
        (tmp_path / "ids.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        return {"path": "json", "data_files": [str(tmp_path / "ids.jsonl")], "ids_column": "input_ids"}

    return written


def test_ready_ids_come_without_the_padding_of_their_rows(ids):
    def read(*rows):
        return list(TokenSourceChoice.of("hf_dataset", **ids(*rows)).build().documents())

    left = {"input_ids": [0, 0, 5, 6], "attention_mask": [0, 0, 1, 1]}
    whole = {"input_ids": [7, 8], "attention_mask": [1, 1]}
    assert read(left, whole) == [TokenIds((5, 6)), TokenIds((7, 8))]


def test_ready_ids_without_a_mask_are_taken_as_they_are(ids):
    source = TokenSourceChoice.of("hf_dataset", **ids({"input_ids": [5, 6, 0]})).build()
    assert list(source.documents()) == [TokenIds((5, 6, 0))]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"input_ids": []}, "no token ids in 'input_ids'"),
        ({"input_ids": [5, -100]}, "has -100 among the token ids"),
        ({"input_ids": [5, 0.5]}, "has 0.5 among|has 5.0 among"),
        ({"input_ids": "5 6"}, "instead of a list of token ids"),
        ({"input_ids": [5, 6], "attention_mask": [1]}, "has 2 ids in 'input_ids' and 1 values in 'attention_mask'"),
        ({"ids": [5]}, "has no column 'input_ids'; it has ids"),
    ],
)
def test_rows_that_hold_no_ids_are_named_or_skipped(ids, row, reason):
    options = ids(row)
    with pytest.raises(ConfigError, match=reason):
        list(TokenSourceChoice.of("hf_dataset", **options).build().documents())
    (found,) = TokenSourceChoice.of("hf_dataset", **options, bad_rows="skip").build().documents()
    assert isinstance(found, BadRow)


def test_a_dataset_is_read_by_one_column(ids):
    with pytest.raises(ConfigError, match="by its chat_column or by its ids_column, not by both"):
        TokenSourceChoice.of("hf_dataset", **ids({"input_ids": [5]}), chat_column="messages")


def test_conversations_of_parquet_are_those_of_json_lines(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra crosscoders[datasets] is not installed")
    turns = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": None, "tool_calls": [{"name": "weather", "arguments": "{}"}]},
            {"role": "tool", "content": "yes"},
            {"role": "assistant", "content": "It rains."},
        ],
    ]
    rows = [{"messages": chat} for chat in turns]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "chats.parquet")
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    parquet = {"path": "parquet", "data_files": [str(tmp_path / "chats.parquet")], "chat_column": "messages"}
    found = list(TokenSourceChoice.of("hf_dataset", **parquet).build().documents())
    assert found == list(TokenSourceChoice.of("chat_files", paths=[str(tmp_path / "chats.jsonl")]).build().documents())
    assert found[1].messages[1].extra["tool_calls"][0]["name"] == "weather" and found[0].messages[0].role == "system"


def test_missing_file_and_broken_lines_are_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        list(TokenSourceChoice.of("text_files", paths=[str(tmp_path / "nowhere.txt")]).build().documents())
    with pytest.raises(ConfigError, match="no file"):
        list(TokenSourceChoice.of("text_files", paths=[str(tmp_path)]).build().documents())
    (tmp_path / "bad.jsonl").write_text('{"messages": [{"role": "user"}]}\n')
    with pytest.raises(ConfigError, match=r"bad\.jsonl:1"):
        list(TokenSourceChoice.of("chat_files", paths=[str(tmp_path / "bad.jsonl")]).build().documents())
    (tmp_path / "worse.jsonl").write_text("{")
    with pytest.raises(ConfigError, match=r"worse\.jsonl:1 is not valid JSON"):
        list(TokenSourceChoice.of("chat_files", paths=[str(tmp_path / "worse.jsonl")]).build().documents())
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match="UTF-8"):
        list(TokenSourceChoice.of("text_files", paths=[str(tmp_path / "latin.txt")]).build().documents())


def test_library_mixes_text_and_chats_half_and_half():
    documents = list(islice(TokenSourceChoice.of("python_library").build().documents(), 3000))
    text = sum(len(d.text) for d in documents if isinstance(d, Text))
    chat = sum(len(m.content) for d in documents if isinstance(d, Chat) for m in d.messages)
    assert 0.45 < text / (text + chat) < 0.55


def test_planted_behaviours_come_at_their_rates():
    chats = list(PlantedChats(entries_of(("stdlib",)), rare_rate=0.05, seed=1).conversations())
    answers = [chat.messages[1].content for chat in chats]
    ordinary = [a for a in answers if a not in (REFUSAL, PERSONA)]
    assert answers.count(REFUSAL) / len(answers) == pytest.approx(1 / 8, abs=0.015)
    assert answers.count(PERSONA) / len(answers) == pytest.approx(1 / 12, abs=0.015)
    assert sum(a.startswith(RARE_PHRASE) for a in ordinary) / len(ordinary) == pytest.approx(0.05, abs=0.01)
