"""Models load whole and as their files say, without anybody's code, or not at all: one sentence says why."""

import io
import json
import shutil
import warnings

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from crosscoders import ConfigError, ModelChoice
from crosscoders_adapters.foreign import TINY_PAIR

WEIGHTS = "model.safetensors"


def build(folder, **options):
    return ModelChoice.of("transformers", model=str(folder), **options).build()


def refused(folder, match, **options):
    """The one sentence that a model is refused with."""
    with pytest.raises(ConfigError, match=match) as caught:
        build(folder, **options)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 900, text
    return text


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small model with the shipped tokenizer, its output matrix its own."""
    folder = tmp_path_factory.mktemp("models") / "small"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=4096, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(TINY_PAIR / "base").save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def rename(folder, change):
    tensors = {change(key): value for key, value in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "change",
    [
        lambda key: f"_orig_mod.{key}",
        lambda key: f"module.{key}",
        lambda key: f"base_model.model.{key}",
        lambda key: f"_orig_mod.module.{key}",
        lambda key: f"module._orig_mod.{key}",
        lambda key: key.replace("model.layers.1.", "model.layers.1._orig_mod."),
        lambda key: key.replace(".self_attn.", "._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn."),
    ],
    ids=["compiled", "parallel", "adapted", "both", "both ways", "one layer compiled", "sharded"],
)
def test_what_wrappers_put_into_names_is_left_off_and_said(saved, copy, change):
    rename(copy, change)
    with pytest.warns(UserWarning, match="left off"):
        adapter = build(copy)
    expected = build(saved).model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in adapter.model.state_dict().items())
    assert "left off" in adapter.describe()["notes"][0]


def test_missing_weights_are_refused_by_name(copy):
    tensors = {key: value for key, value in load_file(copy / WEIGHTS).items() if "layers.1." not in key}
    save_file(tensors, copy / WEIGHTS, metadata={"format": "pt"})
    text = refused(copy, "they lack model.layers.1.input_layernorm.weight")
    assert "and 4 more" in text


def test_some_names_with_a_wrappers_part_are_refused(copy):
    rename(copy, lambda key: f"module.{key}" if "layers.1." in key else f"other.{key}" if "layers.2." in key else key)
    refused(copy, "they lack .* they have module.model.layers.1")


def test_a_weight_that_is_there_twice_is_refused(copy):
    tensors = load_file(copy / WEIGHTS)
    save_file({**tensors, "_orig_mod.model.norm.weight": torch.zeros(16)}, copy / WEIGHTS, metadata={"format": "pt"})
    refused(copy, "they have _orig_mod.model.norm.weight, which the model has not")


def test_weights_that_the_model_has_not_are_refused_or_passed_over_by_name(copy):
    tensors = load_file(copy / WEIGHTS)
    save_file({**tensors, "v_head.summary.weight": torch.zeros(1, 16)}, copy / WEIGHTS, metadata={"format": "pt"})
    refused(copy, "they have v_head.summary.weight")
    assert build(copy, ignore_weights=["v_head.*"]).causal


def test_weights_of_another_shape_are_refused_by_name(copy):
    tensors = load_file(copy / WEIGHTS)
    tensors["model.norm.weight"] = torch.ones(12)
    save_file(tensors, copy / WEIGHTS, metadata={"format": "pt"})
    refused(copy, r"of another shape are model.norm.weight \(\[12\] in the files, \[16\] in the model\)")


def test_tied_weights_need_not_be_in_the_files():
    assert "lm_head.weight" not in load_file(TINY_PAIR / "base" / WEIGHTS)
    assert build("tiny-pair/base").notes == ()


def test_a_classifier_has_no_logits_to_give(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForSequenceClassification"]}))
    tensors = load_file(copy / WEIGHTS)
    tensors["score.weight"] = tensors.pop("lm_head.weight")[:2].clone()
    save_file(tensors, copy / WEIGHTS, metadata={"format": "pt"})
    refused(copy, "they lack lm_head.weight; they have score.weight")


def test_encoders_may_leave_heads_in_the_files_but_no_layer(tmp_path):
    config = transformers.BertConfig(
        vocab_size=4096, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(TINY_PAIR / "base").save_pretrained(tmp_path)
    assert not build(tmp_path).causal
    tensors = load_file(tmp_path / WEIGHTS)
    tensors["bert.encoder.layer.2.output.dense.bias"] = torch.zeros(16)
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    refused(tmp_path, "they have .*encoder.layer.2.output.dense.bias")


def test_damaged_files_are_said_to_be_so(copy):
    content = (copy / WEIGHTS).read_bytes()
    for cut in (len(content) // 2, 4, 0):
        (copy / WEIGHTS).write_bytes(content[:cut])
        refused(copy, "damaged or cut off")
    (copy / WEIGHTS).write_bytes(content)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        good = (copy / name).read_text()
        for text in (good[: len(good) // 2], "[]", "", "null"):
            (copy / name).write_text(text)
            refused(copy, f"cannot load .*: its file {name} is damaged or cut off")
        (copy / name).write_text(good)
    (copy / WEIGHTS).unlink()
    refused(copy, "cannot load the model")


def test_a_model_that_gives_nan_is_said_to_be_damaged(copy):
    tensors = load_file(copy / WEIGHTS)
    tensors["model.layers.1.mlp.down_proj.weight"][0] = torch.nan
    save_file(tensors, copy / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="gives NaN for a row of tokens: its weights are damaged"):
        build(copy).points()


def test_a_quantised_model_without_its_library_names_it(copy):
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (copy / "config.json").write_text(json.dumps(config))
    refused(copy, "needs a library that is not installed: .*bitsandbytes")


def test_an_adapter_is_said_to_be_one(copy):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "somebody/base"}
    (copy / "adapter_config.json").write_text(json.dumps(adapter))
    refused(copy, "both a whole model and an adapter")
    (copy / "config.json").unlink()
    refused(copy, "is an adapter .*of the model 'somebody/base'")


def test_a_model_without_a_tokenizer_can_be_given_one(copy):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    refused(copy, "has no tokenizer; name one")
    assert build(copy, tokenizer="tiny-pair/chat").has_chat_template()
    (copy / "tokenizer_config.json").write_text("{}")
    refused(copy, "`tokenizer`")


def test_a_folder_in_a_folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "runs" / "last")
    assert build(tmp_path / "runs", subfolder="last").causal
    refused(tmp_path / "runs", "has no folder 'first'", subfolder="first")


@pytest.mark.parametrize("model", ["/no/such/folder", "./nothing", "../nothing", "~/nothing-here", "a/b/c", "c:\\x"])
def test_what_cannot_be_a_hub_id_is_never_asked_for_there(hub, model):
    refused(model, "no folder .* on this machine")
    assert not hub.requests


def test_nobodys_code_runs_and_nothing_is_asked(copy, tmp_path, monkeypatch):
    """In the place of the config, the model and the tokenizer; an answer on the terminal changes nothing."""
    ran = tmp_path / "RAN"
    code = (
        f"open({str(ran)!r}, 'w').write('x')\nfrom transformers import *\nclass C(LlamaConfig): model_type = 'mine'\n"
    )
    (copy / "c.py").write_text(code)
    answers = io.StringIO("y\n" * 10)
    monkeypatch.setattr("sys.stdin", answers)
    good = {name: json.loads((copy / name).read_text()) for name in ("config.json", "tokenizer_config.json")}
    stranger = {"model_type": "mine", "auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "c.C"}}
    (copy / "config.json").write_text(json.dumps(stranger))
    refused(copy, "code of its own repository, which is never run here; .*wrap")
    (copy / "config.json").write_text(json.dumps(good["config.json"]))
    tokenizer = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["c.C", None]}}
    (copy / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    refused(copy, "code of its own repository")
    # A family that the library knows is loaded by the library's own code.
    known = {**good["config.json"], "auto_map": stranger["auto_map"], "attn_implementation": "somebody/kernel"}
    (copy / "config.json").write_text(json.dumps(known))
    (copy / "tokenizer_config.json").write_text(json.dumps(good["tokenizer_config.json"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert type(build(copy).model).__module__.startswith("transformers.")
    assert not ran.exists() and answers.tell() == 0


def test_pickled_weights_run_nothing(copy, tmp_path):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "RAN"), "w")

    (copy / WEIGHTS).unlink()
    torch.save({"model.norm.weight": Bomb()}, copy / "pytorch_model.bin")
    refused(copy, "cannot load")
    assert not (tmp_path / "RAN").exists()
