"""Two tokenizers on one text: which tokens are paired, how many, and that a crosscoder trains on the pairs."""

from functools import cache
from itertools import islice

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from crosscoders import (
    Chat,
    LossChoice,
    Message,
    ModelChoice,
    RunConfig,
    Study,
    Text,
    TokenSourceChoice,
    TrainingConfig,
    analyse,
    build_crosscoder,
)
from crosscoders.activations import ActivationConfig, ActivationStream, Harvester, LiveBlocks, keep_mask
from crosscoders.activations.harvest import resolve_sites
from crosscoders.models.alignment import align
from crosscoders.models.paired import PairedReader, make_reader
from crosscoders.models.sequences import SequenceReader
from crosscoders.training import fit
from crosscoders_adapters.transformers import TransformersAdapter

MIXED = [
    "The café's naïve façade — 12,345 € — was Übergroß.\n\tif x >= 10: return f'{x!r}'  # ≠ 3\n",
    "北京的天气很好。我们去公园吧!日本語のテキストも混ぜます。 Привет, мир. مرحبا",
    "🦜 The moon 🌙 is up; emoji 👩‍🔬 with joiners, and   runs   of    spaces.",
]


@cache
def sample():
    source = TokenSourceChoice.of("python_library").build()
    return list(islice(source.documents(), 400))


def texts():
    return [d.text for d in sample() if isinstance(d, Text)] + MIXED


@cache
def tokenizer(kind):
    if kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=1500, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>")
    else:
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer, made.decoder = normalizers.BertNormalizer(lowercase=True), decoders.WordPiece()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=["[UNK]", "[CLS]"])
    made.train_from_iterator(texts(), trainer)
    special = {"bos_token": "<s>", "eos_token": "</s>"} if kind == "unigram" else {"cls_token": "[CLS]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special)


@cache
def other_model(kind="unigram"):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=1600, n_embd=24, n_layer=2, n_head=2, n_positions=512)
    return TransformersAdapter.wrap(transformers.GPT2LMHeadModel(config), tokenizer(kind), name=kind)


@cache
def tiny_model():
    return ModelChoice.of("transformers", model="tiny-pair/chat").build()


def words(table):
    return lambda ids: "".join(table[i] for i in ids)


def test_windows_grow_until_texts_agree_and_last_tokens_are_paired():
    first, second = ["un", "believ", "able", " story", "!"], ["unbeliev", "a", "ble s", "tory", "!"]
    found = align(range(5), range(5), words(first), words(second))
    assert list(zip(found.first, found.second)) == [(1, 0), (3, 3), (4, 4)]
    assert found.coverage == 1.0


def test_texts_that_differ_for_a_while_are_found_again():
    first, second = ["same ", "user", "\n", "hello", " world"], ["same ", "human", "hel", "lo ", "world"]
    found = align(range(5), range(5), words(first), words(second))
    assert list(zip(found.first, found.second)) == [(0, 0), (3, 3), (4, 4)]
    assert found.num_matched == 10 - 2  # all but `user` and `human`


@pytest.mark.parametrize(("first", "second"), [([], []), ([], ["a"]), (["abc"], ["xyz"]), ([" ", "\n"], [" "])])
def test_nothing_in_common_pairs_nothing(first, second):
    found = align(range(len(first)), range(len(second)), words(first), words(second))
    assert found.first == found.second == ()


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab é🦜\n", max_size=60), st.data())
def test_any_two_cuts_of_a_text_are_paired_where_they_end_alike(text, data):
    """Against the naive definition: tokens whose ends have the same number of visible characters before them."""

    def cut():
        ends = [*sorted(data.draw(st.sets(st.integers(1, max(1, len(text)))))), len(text)]
        pieces, start = [], 0
        for end in ends:
            if end > start:
                pieces.append(text[start:end])
                start = end
        return pieces

    first, second = cut(), cut()
    found = align(range(len(first)), range(len(second)), words(first), words(second))
    visible = [[len("".join("".join(side[: i + 1]).split())) for i in range(len(side))] for side in (first, second)]
    for i, j in zip(found.first, found.second):
        assert visible[0][i] == visible[1][j]
    assert set(visible[0]) & set(visible[1]) - {0} == {visible[0][i] for i in found.first}


@pytest.mark.claim("D12", "two tokenizers on mixed text: at least 99 % of tokens in paired windows")
@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_99_percent_of_tokens_are_paired_on_mixed_text(kind):
    mine, theirs = tiny_model(), other_model(kind)
    matched = total = 0
    for text in texts():
        ids = [list(m.tokenize(Text(text)).ids) for m in (mine, theirs)]
        found = align(*ids, mine.text, theirs.text)
        matched, total = matched + found.num_matched, total + found.num_tokens
    assert matched / total >= 0.99, (matched / total, total)


def paired_reader(**options):
    source = TokenSourceChoice.of("python_library").build()
    adapters = {"chat": tiny_model(), "other": other_model()}
    return make_reader(source, adapters, tiny_model(), context_length=48, **options)


def test_paired_rows_read_the_same_text():
    reader = paired_reader()
    assert isinstance(reader, PairedReader)
    rows = reader.read(40)
    partner = rows.partners["other"]
    assert reader.coverage > 0.97
    for row in range(40):
        places = (partner.position_BT[row] >= 0).nonzero().squeeze(1).tolist()
        assert places
        for i in (places[0], places[len(places) // 2], places[-1]):
            j = int(partner.position_BT[row, i])
            mine = tiny_model().text(rows.ids[row, : i + 1].tolist())
            theirs = other_model().text(partner.tokens.ids[row, : j + 1].tolist())
            assert "".join(mine.split())[-5:] == "".join(theirs.split())[-5:]


def test_a_paired_reader_goes_on_where_it_was():
    reader = paired_reader()
    reader.read(23)
    state = reader.state()
    expected = reader.read(9)
    again = paired_reader()
    again.restore(state)
    found = again.read(9)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.partners["other"].position_BT, expected.partners["other"].position_BT)


def test_equal_vocabularies_are_read_once():
    source = TokenSourceChoice.of("python_library").build()
    adapters = {"base": ModelChoice.of("transformers", model="tiny-pair/base").build(), "chat": tiny_model()}
    assert type(make_reader(source, adapters, tiny_model(), context_length=48)) is SequenceReader


def test_a_chat_is_laid_out_by_each_model_or_read_as_the_other_lays_it_out():
    chat = Chat((Message("user", "What is a cat?"), Message("assistant", "A small animal that purrs.")))
    source = type("Source", (), {"documents": lambda self, skip=0: iter([chat] * 3)})()
    reader = make_reader(source, {"chat": tiny_model(), "other": other_model()}, tiny_model(), context_length=64)
    rows = reader.read(1)
    assert int((rows.partners["other"].position_BT >= 0).sum()) > 5


def test_activations_of_pairs_stand_side_by_side_and_unpaired_tokens_are_left_out():
    adapters = {"chat": tiny_model(), "other": other_model()}
    layout = resolve_sites(adapters, ["chat/layers.1", "other/layers.0"])
    harvester = Harvester(adapters, layout, rows_per_forward=4, device=torch.device("cpu"))
    rows = paired_reader().read(6)
    x_BTX = harvester(rows)
    partner = rows.partners["other"]
    alone = other_model().activations(partner.tokens, ["layers.0"])["layers.0"]
    keep_BT = keep_mask(ActivationConfig().masks, rows, harvester.norms(x_BTX), None)
    assert 0.3 < float(keep_BT.sum() / rows.attention.sum()) < 1.0
    for row, i in keep_BT.nonzero().tolist():
        assert partner.position_BT[row, i] >= 0
        torch.testing.assert_close(
            x_BTX[row, i, layout.slices["other/layers.0"]], alone[row, partner.position_BT[row, i]]
        )


def test_a_crosscoder_over_two_architectures_trains_and_is_analysed(tmp_path):
    adapters = {"chat": tiny_model(), "other": other_model()}
    layout = resolve_sites(adapters, ["chat/layers.2", "other/layers.1"])
    config = ActivationConfig(context_length=48, block_tokens=4096, rows_per_forward=32)
    harvester = Harvester(adapters, layout, rows_per_forward=32, device=torch.device("cpu"))
    source = TokenSourceChoice.of("python_library").build()
    reader = make_reader(source, adapters, tiny_model(), context_length=48)
    stream = ActivationStream(LiveBlocks(reader, harvester, config), batch_size=256, seed=0)
    crosscoder = build_crosscoder("acausal", layout.sites, num_latents=512)
    training = TrainingConfig(num_tokens=60 * 256, batch_size=256, lr=4e-3)
    reports = list(fit(crosscoder, LossChoice.of("batchtopk", k=24).build(), iter(stream), training))
    assert min(reports[-1].explained_variance.values()) > 0.4
    study = Study(crosscoder, adapters, source, activations=config, num_tokens=1024, reading=tiny_model())
    (report,) = analyse(crosscoder, ["decoder_norms"], study=study)
    assert report.data


def test_a_run_over_two_vocabularies_needs_nothing_special(tmp_path):
    other_model().model.save_pretrained(tmp_path / "other")
    tokenizer("unigram").save_pretrained(tmp_path / "other")
    from crosscoders import Crosscoder, train

    config = {
        "models": {
            "chat": {"name": "transformers", "model": "tiny-pair/chat"},
            "other": {"name": "transformers", "model": str(tmp_path / "other")},
        },
        "sites": ["chat/layers.2", "other/layers.1"],
        "tokens": {"name": "python_library"},
        "architecture": {"name": "dedicated", "num_latents": 256},
        "loss": {"name": "batchtopk", "k": 8},
        "activations": {"context_length": 48, "block_tokens": 2048, "calibration_tokens": 1024},
        "training": {"num_tokens": 2048, "batch_size": 256, "evaluation_tokens": 256, "fidelity_tokens": 64},
        "device": "cpu",
        "output": str(tmp_path / "run"),
    }
    trained = train(RunConfig.from_dict(config), quiet=True)
    again = Crosscoder.from_pretrained(tmp_path / "run" / "crosscoder")
    x_BX = torch.randn(8, trained.layout.width)
    assert torch.equal(again(x_BX), trained(x_BX))
    assert set(again.info.metrics["explained_variance"]) == {"chat/layers.2", "other/layers.1"}
