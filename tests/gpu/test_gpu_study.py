"""A pretrained crosscoder in hand, on a GPU: every analysis, look, act, graph and dashboard against the CPU."""

import json
import math
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch

from circuit_models import PROMPT, Tokenizer, clt, tiny
from crosscoders import CheckpointError, ModelChoice, Study, analyse
from crosscoders.circuits.attribution import attribution_graph
from crosscoders.circuits.generation import generate_intervened
from crosscoders.circuits.graph_fidelity import graph_fidelity
from crosscoders.circuits.groups import Group, intervene_on_group
from crosscoders.circuits.interventions import Intervention, intervene
from crosscoders.circuits.replacement import ReplacementModel
from crosscoders.explorer.gathering import gather
from crosscoders.explorer.records import latent_json
from crosscoders.models.linear import one_row
from crosscoders.testing import ModelAdapterSuite
from crosscoders_adapters.transformers import TransformersAdapter
from goldens import cases, load
from study_of_texts import Texts, shared_study

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
ANALYSES = {
    "causal_kl": {},
    "decoder_norms": {"top": 2},
    "diff": {"kl_tokens": 256},
    "fidelity": {"num_tokens": 512},
    "functional_coherence": {},
    "latent_scaling": {},
    "layers": {},
    "representations": {},
}


@cache
def studies():
    """The same study here and there, with models of their own."""
    here = shared_study()
    crosscoder = deepcopy(here.crosscoder)
    models = {key: ModelChoice.of("transformers", model=f"tiny-pair/{key}").build() for key in ("base", "chat")}
    there = Study(
        crosscoder.to(DEVICE),
        {key: model.to(torch.device(DEVICE)) for key, model in models.items()},
        Texts(),
        activations=here.activations,
        num_tokens=here.num_tokens,
    )
    return here, there


def assert_near(found, expected, where="", *, tolerance=2e-3):
    """The same structure, names and counts, with numbers that are near each other; order by ties may differ."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_near(found[key], value, f"{where}.{key}", tolerance=tolerance)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            assert_near(found[number], value, f"{where}[{number}]", tolerance=tolerance)
    elif isinstance(expected, float):
        if math.isnan(expected):
            assert math.isnan(found), where
        else:
            assert found == pytest.approx(expected, rel=tolerance, abs=tolerance), where


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses_say_the_same(name):
    here, there = studies()
    reports = [analyse(s.crosscoder, [{"name": name, **ANALYSES[name]}], study=s)[0] for s in (here, there)]
    assert_near(json.loads(json.dumps(reports[1].data)), json.loads(json.dumps(reports[0].data)), name, tolerance=0.02)
    assert reports[1].to_html()


def test_latents_are_looked_at():
    here, there = studies()
    text = "Return the sum of a list and join the strings"
    first, second = here.latents(text), there.latents(text)
    assert str(first) == str(second)
    latent = 3
    assert str(here.examples([latent], n=3)) == str(there.examples([latent], n=3))
    assert here.silent() == there.silent()
    assert str(here.logit_effects([latent], n=3)) == str(there.logit_effects([latent], n=3))
    assert_near(there.evaluate(), here.evaluate(), "metrics")


def test_latents_are_acted_on():
    here, there = studies()
    texts = []
    for study in (here, there):
        steered = study.steer({3: 4.0, 5: "ablate", 7: ("clamp", 2.0)}, model="chat")
        texts.append(steered.generate("Return the sum of", max_new_tokens=12, temperature=0.0))
        logits = steered.logits("Return the sum of a list")
        texts.append(logits.float().cpu())
    assert texts[0] == texts[2]
    torch.testing.assert_close(texts[1], texts[3], rtol=1e-3, atol=1e-3)
    effects = [study.ablate([3, 5], "Return the sum of a list", model="chat") for study in (here, there)]
    assert str(effects[0]) == str(effects[1])
    patched = [study.patch("base", "chat", [3, 5], "Return the sum of a list") for study in (here, there)]
    assert str(patched[0]) == str(patched[1])


def test_amplified_texts_are_made_there():
    _, there = studies()
    amplified = there.amplify(alpha=1.0)
    assert len(amplified.generate(["Return the", "Who are you?"], max_new_tokens=6, temperature=1.0)) == 2


def test_a_dashboard_gathers_the_same():
    here, there = studies()
    for first, second in zip(gather(here), gather(there), strict=True):
        assert first.firings == second.firings, first.latent
        assert_near(latent_json(second)["hist"], latent_json(first)["hist"], "hist", tolerance=0.01)
        assert_near(latent_json(second)["top"], latent_json(first)["top"], f"{first.latent}.top", tolerance=0.01)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_graphs_have_the_same_nodes_and_edges(family):
    here = tiny(family)
    model = type(here.model)(here.model.config)
    model.load_state_dict(here.model.state_dict())
    model.config._attn_implementation = "eager"
    there = TransformersAdapter.wrap(model.to(DEVICE).eval(), Tokenizer(), name=family)
    graphs, after, told, measured = [], [], [], []
    for adapter, device in ((here, "cpu"), (there, DEVICE)):
        replaced = ReplacementModel(clt(here).to(device), adapter)
        graph = attribution_graph(replaced, PROMPT, targets=[4, 9], progress=False)
        graphs.append(graph)
        assert graph.gap() < 1e-5
        changes = [Intervention(0, 2, ("clamp", 6.0), 3), Intervention(1, 5, "ablate", None)]
        for mode in ("direct", "iterative"):
            after.append(intervene(replaced, PROMPT, changes, mode=mode).logits_TV.float().cpu())
        told.append(generate_intervened(replaced, PROMPT, changes, max_new_tokens=6))
        assert graph_fidelity(replaced, graph).table()
        group = Group("a", [tuple(place) for place in graph.latent_n3[:2].tolist()])
        measured.append(intervene_on_group(replaced, graph, group).observed_K)
    first, second = graphs
    assert torch.equal(first.latent_n3, second.latent_n3)
    one, other = (torch.from_numpy(graph.edges_MM.toarray()) for graph in graphs)
    torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)
    for mode in range(2):
        torch.testing.assert_close(after[mode + 2], after[mode], rtol=1e-3, atol=1e-4)
    assert told[0] == told[1]
    assert measured[1] == pytest.approx(measured[0], rel=1e-3, abs=1e-4)


class TestAdapter(ModelAdapterSuite):
    """The whole suite with the model on the GPU, and its tokens wherever the suite makes them."""

    @pytest.fixture(scope="class")
    def adapter(self):
        return ModelChoice.of("transformers", model="tiny-pair/chat", dtype="float32").build().to(torch.device(DEVICE))


class TestSpread(ModelAdapterSuite):
    """Half of a model on the GPU, half beside the processor."""

    refuses_linearising = "cannot be linearised while parts of it are offloaded"

    @pytest.fixture(scope="class")
    def adapter(self):
        places = {f"model.layers.{i}": DEVICE + ":0" if i % 2 else "cpu" for i in range(4)}
        rest = {"model.embed_tokens": "cuda:0", "model.norm": "cpu", "model.rotary_emb": "cuda:0", "lm_head": "cuda:0"}
        return ModelChoice.of("transformers", model="tiny-pair/chat", device_map=places | rest).build()


class TestWholeByMap(ModelAdapterSuite):
    @pytest.fixture(scope="class")
    def adapter(self):
        return ModelChoice.of("transformers", model="tiny-pair/chat", device_map="auto").build()


@pytest.mark.parametrize("quantisation", ["nf4", "int8"])
def test_quantised_models_are_read_and_edited(quantisation):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    plain = ModelChoice.of("transformers", model="tiny-pair/chat").build().to(torch.device(DEVICE))
    adapter = ModelChoice.of("transformers", model="tiny-pair/chat", quantisation=quantisation).build()
    rows = ModelAdapterSuite()._rows(None).to(torch.device(DEVICE))
    error = (adapter.logits(rows).float() - plain.logits(rows)).norm() / plain.logits(rows).norm()
    assert 1e-4 < float(error) < 0.2
    if quantisation == "nf4":  # its products have derivatives on GPUs
        cuts = {point: {} for point in adapter.points() if point.endswith(".mlp")}
        linear = adapter.linearise(
            one_row([5, 9, 12, 7], torch.device(DEVICE)), cuts=cuts, reads=["layers.2.mlp_input"]
        )
        pulled = linear.pull(
            "layers.2.mlp_input", torch.ones(1, adapter.width("layers.2.mlp_input")), torch.tensor([3])
        )
        assert all(bool(back_RTD.any()) for back_RTD in pulled.values())
    found = adapter.activations(rows, ["layers.1"])["layers.1"]
    assert found.device.type == DEVICE and bool(torch.isfinite(found).all())


@pytest.mark.parametrize("number", range(0, 100, 9))
def test_foreign_checkpoints_encode_the_same(number):
    folder = Path(__file__).parent.parent / "data" / "goldens"
    names = cases(folder)
    if number >= len(names):
        pytest.skip("there are fewer")
    try:
        crosscoder = load(folder / names[number])
    except CheckpointError:
        pytest.skip("it is one that is refused")
    x_BX = torch.randn(64, crosscoder.layout.width, generator=torch.Generator().manual_seed(0))
    here_BF, here_BX = crosscoder.encode(x_BX).dense(), crosscoder(x_BX)
    there = crosscoder.to(DEVICE)
    torch.testing.assert_close(there.encode(x_BX.to(DEVICE)).dense().cpu(), here_BF, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(there(x_BX.to(DEVICE)).cpu(), here_BX, rtol=1e-3, atol=1e-4)
