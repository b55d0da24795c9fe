"""What of a model is loaded: the encoder of an encoder with a decoder, the tower of text, the decoder of a model that
also sees images."""

import pytest
import torch
import transformers as t

from crosscoders import ConfigError, ModelChoice, ReadsText, Text
from crosscoders.models.linear import one_row
from crosscoders.testing import ModelAdapterSuite
from crosscoders_adapters.foreign import TINY_PAIR
from crosscoders_adapters.transformers import TransformersAdapter
from letters import Tokenizer
from small_models import SIZES, made

T5 = {
    "vocab_size": 32,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
SEQ2SEQ = {
    "vocab_size": 32,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
LLAMA = {**SIZES, "num_key_value_heads": 1, "head_dim": 8}
IMAGES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
TOWERS = {"text_config": SIZES, "vision_config": IMAGES}


def t5(**more):
    return t.T5Config(**T5, **more)


def esm():
    return t.EsmConfig(**SIZES, mask_token_id=3, position_embedding_type="rotary")


def clip():
    return t.CLIPConfig(**TOWERS, projection_dim=8)


def llava():
    vision = t.CLIPVisionConfig(**IMAGES)
    return t.LlavaConfig(text_config=t.LlamaConfig(**LLAMA), vision_config=vision, image_token_index=31)


def gemma3():
    return t.Gemma3Config(text_config={**LLAMA, "query_pre_attn_scalar": 8}, vision_config=IMAGES)


def qwen2_vl():
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 16}
    text = {**SIZES, "num_key_value_heads": 1, "rope_parameters": rope}
    return t.Qwen2_5_VLConfig(text_config=text, vision_config={**vision, "fullatt_block_indexes": [1]})


CASES = {
    "T5 as a whole": (t.T5ForConditionalGeneration, t5, "T5EncoderModel", False),
    "gated T5": (t.T5ForConditionalGeneration, lambda: t5(feed_forward_proj="gated-gelu"), "T5EncoderModel", False),
    "a T5 encoder alone, as ProtT5": (t.T5EncoderModel, t5, "T5EncoderModel", False),
    "UMT5": (t.UMT5ForConditionalGeneration, lambda: t.UMT5Config(**T5), "UMT5EncoderModel", False),
    "BART": (t.BartForConditionalGeneration, lambda: t.BartConfig(**SEQ2SEQ), "BartEncoder", False),
    "Marian": (t.MarianMTModel, lambda: t.MarianConfig(**SEQ2SEQ), "MarianEncoder", False),
    "ESM": (t.EsmForMaskedLM, esm, "EsmModel", False),
    "CLIP": (t.CLIPModel, clip, "CLIPTextModel", False),
    "SigLIP": (t.SiglipModel, lambda: t.SiglipConfig(**TOWERS), "SiglipTextModel", False),
    "LLaVA": (t.LlavaForConditionalGeneration, llava, "LlavaForConditionalGeneration", True),
    "Gemma 3": (t.Gemma3ForConditionalGeneration, gemma3, "Gemma3ForConditionalGeneration", True),
    "Qwen 2.5 VL": (
        t.Qwen2_5_VLForConditionalGeneration,
        qwen2_vl,
        "Qwen2_5_VLForConditionalGeneration",
        True,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_reads_text_is_loaded_and_its_layers_add_up(tmp_path, name):
    model_class, config, expected, causal = CASES[name]
    made(model_class, config()).save_pretrained(tmp_path)
    t.AutoTokenizer.from_pretrained(TINY_PAIR / "base").save_pretrained(tmp_path)
    adapter = ModelChoice.of("transformers", model=str(tmp_path)).build()
    assert (type(adapter.model).__name__, adapter.causal) == (expected, causal)
    found = adapter.activations(one_row([5, 9, 7, 6]), list(adapter.points()))
    after_norms = name in ("BART", "Marian")  # a norm follows each sum, which the adapter has checked
    assert {part.normed_after for part in adapter._parts} == {after_norms}
    for layer in () if after_norms else ("layers.0", "layers.1"):
        before, attention, mlp, after = (found[f"{layer}{part}"] for part in (".input", ".attention", ".mlp", ""))
        torch.testing.assert_close(before + attention + mlp, after, rtol=1e-4, atol=1e-5)
    if causal:
        assert adapter.logits(one_row([5, 9, 7])).shape == (1, 3, 32)
        assert adapter.longest_context() in (None, 64)  # not the patches of its images
    with pytest.raises(ConfigError, match="embeddings for the token ids below 32"):
        adapter.tokenize(Text("The tokenizer is that of another model."))


class TestT5(ModelAdapterSuite):
    capabilities = (ReadsText,)

    @pytest.fixture
    def adapter(self):
        return TransformersAdapter.wrap(made(t.T5EncoderModel, t5()), Tokenizer(), name="t5")


class TestEsm(ModelAdapterSuite):
    capabilities = (ReadsText,)
    keeps_documents_apart = False  # it makes positions from the mask

    @pytest.fixture
    def adapter(self):
        return TransformersAdapter.wrap(made(t.EsmModel, esm()), Tokenizer(), name="esm")


class TestClipText(ModelAdapterSuite):
    capabilities = (ReadsText,)

    @pytest.fixture
    def adapter(self):
        model = made(t.CLIPModel, clip()).text_model
        return TransformersAdapter.wrap(model, Tokenizer(), name="clip")


class TestLlava(ModelAdapterSuite):
    @pytest.fixture
    def adapter(self):
        model = made(t.LlavaForConditionalGeneration, llava())
        return TransformersAdapter.wrap(model, Tokenizer(), name="llava")


def test_an_encoder_with_a_decoder_in_memory_is_read_by_its_encoder():
    whole = made(t.T5ForConditionalGeneration, t5())
    adapter = TransformersAdapter.wrap(whole, Tokenizer(), name="t5")
    assert adapter.model is whole.get_encoder() and not adapter.causal
    states = whole.encoder(input_ids=torch.tensor([[5, 9, 7]]), output_hidden_states=True).hidden_states
    found = adapter.activations(one_row([5, 9, 7]), ["layers.0"])["layers.0"]
    torch.testing.assert_close(found, states[1])
