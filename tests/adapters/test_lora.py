"""A base model with an adapter of the peft library, in its layers or merged."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from crosscoders import AnalysisError, ConfigError, Crosscoder, ModelChoice, RunConfig, Study, train
from crosscoders.models.in_common import built_together
from crosscoders.testing import ModelAdapterSuite
from crosscoders_adapters.foreign import locate
from crosscoders_adapters.loading import TransformersConfig
from crosscoders_adapters.lora import check_base

BASE = "tiny-pair/base"


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"`lora` needs the extra .*: pip install 'crosscoders\[lora\]'"):
        ModelChoice.of("transformers", model=BASE, lora=str(tmp_path)).build()


@pytest.fixture(scope="module")
def adapter_folder(tmp_path_factory):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = ModelChoice.of("transformers", model=BASE).build().model
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("lora") / "adapter"
    peft.get_peft_model(base, config).save_pretrained(folder)
    return folder


def build(folder, **options):
    return ModelChoice.of("transformers", model=BASE, lora=str(folder), **options).build()


class TestLora(ModelAdapterSuite):
    tolerance = 2e-3

    @pytest.fixture(scope="class")
    def adapter(self, adapter_folder):
        return build(adapter_folder)

    def test_it_is_the_base_with_the_product_added(self, adapter, adapter_folder):
        low_rank = load_file(adapter_folder / "adapter_model.safetensors")
        merged = ModelChoice.of("transformers", model=BASE).build()
        weights = merged.model.state_dict()
        for key, a in low_rank.items():
            if "lora_A" in key:
                name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
                weights[name] += 2 * low_rank[key.replace("lora_A", "lora_B")] @ a
        rows = self._rows(adapter)
        plain = ModelChoice.of("transformers", model=BASE).build().logits(rows)
        for found in (adapter, build(adapter_folder, merge=True)):
            torch.testing.assert_close(found.logits(rows), merged.logits(rows), rtol=1e-3, atol=1e-3)
            assert not torch.allclose(found.logits(rows), plain, atol=0.1)
            assert found.describe()["lora"] == str(adapter_folder)
            assert found.points() == merged.points()


@pytest.mark.filterwarnings("ignore")  # peft warns of some of what is refused
def test_an_adapter_that_does_not_fit_is_refused_by_name(adapter_folder, tmp_path):
    folder = shutil.copytree(adapter_folder, tmp_path / "copy")
    good = load_file(folder / "adapter_model.safetensors")
    some = {key: value for key, value in good.items() if "layers.1.self_attn" not in key}
    save_file(some, folder / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match="its files lack .*layers.1.self_attn.q_proj.lora_A.weight"):
        build(folder)
    save_file({**good, "base_model.model.x.lora_A.weight": torch.ones(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"they have base_model.model.x.lora_A.weight, which has no place"):
        build(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "megatron_config": {"a": 1}}))
    with pytest.raises(ConfigError, match="names a Python module to import"):
        build(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ConfigError, match="is not an adapter"):
        build(folder)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_another_base_is_refused(adapter_folder, tmp_path):
    folder = shutil.copytree(adapter_folder, tmp_path / "copy")

    def made_for(base, **more):
        config = json.loads((adapter_folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(
            json.dumps({**config, "base_model_name_or_path": base, "revision": None, **more})
        )

    with pytest.raises(ConfigError, match="made for the model '.*base', not for 'tiny-pair/chat': .* say lora_base = "):
        ModelChoice.of("transformers", model="tiny-pair/chat", lora=str(folder)).build()
    made_for("somebody/other")
    with pytest.raises(ConfigError, match="was made for the model 'somebody/other', not for 'tiny-pair/base'"):
        build(folder)
    assert build(folder, lora_base="somebody/other").causal
    with pytest.raises(ConfigError, match="was made for the model 'somebody/other', not for 'somebody/else'"):
        build(folder, lora_base="somebody/else")
    # The same model in another place, as far as its name can say.
    for same in (None, "", "/home/somebody/models/base", "C:\\models\\base", "somebody/Base"):
        made_for(same)
        assert build(folder).causal, same


@pytest.mark.parametrize(
    ("named", "revision", "options"),
    [
        ("org/Model", None, {"model": "org/model"}),
        ("org/model", "main", {"model": "org/model", "revision": "v2"}),
        ("org/model", "v2", {"model": "org/model", "revision": "v2"}),
    ],
)
def test_names_on_the_hub_are_compared_whole(named, revision, options, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named, "revision": revision}))
    adapter = locate(str(tmp_path))

    def check(**changed):
        chosen = TransformersConfig(**{**options, **changed}, lora=str(tmp_path))
        check_base(chosen, locate(chosen.model, revision=chosen.revision), adapter)

    check()
    with pytest.raises(ConfigError, match="was made for the model"):
        check(model="other/model")
    with pytest.raises(ConfigError, match="was made for the model"):
        check(model="org/model-2")
    if revision == "v2":
        with pytest.raises(ConfigError, match="at revision 'v2'"):
            check(revision="main")


@pytest.mark.parametrize("order", [("base", "tuned"), ("tuned", "base")])
def test_base_and_adapter_share_one_set_of_weights(adapter_folder, order):
    """Whichever is loaded first; each gives what it gives alone."""
    rows = ModelAdapterSuite()._rows(None)
    tables = {"base": {"model": BASE}, "tuned": {"model": BASE, "lora": str(adapter_folder)}}
    alone = {key: ModelChoice.of("transformers", **table).build() for key, table in tables.items()}
    with built_together():
        both = {key: ModelChoice.of("transformers", **tables[key]).build().to(torch.device("cpu")) for key in order}
        merged = build(adapter_folder, merge=True)
        third = ModelChoice.of("transformers", model=BASE).build()
        half = ModelChoice.of("transformers", model=BASE, dtype="bfloat16").build()

    def weights(adapter):
        return {parameter.data_ptr() for parameter in adapter.model.parameters()}

    own = weights(both["base"])
    assert own < weights(both["tuned"]) and own == weights(third)
    assert not own & weights(merged) and not own & weights(half)
    assert not weights(alone["base"]) & weights(alone["tuned"])
    for key in ("base", "tuned", "base"):
        assert torch.equal(both[key].logits(rows), alone[key].logits(rows))
    assert third.model is not both["base"].model and torch.equal(third.logits(rows), alone["base"].logits(rows))
    with both["tuned"].scaled(0.0):
        assert torch.equal(both["tuned"].logits(rows), alone["base"].logits(rows))


def test_a_pair_by_toml_shares_weights_and_an_analysis_loads_it_again(adapter_folder, tmp_path):
    (tmp_path / "text.txt").write_text("A list is returned. " * 300)
    texts = {"name": "text_files", "paths": [str(tmp_path / "text.txt")]}
    (tmp_path / "run.toml").write_text(
        f"""
        sites = ["base/layers.1", "tuned/layers.1"]
        output = "{tmp_path}/out"
        device = "cpu"
        models.base = {{ name = "transformers", model = "{BASE}" }}
        models.tuned = {{ name = "transformers", model = "{BASE}", lora = "{adapter_folder}" }}
        tokens = {{ name = "text_files", paths = ["{tmp_path}/text.txt"] }}
        architecture = {{ name = "acausal", num_latents = 32 }}
        loss = {{ name = "batchtopk", k = 4 }}
        activations = {{ context_length = 32, block_tokens = 256, calibration_tokens = 128, held_out_share = 0.0 }}
        training = {{ num_tokens = 256, batch_size = 128, evaluation_tokens = 128, fidelity_tokens = 64 }}
        """
    )
    train(RunConfig.from_toml(tmp_path / "run.toml"), quiet=True)
    crosscoder = Crosscoder.from_pretrained(str(tmp_path / "out" / "crosscoder"))
    # Where the adapter lies is nobody else's business; that there is one is on record.
    published = (tmp_path / "out" / "crosscoder" / "config.json").read_text()
    assert str(adapter_folder) not in published and '"lora": "local folder (sha256' in published
    study = Study.of(crosscoder, num_tokens=64)
    base, tuned = study.adapter("base").model, study.adapter("tuned").model
    assert {p.data_ptr() for p in base.parameters()} < {p.data_ptr() for p in tuned.parameters()}
    rows = ModelAdapterSuite()._rows(None)
    before, after = (study.adapter(key).activations(rows, ["layers.1"])["layers.1"] for key in ("base", "tuned"))
    assert not torch.allclose(before, after, atol=0.1)
    # A name alone would quietly take the adapter away.
    with pytest.raises(AnalysisError, match="the model 'tuned' of this crosscoder has an adapter"):
        Study.of(crosscoder, models={"tuned": BASE}, tokens=texts)


class Product(torch.nn.Module):
    """A linear layer with an adapter, as peft lays one out."""

    def __init__(self, linear):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.base_layer, self.scaling = linear, {"default": 2.0}
        self.lora_A = torch.nn.Parameter(0.1 * torch.randn(2, linear.in_features, generator=generator))
        self.lora_B = torch.nn.Parameter(0.1 * torch.randn(linear.out_features, 2, generator=generator))

    def forward(self, x):
        return self.base_layer(x) + self.scaling["default"] * x @ self.lora_A.T @ self.lora_B.T


def test_an_adapter_counts_as_often_as_is_said():
    """Without the library: layers that have what its layers have."""
    plain, adapter = (ModelChoice.of("transformers", model=BASE).build() for _ in range(2))
    for layer in adapter.layers:
        layer.mlp.down_proj = Product(layer.mlp.down_proj)
    suite = ModelAdapterSuite()
    rows = suite._rows(adapter)
    own = adapter.logits(rows)
    with adapter.scaled(0.0):
        torch.testing.assert_close(adapter.logits(rows), plain.logits(rows))
    with adapter.scaled(3.0):
        assert not torch.allclose(adapter.logits(rows), own, atol=0.01)
        for layer in plain.layers:
            change = Product(layer.mlp.down_proj)
            layer.mlp.down_proj.weight.data += 6 * change.lora_B @ change.lora_A
        torch.testing.assert_close(adapter.logits(rows), plain.logits(rows), rtol=1e-3, atol=1e-3)
    assert torch.equal(adapter.logits(rows), own)
    with pytest.raises(ConfigError, match="no adapter in its layers"), plain.scaled(2.0):
        pass


def test_pefts_own_layers_are_scaled(adapter_folder):
    adapter, merged = build(adapter_folder), build(adapter_folder, merge=True)
    plain = ModelChoice.of("transformers", model=BASE).build()
    suite = ModelAdapterSuite()
    rows = suite._rows(adapter)
    with adapter.scaled(0.0):
        torch.testing.assert_close(adapter.logits(rows), plain.logits(rows), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(adapter.logits(rows), merged.logits(rows), rtol=1e-3, atol=1e-3)
