"""Models that are quantised, or whose parts have places of their own: the same activations, and a run as usual."""

import json
import sys
from importlib.util import find_spec

import pytest
import torch

from crosscoders import ConfigError, Crosscoder, Edit, ModelChoice, RunConfig, Study, train
from crosscoders.testing import ModelAdapterSuite
from crosscoders_adapters.foreign import TINY_PAIR
from crosscoders_adapters.placement import has_offloaded
from gguf_file import write_gguf

CHAT = "tiny-pair/chat"
ON_DISK = {"model.embed_tokens": "disk", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
ON_DISK |= {"model.layers.3": "cpu", "model.norm": "disk", "model.rotary_emb": "cpu", "lm_head": "disk"}
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


def build(**options):
    return ModelChoice.of("transformers", **{"model": CHAT, **options}).build()


@pytest.fixture(scope="module")
def plain():
    return build()


def rows():
    suite = ModelAdapterSuite()
    return suite._rows(None)


class TestOnDisk(ModelAdapterSuite):
    tolerance = 2e-3
    refuses_linearising = "cannot be linearised while parts of it are offloaded"

    @pytest.fixture(scope="class")
    def adapter(self):
        adapter = build(device_map=ON_DISK)
        assert has_offloaded(adapter.model)
        return adapter

    def test_nothing_is_different(self, adapter, plain):
        points = list(plain.points())
        assert adapter.points() == points
        ours, theirs = adapter.activations(rows(), points), plain.activations(rows(), points)
        assert all(torch.equal(ours[point], theirs[point]) for point in points)
        edits = [Edit.add("layers.1.mlp", torch.ones(adapter.width("layers.1.mlp")))]
        assert torch.equal(adapter.logits(rows(), edits), plain.logits(rows(), edits))
        direction = torch.randn(2, adapter.width("layers.2"))
        assert torch.equal(adapter.read_out("layers.2", direction), plain.read_out("layers.2", direction))
        assert adapter.to(torch.device("cpu")) is adapter and has_offloaded(adapter.model)

    def test_what_linearises_needs_weights_that_stay(self, adapter):
        with pytest.raises(ConfigError, match="cannot be linearised while parts of it are offloaded"):
            adapter.readout()


@needs_bitsandbytes
class TestFourBits(ModelAdapterSuite):
    tolerance = 2e-2
    # Its products have derivatives on GPUs alone.
    refuses_linearising = "" if torch.cuda.is_available() else "quantisation = 'nf4', .* derivatives to go by on CPUs"
    linear_tolerance = 1e-2

    @pytest.fixture(scope="class")
    def adapter(self):
        return build(quantisation="nf4")

    def test_weights_are_rounded_and_said_to_be(self, adapter, plain):
        error = (adapter.logits(rows()).cpu() - plain.logits(rows())).norm() / plain.logits(rows()).norm()
        assert 5e-3 < float(error) < 0.2 and adapter.describe()["quantisation"] == "nf4"
        assert type(adapter.layers[0].mlp.down_proj).__name__ == "Linear4bit"
        assert adapter.to(torch.device("cpu")) is adapter


@needs_bitsandbytes
class TestEightBits(ModelAdapterSuite):
    tolerance = 0.2  # activations are rounded too, and a difference in the last place can cross a step
    keeps_documents_apart = False
    refuses_linearising = "cannot be linearised with quantisation = 'int8'"

    @pytest.fixture(scope="class")
    def adapter(self):
        return build(quantisation="int8")

    def test_weights_are_rounded_less(self, adapter, plain):
        error = (adapter.logits(rows()).cpu() - plain.logits(rows())).norm() / plain.logits(rows()).norm()
        assert 1e-4 < float(error) < 0.02 and adapter.describe()["quantisation"] == "int8"


def gguf(tmp_path):
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    write_gguf(TINY_PAIR / "chat", tmp_path / "models" / "chat.gguf")
    return {"model": str(tmp_path / "models"), "gguf_file": "chat.gguf"}


WAYS = {
    "gguf": gguf,
    "disk": lambda _: {"device_map": ON_DISK},
    "auto": lambda _: {"device_map": "auto"},
    "nf4": lambda _: {"quantisation": "nf4"},
    "int8": lambda _: {"quantisation": "int8", "dtype": "float16"},
}


@pytest.mark.parametrize(
    "way",
    [
        "gguf",
        pytest.param("disk", marks=pytest.mark.slow),
        pytest.param("auto", marks=pytest.mark.slow),
        pytest.param("nf4", marks=[needs_bitsandbytes, pytest.mark.slow]),
        pytest.param("int8", marks=[needs_bitsandbytes, pytest.mark.slow]),
    ],
)
def test_a_run_by_toml_records_how_and_an_analysis_holds_it_so_again(way, tmp_path, monkeypatch):
    options = {"name": "transformers", "model": CHAT, **WAYS[way](tmp_path)}
    # In the folder that the run is started from, there may be files of the names of options.
    monkeypatch.chdir(tmp_path)
    for name in ("chat.gguf", "nf4", "int8", "auto"):
        (tmp_path / name).touch()
    (tmp_path / "text.txt").write_text("A list is returned. " * 300)
    table = "\n".join(
        f"{key} = {json.dumps(value)}"
        if not isinstance(value, dict)
        else f"{key} = {{ {', '.join(f'{json.dumps(k)} = {json.dumps(v)}' for k, v in value.items())} }}"
        for key, value in options.items()
    )
    (tmp_path / "run.toml").write_text(
        f"""
        sites = ["chat/layers.1", "chat/layers.2"]
        output = "{tmp_path}/out"
        device = "cpu"
        tokens = {{ name = "text_files", paths = ["{tmp_path}/text.txt"] }}
        architecture = {{ name = "acausal", num_latents = 32 }}
        loss = {{ name = "batchtopk", k = 4 }}
        activations = {{ context_length = 32, block_tokens = 256, calibration_tokens = 128, held_out_share = 0.0 }}
        training = {{ num_tokens = 256, batch_size = 128, evaluation_tokens = 128, fidelity_tokens = 64 }}
        [models.chat]
        {table}
        """
    )
    train(RunConfig.from_toml(tmp_path / "run.toml"), quiet=True)
    crosscoder = Crosscoder.from_pretrained(str(tmp_path / "out" / "crosscoder"))
    recorded = crosscoder.info.recipe["models"]["chat"]
    told = {key: value for key, value in options.items() if key != "model"}
    assert {key: recorded[key] for key in told} == told
    study = Study.of(crosscoder, num_tokens=64)
    held = study.adapter("chat")
    described = crosscoder.info.models["chat"]
    assert held.describe() | {"model": ""} == {key: described[key] for key in held.describe()} | {"model": ""}
    assert has_offloaded(held.model) == (way == "disk")
    assert study.evaluate().explained_variance.keys() == {"chat/layers.1", "chat/layers.2"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"merge": True}, "merge = true needs an adapter to merge: name one by `lora`"),
        ({"quantisation": "nf4", "lora": "x", "merge": True}, "'nf4' and merge = true exclude each other"),
        ({"quantisation": "int8", "device_map": {"": "disk"}}, "'int8' and parts of the device_map on 'disk' exclude"),
        (
            {"lora": "x", "device_map": {"a": "cpu", "b": "disk"}},
            "`lora` and parts of the device_map on 'disk' exclude",
        ),
        ({"gguf_file": "x.gguf", "device_map": {"": "disk"}}, "`gguf_file` and parts of the device_map on 'disk'"),
        ({"quantisation": "nf4", "gguf_file": "x.gguf"}, "'nf4' and `gguf_file` exclude each other"),
        ({"quantisation": "fp4"}, "quantisation"),
        ({"device_map": "everywhere"}, "device_map should be auto, .* or a table .*, not 'everywhere'"),
        ({"device_map": {}}, "device_map should be auto"),
        ({"device_map": {"lm_head": 1.5}}, "device_map should be auto"),
        ({"device_map": {"lm_head": True}}, "device_map should be auto"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(options, match):
    with pytest.raises(ConfigError, match=match):
        ModelChoice.of("transformers", model=CHAT, **options)


def test_a_device_map_that_leaves_parts_out_or_names_no_device_is_refused():
    with pytest.raises(ConfigError, match="cannot load the model"):
        build(device_map={"lm_head": "disk"})
    with pytest.raises(ConfigError, match="cannot load the model"):
        build(device_map={"": "gpu-of-mine"})


def test_processes_do_not_each_take_all_devices(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="there are 4 processes that would each take them"):
        build(device_map="auto")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"crosscoders\[quantisation\]: pip install 'crosscoders\[quantisation\]'"):
        build(quantisation="nf4")
