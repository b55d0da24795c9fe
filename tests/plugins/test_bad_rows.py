"""Rows that are not documents: named where a source should stop at them, counted where it should pass over them."""

import json
from itertools import islice

import pytest
import torch

from crosscoders import BadRow, Chat, ConfigError, Crosscoder, ModelChoice, RunConfig, Text, TokenSourceChoice, train
from crosscoders.models.sequences import SequenceReader
from crosscoders.training import harvest


def chat(number, **turn):
    answer = {"role": "assistant", "content": f"A mutable sequence, answer {number}. " * 4, **turn}
    return {"messages": [{"role": "user", "content": f"Question {number}: what is a list?"}, answer]}


CALL = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}
BAD_LINES = {
    "not JSON": (b'{"messages": [', "is not valid JSON"),
    "not a table": (b"[1, 2]", "instead of a table of columns"),
    "deep": (b'{"messages": ' + b"[" * 100_000, "is not valid JSON"),
    "bytes": (b'{"messages": "caf\xe9"}', "is not UTF-8 text"),
    "other column": (b'{"conversation": []}', "has no column 'messages'; it has conversation"),
    "no list": (b'{"messages": "hello"}', 'has "hello" instead of a list of turns'),
    "no turns": (b'{"messages": []}', "without turns"),
    "no role": (b'{"messages": [{"content": "a"}]}', "turn 1 without a role"),
    "role": (b'{"messages": [{"role": "narrator", "content": "a"}]}', 'the unknown role "narrator"'),
    "null": (b'{"messages": [{"role": "user", "content": null}]}', r"turn 1 \(user\) with null instead of text"),
    "number": (b'{"messages": [{"role": "user", "content": 5}]}', "with 5 instead of text"),
    "image": (
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}',
        "turn 1 with a part that is not text",
    ),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_or_skipped(tmp_path, name):
    line, reason = BAD_LINES[name]
    rows = [json.dumps(chat(i)).encode() for i in range(4)]
    (tmp_path / "chats.jsonl").write_bytes(b"\n".join([*rows[:2], line, *rows[2:]]))
    paths = [str(tmp_path / "chats.jsonl")]
    with pytest.raises(ConfigError, match=rf"chats\.jsonl:3 .*{reason}.*bad_rows = 'skip'") as stopped:
        list(TokenSourceChoice.of("chat_files", paths=paths).build().documents())
    assert len(str(stopped.value)) < 500 and "attr" not in str(stopped.value)
    found = list(TokenSourceChoice.of("chat_files", paths=paths, bad_rows="skip").build().documents())
    assert [isinstance(document, Chat) for document in found] == [True, True, False, True, True]
    assert isinstance(found[2], BadRow) and found[2].origin.place.endswith("chats.jsonl:3")


def test_chats_with_tools_developers_and_parts_are_chats(tmp_path):
    rows = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather "}, {"type": "text", "text": "in Oslo?"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "name": None},
        {"role": "tool", "content": "rain", "name": "weather"},
        {"role": "assistant", "content": "It rains."},
    ]
    (tmp_path / "chats.jsonl").write_text("\ufeff" + json.dumps({"messages": rows}) + "\n\n", encoding="utf-8")
    (found,) = TokenSourceChoice.of("chat_files", paths=[str(tmp_path)]).build().documents()
    contents = [message.content for message in found.messages]
    assert contents == ["Be brief.", "Weather in Oslo?", "", "rain", "It rains."]
    assert found.messages[2].extra == {"tool_calls": [CALL]} and found.messages[3].extra == {"name": "weather"}
    adapter = ModelChoice.of("transformers", model="tiny-pair/chat").build()
    assert "<tool>rain" in adapter.tokenizer.decode(list(adapter.tokenize(found).ids))


def test_a_text_file_that_is_not_text_is_named_or_skipped(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffBegins with a mark. " * 40, encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    (tmp_path / "c.txt").write_text("Ends here. " * 60)
    with pytest.raises(ConfigError, match=r"b\.txt is not UTF-8 text.*bad_rows = 'skip'"):
        list(TokenSourceChoice.of("text_files", paths=[str(tmp_path)]).build().documents())
    found = list(TokenSourceChoice.of("text_files", paths=[str(tmp_path)], bad_rows="skip").build().documents())
    assert [type(document) for document in found] == [Text, BadRow, Text]
    assert found[0].text.startswith("Begins")
    assert found[0].origin.place.endswith("a.txt, document 1")


def dataset(tmp_path, rows, **options):
    pytest.importorskip("datasets", reason="the extra crosscoders[datasets] is not installed")
    (tmp_path / "data.jsonl").write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    data_files = [str(tmp_path / "data.jsonl")]
    return TokenSourceChoice.of("hf_dataset", path="json", data_files=data_files, **options).build()


def test_rows_of_datasets_are_named_by_number(tmp_path):
    good = [{"text": f"Document {i}."} for i in range(6)]
    rows = [*good[:3], {"text": None}, *good[3:]]
    with pytest.raises(ConfigError, match="json row 3 has null instead of a text in the column 'text'"):
        list(dataset(tmp_path, rows).documents())
    found = dataset(tmp_path, rows, bad_rows="skip")
    assert [isinstance(document, BadRow) for document in found.documents()] == [False] * 3 + [True] + [False] * 3
    assert [document.text for document in found.documents(skip=4)] == ["Document 3.", "Document 4.", "Document 5."]
    with pytest.raises(ConfigError, match="json row 0 has no column 'body'; it has text"):
        list(dataset(tmp_path, good, text_column="body").documents())
    with pytest.raises(ConfigError, match="json row 0 has 5 instead of a text"):
        list(dataset(tmp_path, [{"text": 5}]).documents())


def test_a_dataset_whose_file_is_broken_is_one_clear_error(tmp_path):
    for policy in ("stop", "skip"):
        source = dataset(tmp_path, [{"text": "good"}] * 5 + ['{"text": "cut off'], bad_rows=policy)
        with pytest.raises(ConfigError, match="the dataset 'json' cannot be read from row 0 on: ArrowInvalid: JSON"):
            list(source.documents())


def write_chats(path, bad=(), count=60):
    rows = [json.dumps(chat(i)) for i in range(count)]
    for number, line in sorted(bad, reverse=True):
        rows.insert(number, line if isinstance(line, str) else json.dumps(line))
    path.write_text("\n".join(rows) + "\n")


ODD = {"messages": [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]}


@pytest.fixture
def strict_chat(tmp_path):
    """The shipped chat model with a template that wants roles to alternate."""
    import shutil
    from pathlib import Path

    import crosscoders_adapters

    folder = tmp_path / "strict"
    shutil.copytree(Path(crosscoders_adapters.__file__).parent / "tiny_pair" / "chat", folder)
    template = folder / "chat_template.jinja"
    template.write_text(
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + template.read_text()
    )
    return {"name": "transformers", "model": str(folder)}


def test_chats_that_a_template_refuses_are_named_or_skipped(tmp_path, strict_chat):
    write_chats(tmp_path / "chats.jsonl", [(7, ODD)])
    adapter = ModelChoice.of(strict_chat.pop("name"), **strict_chat).build()
    paths = [str(tmp_path / "chats.jsonl")]

    def reader(**options):
        return SequenceReader(
            TokenSourceChoice.of("chat_files", paths=paths, **options).build(), adapter, context_length=64
        )

    with pytest.raises(
        ConfigError, match=r"chats\.jsonl:8: the chat template .* refuses this chat \(roles user, user\)"
    ):
        reader().read(30)
    skipping = reader(bad_rows="skip")
    skipping.read(200)
    # Counted once, however often the source is read.
    assert skipping.passes > 1 and skipping.skipped == 1


def config(tmp_path, output, models, **training):
    return RunConfig.from_dict(
        {
            "sites": ["chat/layers.1"],
            "device": "cpu",
            "models": models,
            "tokens": {"name": "chat_files", "paths": [str(tmp_path / "chats.jsonl")], "bad_rows": "skip"},
            "output": str(tmp_path / output),
            "architecture": {"name": "acausal", "num_latents": 64},
            "loss": {"name": "batchtopk", "k": 4},
            "activations": {
                "context_length": 64,
                "calibration_tokens": 512,
                "block_tokens": 1024,
                "rows_per_forward": 16,
                "held_out_share": 0.2,
            },
            "training": {
                "num_tokens": 16 * 256,
                "batch_size": 256,
                "evaluation_tokens": 512,
                "fidelity_tokens": 64,
                "save_every": 5,
                "keep_checkpoints": 9,
                **training,
            },
        }
    )


def test_a_run_counts_what_it_skips_and_how_often_it_reads_its_text_also_resumed_and_cached(
    tmp_path, strict_chat, capsys
):
    write_chats(tmp_path / "chats.jsonl", [(3, ODD), (9, "{"), (30, ODD)], count=24)
    models = {"chat": strict_chat}
    whole = train(config(tmp_path, "whole", models), quiet=False, resume=False)
    assert "bad rows were skipped" in capsys.readouterr().err
    reading = whole.info.reading
    assert reading["packing"] == "apart" and reading["passes"] >= 1 and 1 <= reading["skipped"] <= 3
    card = (tmp_path / "whole" / "crosscoder" / "README.md").read_text()
    assert "each read by the models as if it were alone" in card and "bad rows of it were skipped" in card
    assert Crosscoder.from_pretrained(tmp_path / "whole" / "crosscoder").info.reading == reading
    # From a checkpoint on, as if nothing had happened.
    import shutil

    for step in (10, 15):
        (tmp_path / "again" / "checkpoints").mkdir(parents=True, exist_ok=True)
        name = f"step-{step:08d}"
        shutil.rmtree(tmp_path / "again", ignore_errors=True)
        shutil.copytree(tmp_path / "whole" / "checkpoints" / name, tmp_path / "again" / "checkpoints" / name)
        again = train(config(tmp_path, "again", models), quiet=True)
        assert again.info.reading == reading
        assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), whole.state_dict().values()))
    harvest(config(tmp_path, "unused", models), tmp_path / "cache", quiet=True)
    manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert manifest["packing"] == "apart" and len(json.dumps(manifest["start"])) < 200
    import attrs

    cached = train(attrs.evolve(config(tmp_path, "cached", models), cache=tmp_path / "cache"), quiet=True)
    assert cached.info.reading == reading


def test_splits_are_looked_for_before_the_first_step(tmp_path, strict_chat, monkeypatch):
    from crosscoders.training.trainer import Trainer

    write_chats(tmp_path / "chats.jsonl", count=2)
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("trained before both splits were found"))
    with pytest.raises(ConfigError, match="no document in its (held_out|train) split that gives tokens, among its 2"):
        train(config(tmp_path, "out", {"chat": strict_chat}), quiet=True)


def test_rows_of_a_mixture_keep_their_names(tmp_path):
    write_chats(tmp_path / "chats.jsonl", [(1, "{")], count=4)
    source = {"name": "chat_files", "paths": [str(tmp_path / "chats.jsonl")]}
    (tmp_path / "words.txt").write_text("Some words. " * 60)
    words = {"name": "text_files", "paths": [str(tmp_path / "words.txt")]}
    mixed = TokenSourceChoice.of("mixture", sources=[source, words]).build()
    with pytest.raises(ConfigError, match=r"chats\.jsonl:2 is not valid JSON"):
        list(islice(mixed.documents(), 10))
    mixed = TokenSourceChoice.of("mixture", sources=[{**source, "bad_rows": "skip"}, words]).build()
    # The fifth document of the file is the first again, so its second row comes twice in fourteen.
    assert sum(isinstance(document, BadRow) for document in islice(mixed.documents(), 14)) == 2


def test_a_bad_row_of_a_mixture_is_counted_once_however_often_its_source_begins_again(tmp_path, strict_chat):
    """Both those that hold no chat and those that only the model refuses; also after going back to a position."""
    write_chats(tmp_path / "chats.jsonl", [(1, "{"), (2, ODD)], count=4)
    (tmp_path / "words.txt").write_text("Some words. " * 60)
    chats = {"name": "chat_files", "paths": [str(tmp_path / "chats.jsonl")], "bad_rows": "skip"}
    words = {"name": "text_files", "paths": [str(tmp_path / "words.txt")]}
    inner = {"name": "mixture", "sources": [chats, words]}
    adapter = ModelChoice.of(strict_chat.pop("name"), **strict_chat).build()
    for sources in ([chats, words], [inner, words]):
        source = TokenSourceChoice.of("mixture", sources=sources).build()
        reader = SequenceReader(source, adapter, context_length=64)
        reader.read(2)
        early = reader.state()
        reader.read(120)
        given = list(islice(source.documents(), reader.documents.next_document))
        bad = [document.reason for document in given if isinstance(document, BadRow)]
        assert len(bad) > 1 and reader.passes == 0 and reader.skipped == 2, (bad, reader.skipped)
        again = SequenceReader(source, adapter, context_length=64)
        again.restore(early)
        again.read(120)
        assert again.state() == reader.state()
