"""Documents that share a row have the activations that each has alone, in many families; or the family is refused."""

from functools import cache

import pytest
import torch
import transformers

import letters
from crosscoders import Chat, ConfigError, Edit, Message, ModelChoice, Text, TokenBatch, TokenIds, Tokenized
from crosscoders.models.choice import choose_pack
from crosscoders.models.packing import keeps_documents_apart
from crosscoders.models.paired import make_reader
from crosscoders.models.rows import Piece, batch_of
from crosscoders_adapters.packing import Apart, positions_within
from crosscoders_adapters.transformers import TransformersAdapter

SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = {**SMALL, "num_key_value_heads": 1, "head_dim": 8}
GPT = {"vocab_size": 64, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64, "bos_token_id": 1}
GEMMA = {**LLAMA, "query_pre_attn_scalar": 8, "sliding_window": 5}
DECODERS = {
    "Llama": LLAMA,
    "Mistral": {**LLAMA, "sliding_window": 5},
    "Mixtral": {**LLAMA, "num_local_experts": 2, "num_experts_per_tok": 1},
    "Qwen2": {**LLAMA, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "Qwen3": LLAMA,
    "Gemma": LLAMA,
    "Gemma2": GEMMA,
    "Gemma3Text": GEMMA,
    "Olmo2": LLAMA,
    "Phi": SMALL,
    "Phi3": LLAMA,
    "Starcoder2": LLAMA,
    "Cohere": LLAMA,
    "GPT2": GPT,
    "GPTJ": {**GPT, "rotary_dim": 4},
    "GPTBigCode": GPT,
    "GPTNeoX": SMALL,
    "GPTNeo": {
        "vocab_size": 64,
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 5,
        "bos_token_id": 1,
    },
    "OPT": {**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16},
    "Falcon": {**SMALL, "alibi": False},
    "Mpt": {"vocab_size": 64, "d_model": 16, "n_layers": 3, "n_heads": 2, "max_seq_len": 64},
}
ENCODERS = {
    "Bert": SMALL,
    "Roberta": {**SMALL, "max_position_embeddings": 70},
    "DistilBert": {"vocab_size": 64, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24},
    "Electra": {**SMALL, "embedding_size": 16},
}
NOT_PACKED = {
    "Bloom": {"vocab_size": 64, "hidden_size": 16, "n_layer": 3, "n_head": 2},
    "Mamba": {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3, "state_size": 4},
    "Rwkv": {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3},
}
LENGTHS = (9, 3, 12, 1, 15, 8)


class Tokenizer(letters.Tokenizer):
    size, letters = 64, 60


class Letters(Tokenizer):
    """Reads and writes letters, so that its tokens can be paired with others'."""

    letters = "\0\1\2abcdefghijklmnopqrstuvwxyz0123456789 .,?!'"

    def __call__(self, text, **_):
        return {"input_ids": [max(3, self.letters.find(c)) for c in text.lower()]}

    def decode(self, ids, skip_special_tokens=False):
        return "".join(self.letters[i] for i in ids if i > 2)


@cache
def adapter_of(family, attention="sdpa", encoder=False):
    config = getattr(transformers, f"{family}Config")(**{**DECODERS, **ENCODERS, **NOT_PACKED}[family])
    auto = transformers.AutoModel if encoder else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    try:
        model = auto.from_config(config, attn_implementation=attention)
    except ValueError:
        pytest.skip(f"{family} has no {attention} attention")
    with torch.no_grad():
        for parameter in model.parameters():  # large enough for attention to matter
            parameter += 0.1 * torch.randn_like(parameter)
    adapter = TransformersAdapter.wrap(model, Tokenizer(), name=family)
    return adapter


def documents(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(1)
    found = []
    for length in lengths:
        ids = [1, *torch.randint(3, 60, (length - 1,), generator=generator).tolist()]
        found.append(Tokenized(ids, [i == 1 for i in ids], [i == 1 for i in ids]))
    return found


def rows_of(*rows, length=30):
    numbered = iter(range(100))
    return batch_of([[Piece(next(numbered), 0, tokens, len(tokens.ids)) for tokens in row] for row in rows], length)


def packed_rows():
    nine, three, twelve, one, fifteen, eight = documents()
    return rows_of([nine, three, twelve, one], [fifteen, eight])


def largest_difference(adapter, tokens, *points):
    packed = adapter.activations(tokens, points)
    tokens = TokenBatch(tokens.ids, tokens.attention, tokens.bos, tokens.special, {}, tokens.document)
    worst = 0.0
    for row in range(len(tokens.ids)):
        for number in set(tokens.document[row].tolist()) - {-1}:
            here = tokens.document[row] == number
            alone = tokens.sequences(row, row + 1).mapped(lambda tensor, here=here: tensor[:, here])
            for point, (found,) in adapter.activations(alone, points).items():
                difference = packed[point][row, here] - found
                worst = max(worst, float((difference.norm(dim=-1) / found.norm(dim=-1)).max()))
    return worst


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", DECODERS)
def test_decoders_read_each_document_of_a_row_as_if_it_were_alone(family, attention):
    adapter = adapter_of(family, attention)
    assert largest_difference(adapter, packed_rows(), *adapter.points()) < 1e-5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ENCODERS)
def test_encoders_do_too(family, attention):
    adapter = adapter_of(family, attention, encoder=True)
    assert largest_difference(adapter, packed_rows(), *adapter.points()) < 1e-5


@pytest.mark.parametrize("family", NOT_PACKED)
def test_families_that_cannot_are_refused_and_found_out(family):
    adapter = adapter_of(family, "eager")
    with pytest.raises(ConfigError, match=rf"'{family}' .* cannot read several documents .* pack = false"):
        adapter.activations(packed_rows(), ["layers.0"])
    assert not keeps_documents_apart(adapter, "layers.2", documents())


def test_without_the_means_documents_do_see_each_other():
    """What the tests above would miss if documents never mattered to each other."""
    adapter = adapter_of("Llama")
    tokens = packed_rows()
    across = TokenBatch(tokens.ids, tokens.attention, tokens.bos, tokens.special)
    assert not torch.allclose(
        adapter.activations(across, ["layers.0"])["layers.0"][0, 10],
        adapter.activations(tokens, ["layers.0"])["layers.0"][0, 10],
        rtol=1e-2,
    )


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "GPT2"])
def test_rows_may_be_run_as_one_long_row_as_flash_attention_wants_them(family, monkeypatch):
    adapter, tokens = adapter_of(family, "eager"), packed_rows()
    points = list(adapter.points())
    expected = adapter.activations(tokens, points)
    logits = adapter.logits(tokens, [Edit.add("layers.1", torch.linspace(-1, 1, 16))])
    monkeypatch.setattr(Apart, "flat", property(lambda self: True))
    flat = adapter.activations(tokens, points)
    for point in points:
        assert flat[point].shape == expected[point].shape
        torch.testing.assert_close(
            flat[point][tokens.attention], expected[point][tokens.attention], rtol=1e-4, atol=1e-5
        )
    flat_logits = adapter.logits(tokens, [Edit.add("layers.1", torch.linspace(-1, 1, 16))])
    torch.testing.assert_close(flat_logits[tokens.attention], logits[tokens.attention], rtol=1e-4, atol=1e-5)


def test_logits_and_edits_of_packed_rows_are_those_of_documents():
    adapter, tokens = adapter_of("Llama"), packed_rows()
    edit = Edit.add("layers.1", torch.linspace(-1, 1, 16))
    packed = adapter.logits(tokens, [edit])
    here = tokens.document[1] == 5
    alone = adapter.logits(tokens.sequences(1, 2).mapped(lambda tensor: tensor[:, here]), [edit])
    torch.testing.assert_close(packed[1, here], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["Llama", "OPT"])
def test_padding_may_be_on_the_left_of_packed_rows(family):
    tokens = packed_rows().mapped(lambda tensor: tensor.roll(4, dims=1))
    assert not bool(tokens.attention[:, :4].any())
    assert largest_difference(adapter_of(family), tokens, "layers.2") < 1e-5


def test_half_precision_is_judged_by_its_own_rounding():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    adapter = TransformersAdapter.wrap(model, Tokenizer(), name="half")
    assert keeps_documents_apart(adapter, "layers.2", documents())
    adapter.apart.layout = lambda tokens: {"attention_mask": tokens.attention.long()}
    assert not keeps_documents_apart(adapter, "layers.2", documents())


def test_positions_begin_anew_with_every_document():
    document = torch.tensor([[4, 4, 4, 9, 2, 2, -1, -1], [0, 0, 0, 0, 0, 0, 0, 0]])
    assert positions_within(document).tolist() == [[0, 1, 2, 0, 0, 1, 0, 0], list(range(8))]


@cache
def tiny(which="chat"):
    return ModelChoice.of("transformers", model=f"tiny-pair/{which}").build()


class Source:
    def __init__(self, documents):
        self.found = documents

    def documents(self, *, skip=0):
        return iter(self.found[skip:])


def texts(count=40):
    found = [Text(f"Document {i} says that a list is a mutable sequence. " * (1 + i % 5)) for i in range(count)]
    return [*found, Chat((Message("user", "What is a set?"), Message("assistant", "A collection.")))]


def choice(adapters, reading, **options):
    points = {key: [list(adapter.points())[-1]] for key, adapter in adapters.items()}
    return choose_pack(Source(texts()), adapters, reading, points, context_length=64, **options)


def test_the_shipped_pair_is_packed_and_every_document_begins_with_bos():
    adapters = {"base": tiny("base"), "chat": tiny("chat")}
    assert choice(adapters, tiny()) is True
    assert choice(adapters, tiny(), pack=False) is False and choice(adapters, tiny(), pack="across") == "across"
    tokens = make_reader(Source(texts()), adapters, tiny(), context_length=64).read(40)
    begins = torch.ones_like(tokens.attention)
    begins[:, 1:] = tokens.document[:, 1:] != tokens.document[:, :-1]
    assert bool(tokens.bos[begins & tokens.attention].all()) and int(begins.sum()) > 24
    for adapter in adapters.values():
        assert largest_difference(adapter, tokens, "layers.3") < 1e-5


def test_one_model_that_cannot_keeps_rows_from_being_packed():
    adapters = {"llama": adapter_of("Llama"), "mamba": adapter_of("Mamba", "eager")}
    assert choice(adapters, adapters["llama"]) is False
    assert choice({"llama": adapters["llama"]}, adapters["llama"]) is True


def test_an_adapter_that_knows_nothing_of_packed_rows_is_found_out():
    class Old(TransformersAdapter):
        def activations(self, tokens, points):
            return super().activations(TokenBatch(tokens.ids, tokens.attention, tokens.bos, tokens.special), points)

    model = adapter_of("Llama").model
    old = Old.wrap(model, Tokenizer(), name="old")
    assert choice({"m": old}, old) is False


def test_the_difference_of_two_models_and_synthetic_models_are_packed():
    pair = {
        key: {"name": "transformers", "model": f"tiny-pair/{which}"}
        for key, which in (("before", "base"), ("after", "chat"))
    }
    difference = ModelChoice.of("difference", **pair).build()
    assert choice({"d": difference}, difference) is True
    synthetic = ModelChoice.of("synthetic").build()
    source = Source([TokenIds((5, 6, 7))] * 20)
    assert choose_pack(source, {"s": synthetic}, synthetic, {"s": ["x"]}, context_length=16) is True


def test_readers_of_two_tokenizers_pack_both_sides():
    adapters = {"chat": tiny(), "other": TransformersAdapter.wrap(adapter_of("GPT2").model, Letters(), name="letters")}
    assert choice(adapters, tiny()) is True
    tokens = make_reader(Source(texts()), adapters, tiny(), context_length=64).read(12)
    partner = tokens.partners["other"]
    assert tokens.is_packed and partner.tokens.is_packed
    paired = partner.position_BT >= 0
    assert int(paired.sum()) > 100
    # A token and its partner are of one document.
    assert torch.equal(partner.gather(partner.tokens.document)[paired], tokens.document[paired])
    assert largest_difference(tiny(), tokens, "layers.3") < 1e-5


def test_two_tokenizers_cannot_run_documents_together():
    adapters = {"chat": tiny(), "other": adapter_of("GPT2")}
    with pytest.raises(ConfigError, match="'across' runs documents of one tokenizer together"):
        make_reader(Source(texts()), adapters, tiny(), context_length=64, pack="across")
