"""A base model with an adapter of the peft library, in its layers or merged."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from crosscoders import ConfigError, ModelChoice
from crosscoders.testing import ModelAdapterSuite

BASE = "tiny-pair/base"


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"`lora` needs the extra crosscoders\[lora\]"):
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
