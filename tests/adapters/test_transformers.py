"""The transformers adapter on tiny random models of many families, made from their configs."""

import gc
import sys
from functools import cache

import pytest
import torch
import transformers

from crosscoders import (
    Chat,
    ConfigError,
    Edit,
    Message,
    ModelChoice,
    ReadsText,
    Site,
    SiteError,
    Text,
    build_crosscoder,
)
from crosscoders.crosscoder.initialise import initialise
from crosscoders.models.linear import one_row
from crosscoders.models.tokens import TokenBatch
from crosscoders.testing import ModelAdapterSuite
from crosscoders_adapters.transformers import TransformersAdapter
from letters import Tokenizer

SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA_LIKE = {**SMALL, "num_key_value_heads": 1, "head_dim": 8}
FAMILIES = {
    "llama": (transformers.LlamaConfig, LLAMA_LIKE),
    "mistral": (transformers.MistralConfig, LLAMA_LIKE),
    "qwen2": (transformers.Qwen2Config, LLAMA_LIKE),
    "qwen3": (transformers.Qwen3Config, LLAMA_LIKE),
    "gemma2": (transformers.Gemma2Config, {**LLAMA_LIKE, "query_pre_attn_scalar": 8}),
    "gemma3": (transformers.Gemma3TextConfig, {**LLAMA_LIKE, "query_pre_attn_scalar": 8}),
    "olmo2": (transformers.Olmo2Config, LLAMA_LIKE),
    "phi3": (transformers.Phi3Config, LLAMA_LIKE),
    "gpt2": (
        transformers.GPT2Config,
        {
            "vocab_size": 32,
            "n_embd": 16,
            "n_layer": 3,
            "n_head": 2,
            "n_positions": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "gpt_neox": (transformers.GPTNeoXConfig, SMALL),
    "gpt_neo": (
        transformers.GPTNeoConfig,
        {
            "vocab_size": 32,
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "intermediate_size": 24,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local"], 1]],
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "granite": (transformers.GraniteConfig, {**LLAMA_LIKE, "residual_multiplier": 0.22, "logits_scaling": 8.0}),
    "cohere": (transformers.CohereConfig, {**LLAMA_LIKE, "logit_scale": 0.0625, "use_qk_norm": True}),
    "gemma": (transformers.GemmaConfig, LLAMA_LIKE),
    "phi": (transformers.PhiConfig, SMALL),
    "qwen3_moe": (
        transformers.Qwen3MoeConfig,
        {**LLAMA_LIKE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8},
    ),
    "glm4": (transformers.Glm4Config, LLAMA_LIKE),
    "bloom": (
        transformers.BloomConfig,
        {"vocab_size": 32, "hidden_size": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "falcon": (
        transformers.FalconConfig,
        {**{k: v for k, v in SMALL.items() if k != "intermediate_size"}, "alibi": False, "num_hidden_layers": 2},
    ),
    "opt": (
        transformers.OPTConfig,
        {
            **{k: v for k, v in SMALL.items() if k != "intermediate_size"},
            "ffn_dim": 24,
            "word_embed_proj_dim": 16,
            "num_hidden_layers": 2,
        },
    ),
    "mixtral": (
        transformers.MixtralConfig,
        {**LLAMA_LIKE, "num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 2},
    ),
}


@cache
def make(family):
    config_class, values = FAMILIES[family]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config_class(**values), attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms start at 0 and 1, which would hide mistakes
            parameter += 0.05 * torch.randn_like(parameter)
    return TransformersAdapter.wrap(model, Tokenizer(), name=family)


def test_activations_that_are_not_of_the_tokens_given_are_refused():
    """XLNet has positions first, so that rows would be mixed; XLM's only list of its length has attentions alone."""
    config = transformers.XLNetConfig(vocab_size=32, d_model=16, n_layer=2, n_head=2, d_inner=24)
    adapter = TransformersAdapter.wrap(transformers.XLNetLMHeadModel(config), Tokenizer(), name="xlnet")
    with pytest.raises(ConfigError, match=r"they have the shape \(6, 1, 16\) for 1 rows of 6 tokens"):
        adapter.points()
    config = transformers.XLMConfig(vocab_size=32, emb_dim=16, n_layers=2, n_heads=2, max_position_embeddings=64)
    adapter = TransformersAdapter.wrap(transformers.XLMWithLMHeadModel(config), Tokenizer(), name="xlm")
    assert [point for point in adapter.points() if point.startswith("layers")] == []
    with pytest.raises(SiteError, match="so what was found is not a list of layers"):
        adapter.width("layers.0")


def test_a_layer_that_runs_twice_has_no_points():
    model = make("llama").model
    layers = model.model.layers
    looped = torch.nn.ModuleList([layers[0], layers[1], layers[1]])
    model = transformers.AutoModelForCausalLM.from_config(model.config, attn_implementation="eager")
    model.model.layers = looped
    adapter = TransformersAdapter.wrap(model, Tokenizer(), name="looped")
    assert [point for point in adapter.points() if "layers.0" not in point] == ["final"]
    with pytest.raises(SiteError, match=r"no point 'layers.1': the layer runs 2 times in one forward pass"):
        adapter.width("layers.1")


class _Family(ModelAdapterSuite):
    family: str
    residual = True

    @pytest.fixture
    def adapter(self):
        return make(self.family)

    def test_residual_stream_adds_up(self, adapter):
        """Before the layer, plus what attention and MLP add, is after the layer."""
        found = adapter.activations(self._rows(adapter), list(adapter.points()))
        for layer in range(len(adapter.layers)):
            parts = [found[f"layers.{layer}{part}"] for part in (".input", ".attention", ".mlp")]
            torch.testing.assert_close(sum(parts), found[f"layers.{layer}"], rtol=1e-4, atol=1e-5)

    def test_layers_follow_each_other(self, adapter):
        found = adapter.activations(self._rows(adapter), list(adapter.points()))
        for layer in range(1, len(adapter.layers)):
            assert torch.equal(found[f"layers.{layer}.input"], found[f"layers.{layer - 1}"])

    def test_agrees_with_the_librarys_hidden_states(self, adapter):
        rows = self._rows(adapter, (7,))
        states = adapter.model(input_ids=rows.ids, output_hidden_states=True).hidden_states
        for layer in range(len(adapter.layers)):
            found = adapter.activations(rows, [f"layers.{layer}.input"])[f"layers.{layer}.input"]
            torch.testing.assert_close(found, states[layer], rtol=1e-5, atol=1e-6)

    def test_forward_stops_after_the_last_needed_layer(self, adapter):
        assert adapter.points()  # the first look at a model runs it whole
        reached = []
        handles = [
            layer.register_forward_pre_hook(lambda *_, number=number: reached.append(number))
            for number, layer in enumerate(adapter.layers)
        ]
        adapter.activations(self._rows(adapter), ["layers.0", "layers.0.mlp"])
        for handle in handles:
            handle.remove()
        assert reached == [0]

    def test_no_hooks_are_left_behind(self, adapter):
        count = [sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in adapter.model.modules())]
        adapter.activations(self._rows(adapter), list(adapter.points()))
        adapter.logits(self._rows(adapter), [Edit.add(point, torch.zeros(16)) for point in adapter.points()])
        count.append(sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in adapter.model.modules()))
        assert count[0] == count[1]


for _name in FAMILIES:
    # ALiBi counts its distances from the mask, so that rows of Bloom cannot hold several documents.
    _options = {"family": _name, "keeps_documents_apart": _name != "bloom"}
    if _name in (
        "gpt_neo",
        "bloom",
        "falcon",
    ):  # they have attention functions of their own, not in the library's table
        _options["refuses_linearising"] = rf"'{_name}' .* layers\.0 does not ask the library's table"
    _class = type(f"Test_{_name}", (_Family,), _options)
    globals()[_class.__name__] = _class


def test_a_recorded_activation_is_a_copy():
    """Falcon with parallel attention adds attention to its MLP's output in place, after the hook."""
    adapter = make("falcon")
    rows = TokenBatch(torch.arange(5, 12)[None], *(torch.ones(1, 7, dtype=torch.bool) for _ in range(3)))
    alone = adapter.activations(rows, ["layers.0.mlp"])["layers.0.mlp"]
    among = adapter.activations(rows, ["layers.0.mlp", "layers.1"])["layers.0.mlp"]
    assert torch.equal(alone, among)


def test_parts_that_do_not_add_up_are_left_out_with_the_reason():
    """Bloom with its residual taken after the norm: what attention is given is not the stream."""
    config = transformers.BloomConfig(
        vocab_size=32, hidden_size=16, n_layer=2, n_head=2, apply_residual_connection_post_layernorm=True
    )
    torch.manual_seed(0)
    model = transformers.BloomForCausalLM(config)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    adapter = TransformersAdapter.wrap(model, Tokenizer(), name="odd")
    assert [p for p in adapter.points() if p.startswith("layers.1")] == [
        "layers.1.input",
        "layers.1.mlp_input",
        "layers.1",
    ]
    with pytest.raises(SiteError, match=r"'odd' \(BloomForCausalLM\) has no point 'layers.1.mlp': .*does not add up"):
        adapter.width("layers.1.mlp")


def test_half_precision_tells_multipliers_apart():
    config = transformers.GraniteConfig(**LLAMA_LIKE, residual_multiplier=0.22)
    torch.manual_seed(0)
    model = transformers.GraniteForCausalLM(config).to(torch.bfloat16)
    adapter = TransformersAdapter.wrap(model, Tokenizer())
    assert adapter._parts[1].mlp.factor == pytest.approx(0.22) and "layers.1.mlp" in adapter.points()


class _OddNorm(torch.nn.Module):
    def forward(self, x):
        return x.tanh()


def test_a_model_that_is_not_what_linearising_takes_it_for_is_refused_by_name():
    def llama():
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA_LIKE))

    model = llama()
    model.model.norm = _OddNorm()
    with pytest.raises(ConfigError, match=r"the norm 'model\.norm' \(_OddNorm\) is not a multiple of its input"):
        TransformersAdapter.wrap(model, Tokenizer(), name="odd").hold(one_row([5, 6, 7]))
    model = llama()
    own = model.model.layers[1].self_attn
    own.o_proj = torch.nn.Sequential(own.o_proj, torch.nn.Tanh())
    with torch.no_grad():
        own.o_proj[0].weight *= 30
    with pytest.raises(ConfigError, match=r"'odd' .* activations at '.*' are not affine"):
        TransformersAdapter.wrap(model, Tokenizer(), name="odd").linearise(one_row([5, 6, 7]), cuts={})
    model = llama()
    model.lm_head = torch.nn.Sequential(model.lm_head, torch.nn.Tanh())
    with pytest.raises(ConfigError, match="directions are not known"):
        TransformersAdapter.wrap(model, Tokenizer(), name="odd").readout()


def test_half_precision_is_linearised():
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA_LIKE)).to(torch.bfloat16)
    adapter = TransformersAdapter.wrap(model, Tokenizer())
    linear = adapter.linearise(one_row([5, 6, 7]), cuts={f"layers.{i}.mlp": {} for i in range(3)})
    assert torch.equal(linear.logits, adapter.logits(one_row([5, 6, 7]))[0])


class TestBert(ModelAdapterSuite):
    capabilities = (ReadsText,)

    @pytest.fixture
    def adapter(self):
        torch.manual_seed(0)
        config = transformers.BertConfig(
            **{k: v for k, v in SMALL.items() if k not in ("bos_token_id", "eos_token_id")}
        )
        return TransformersAdapter.wrap(transformers.BertModel(config), Tokenizer(), name="bert")

    def test_points_cover_every_layer(self, adapter):
        assert [p for p in adapter.points() if p.count(".") == 1] == ["layers.0", "layers.1", "layers.2"]
        assert "layers.2.attention" in adapter.points() and "layers.2.mlp" in adapter.points()

    def test_logits_are_refused(self, adapter):
        with pytest.raises(ConfigError, match="encoder"):
            adapter.logits(self._rows(adapter))


@cache
def tiny_chat():
    return ModelChoice.of("transformers", model="tiny-pair/chat").build()


class TestTinyPair(ModelAdapterSuite):
    tolerance = 2e-3

    @pytest.fixture
    def adapter(self):
        return tiny_chat()

    def test_chat_template_marks_special_tokens(self, adapter):
        tokens = adapter.tokenize(Chat((Message("user", "What is join for?"), Message("assistant", "It joins."))))
        texts = adapter.token_texts(tokens.ids)
        special = [text for text, is_special in zip(texts, tokens.special) if is_special]
        assert special == ["<bos>", "<user>", "<assistant>", "<eos>"]
        assert tokens.bos == [True] + [False] * (len(texts) - 1)

    def test_text_begins_with_bos(self, adapter):
        tokens = adapter.tokenize(Text("The quick brown fox"))
        assert tokens.bos[0] and not any(tokens.bos[1:])
        assert adapter.text(tokens.ids) == "The quick brown fox"

    def test_both_models_share_a_vocabulary(self, adapter):
        assert ModelChoice.of("transformers", model="tiny-pair/base").build().vocabulary() == adapter.vocabulary()


def test_saved_models_load_by_path_as_what_they_are(tmp_path):
    torch.manual_seed(0)
    tokenizer = ModelChoice.of("transformers", model="tiny-pair/chat").build().tokenizer
    causal = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA_LIKE))
    encoder = transformers.BertForMaskedLM(transformers.BertConfig(**SMALL))
    for name, model in (("causal", causal), ("encoder", encoder)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    assert ModelChoice.of("transformers", model=str(tmp_path / "causal")).build().causal
    assert not ModelChoice.of("transformers", model=str(tmp_path / "encoder")).build().causal


def test_bfloat16_weights_give_finite_activations():
    adapter = ModelChoice.of("transformers", model="tiny-pair/base", dtype="bfloat16").build()
    tokens = adapter.tokenize(Text("Return the sum."))
    rows = TokenBatch(torch.tensor([tokens.ids]), *(torch.ones(1, len(tokens.ids), dtype=torch.bool) for _ in range(3)))
    assert torch.isfinite(adapter.activations(rows, ["layers.3"])["layers.3"]).all()


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"needs the extra crosscoders\[transformers\]"):
        ModelChoice.of("transformers", model="tiny-pair/base").build()


def test_errors_name_model_and_point(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        ModelChoice.of("transformers", model=str(tmp_path / "nowhere")).build()
    with pytest.raises(ConfigError, match="tiny-pair/chatty"):
        ModelChoice.of("transformers", model="tiny-pair/chatty").build()
    adapter = make("gpt2")
    with pytest.raises(SiteError, match=r"no point 'layers\.9'; it has layers\.0 to layers\.2"):
        adapter.width("layers.9")
    with pytest.raises(ConfigError, match="no chat template"):
        adapter.tokenize(Chat((Message("user", "hi"),)))


def test_memory_does_not_grow_with_the_number_of_batches():
    adapter = make("llama")
    rows = TokenBatch(torch.randint(3, 30, (4, 16)), *(torch.ones(4, 16, dtype=torch.bool) for _ in range(3)))
    counts = []
    for _ in range(4):
        for _ in range(5):
            adapter.activations(rows, list(adapter.points()))
        gc.collect()
        counts.append(sum(torch.is_tensor(o) for o in gc.get_objects()))
    assert counts[1] == counts[2] == counts[3]


@pytest.mark.claim("E8", "a cross-layer transcoder plugged in, with its errors added back, reproduces the logits")
def test_local_replacement_model_reproduces_the_logits():
    """MLP outputs are replaced by the transcoder's, made on the way from what each MLP reads, plus stored errors."""
    adapter = ModelChoice.of("transformers", model="tiny-pair/chat").build()
    reads, writes = ([f"layers.{i}.{part}" for i in range(4)] for part in ("mlp_input", "mlp"))
    sites = tuple(Site(f"m/{point}", adapter.width(point)) for point in (*reads, *writes))
    clt = build_crosscoder("strictly_causal", sites, num_latents=256)
    initialise(clt, decoder_norm=1.0, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(5, 29)[None]
    none = torch.zeros_like(ids, dtype=torch.bool)
    tokens = TokenBatch(ids, ~none, none, none)
    found = adapter.activations(tokens, [*reads, *writes])
    rebuilt = {}

    def transcode(upto, seen):
        """What the transcoder writes to layer `upto`, from the MLP inputs seen so far; later ones do not matter."""
        x = {f"m/{point}": seen.get(point, torch.zeros_like(found[reads[0]]))[0] for point in reads}
        return clt.split(clt(x))[f"m/{writes[upto]}"][None]

    errors = [found[writes[i]] - transcode(i, {p: found[p] for p in reads[: i + 1]}) for i in range(4)]
    seen = {}

    def record(point):
        def apply(activation):
            seen[point] = activation
            return activation

        return apply

    def replace(i):
        def apply(activation):
            rebuilt[i] = transcode(i, seen)
            return rebuilt[i] + errors[i]

        return apply

    edits = [Edit(reads[i], record(reads[i])) for i in range(4)] + [Edit(writes[i], replace(i)) for i in range(4)]
    torch.testing.assert_close(adapter.logits(tokens, edits), adapter.logits(tokens), rtol=1e-4, atol=1e-4)
    assert all(rebuilt[i].norm() > 0.1 * found[writes[i]].norm() for i in range(4))
    # Without the errors the model is another one.
    errors = [torch.zeros_like(error) for error in errors]
    bare = edits[:4] + [Edit(writes[i], replace(i)) for i in range(4)]
    assert not torch.allclose(adapter.logits(tokens, bare), adapter.logits(tokens), atol=0.1)


def test_a_masked_model_gives_no_next_token_logits_whatever_its_head_is_called():
    config = transformers.RobertaConfig(**{**SMALL, "max_position_embeddings": 66})
    adapter = TransformersAdapter.wrap(transformers.RobertaForMaskedLM(config), Tokenizer(), name="roberta")
    assert hasattr(adapter.model, "lm_head")
    with pytest.raises(ConfigError, match="is an encoder and gives no next-token logits"):
        adapter.decoder()
