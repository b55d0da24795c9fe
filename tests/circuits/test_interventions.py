"""Interventions: direct effects are the graph's edges, and what the other modes let follow."""

import numpy as np
import pytest
import torch
import transformers

from circuit_models import NAMES, PROMPT, SIZES, Tokenizer, clt, models, tiny, transcoder
from crosscoders import AnalysisError, Edit, LatentError
from crosscoders.circuits.attribution import attribution_graph
from crosscoders.circuits.graph_fidelity import graph_fidelity, total_effects
from crosscoders.circuits.interventions import Intervention, intervene
from crosscoders.circuits.prompt import ExplainedPrompt
from crosscoders.circuits.replacement import ReplacementModel
from crosscoders_adapters.transformers import TransformersAdapter


def setting(name="clt", family="llama"):
    adapter = tiny(family)
    model = ReplacementModel(clt(adapter) if name == "clt" else models(name), adapter)
    return model, attribution_graph(model, PROMPT, progress=False, targets=[4, 9])


def changes_of(model, graph, after):
    """Changes of all pre-activations and of the targets."""
    found = []
    for layer, position, index in graph.latent_n3.tolist():
        one, local = model.set_of(layer, index)
        step_D = (after.values[one.read] - after.clean[one.read])[position]
        found.append(one.encoder_rows(torch.tensor([local]))[0] @ step_D)
    final_D = (after.values["final"] - after.clean["final"])[graph.position]
    return torch.cat([torch.stack(found), graph.target_KD @ final_D])


@pytest.mark.parametrize("name", NAMES)
def test_direct_effects_of_latents_are_their_columns(name):
    model, graph = setting(name)
    edges = torch.from_numpy(graph.edges_MM.toarray())
    rows = [*range(graph.num_latents), *range(graph.logits.start, graph.num_nodes)]
    for node in range(0, graph.num_latents, 3):
        layer, position, index = graph.latent_n3[node].tolist()
        twice = [Intervention(layer, index, ("scale", 2.0), position)]
        after = intervene(model, PROMPT, twice, mode="direct")
        size = max(1.0, float(edges[rows].abs().sum(dim=1).max()))
        torch.testing.assert_close(changes_of(model, graph, after), edges[rows, node], rtol=1e-4, atol=1e-6 * size)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_direct_effects_of_errors_and_tokens_are_their_columns(family):
    """One error or embedding is added once more to the held model, whose MLP outputs stay."""
    model, graph = setting(family=family)
    explained = ExplainedPrompt(model, model.row(PROMPT), model.kept(model.row(PROMPT)))
    edges = torch.from_numpy(graph.edges_MM.toarray())
    length, held = len(PROMPT), explained.linear.held
    points = [*{one.read for one in model.sets}, "final"]

    def run(extra):
        seen = {}
        edits = [Edit.replace(p, explained.values[p] + extra.get(p, 0)) for p in ["layers.0.input", *model.cuts]]
        record = [Edit(p, lambda x, p=p: seen.setdefault(p, x[0].clone())[None]) for p in points]
        held.logits([*edits, *record])
        return seen

    clean = run({})
    nodes = [
        graph.errors.start + 1,
        graph.errors.start + length + 4,
        *range(graph.embeddings.start, graph.logits.start),
    ]
    for node in nodes:
        if node < graph.embeddings.start:
            number, position = divmod(node - graph.errors.start, length)
            point, value = model.cuts[number], explained.errors[model.cuts[number]][position]
        else:
            point, position = "layers.0.input", node - graph.embeddings.start
            value = explained.values[point][position]
        seen = run({point: torch.where(torch.arange(length)[:, None] == position, value, 0.0)})

        class After:
            values, clean = seen, None

        After.clean = clean
        rows = [*range(graph.num_latents), *range(graph.logits.start, graph.num_nodes)]
        torch.testing.assert_close(changes_of(model, graph, After), edges[rows, node], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("mode", ["direct", "constrained", "iterative"])
def test_no_intervention_changes_nothing(mode):
    model, _ = setting("clt with skips")
    layers = range(2) if mode == "constrained" else None
    after = intervene(model, PROMPT, [], mode=mode, layers=layers)
    torch.testing.assert_close(after.logits_TV, tiny().logits(model.row(PROMPT))[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.clean_TV, tiny().logits(model.row(PROMPT))[0])


def test_iterative_patching_is_the_change_added_to_the_model():
    """One latent of the last layer: nothing is encoded after it, so the model with its difference added is the same."""
    model, graph = setting()
    node = next(n for n in range(graph.num_latents) if int(graph.latent_n3[n, 0]) == 2)
    layer, position, index = graph.latent_n3[node].tolist()
    one, local = model.set_of(layer, index)
    step_D = (5.0 - graph.value_n[node]) * one.decoder_rows(torch.tensor([local]))["layers.2.mlp"][0]
    step_TD = torch.where(torch.arange(len(PROMPT))[:, None] == position, step_D, 0.0)
    expected = tiny().logits(model.row(PROMPT), [Edit.add("layers.2.mlp", step_TD)])[0]
    clamp = [Intervention(layer, index, ("clamp", 5.0), position)]
    for hold in (True, False):
        found = intervene(model, PROMPT, clamp, hold_attention=hold).logits_TV
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_iterative_patching_encodes_changed_activations():
    model, graph = setting()
    layer, position, index = graph.latent_n3[0].tolist()
    assert layer == 0
    after = intervene(model, PROMPT, [Intervention(0, index, ("clamp", 30.0), position)], hold_attention=False)
    for number, one in enumerate(model.sets):
        own = one.encode(after.values[one.read])
        keep = own.token_N > 0  # BOS is left out
        assert torch.equal(own.latent_N[keep], after.latents[number].latent_N)
        torch.testing.assert_close(own.value_N[keep], after.latents[number].value_N)
    # What every layer reads is the model's own forward pass with what the latent adds in each layer.
    one, local = model.set_of(0, index)
    moves = {
        p: torch.where(torch.arange(len(PROMPT))[:, None] == position, (30.0 - graph.value_n[0]) * row[0], 0.0)
        for p, row in one.decoder_rows(torch.tensor([local])).items()
    }
    edits = [Edit.add(point, move) for point, move in moves.items()]
    torch.testing.assert_close(after.logits_TV, tiny().logits(model.row(PROMPT), edits)[0], rtol=1e-4, atol=1e-4)


def test_constrained_layers_keep_their_outputs_but_for_what_latents_write():
    model, graph = setting()
    layer, position, index = graph.latent_n3[0].tolist()
    one, local = model.set_of(layer, index)
    ablate = [Intervention(layer, index, "ablate", position)]
    whole = intervene(model, PROMPT, ablate, mode="constrained", layers=range(3), hold_attention=True)
    clean = {p: x[0] for p, x in tiny().activations(model.row(PROMPT), model.cuts).items()}
    rows = one.decoder_rows(torch.tensor([local]))
    at = torch.arange(len(PROMPT))[:, None] == position
    edits = [Edit.replace(p, clean[p] + torch.where(at, -graph.value_n[0] * rows[p][0], 0.0)) for p in model.cuts]
    held = tiny().hold(model.row(PROMPT))
    torch.testing.assert_close(whole.logits_TV, held.logits(edits, norms=False)[0], rtol=1e-4, atol=1e-5)
    # With the first layer only, later layers are the model's own, and nothing is written there.
    first = intervene(model, PROMPT, ablate, mode="constrained", layers=[0], hold_attention=False)
    own = tiny().logits(model.row(PROMPT), edits[:1])[0]
    torch.testing.assert_close(first.logits_TV, own, rtol=1e-4, atol=1e-5)


def test_changes_at_several_positions_and_in_turn():
    model, graph = setting()
    layer, _, index = graph.latent_n3[0].tolist()
    everywhere = intervene(model, PROMPT, [Intervention(layer, index, ("clamp", 2.0))], mode="direct")
    listed = intervene(model, PROMPT, [Intervention(layer, index, ("clamp", 2.0), range(1, 7))], mode="direct")
    sliced = intervene(model, PROMPT, [Intervention(layer, index, ("clamp", 2.0), slice(1, None))], mode="direct")
    assert torch.equal(everywhere.logits_TV, listed.logits_TV) and torch.equal(sliced.logits_TV, listed.logits_TV)
    twice = [Intervention(layer, index, ("clamp", 1.5), 2), Intervention(layer, index, 0.5, 2)]
    once = [Intervention(layer, index, ("clamp", 2.0), 2)]
    assert torch.equal(
        intervene(model, PROMPT, twice, mode="direct").logits_TV,
        intervene(model, PROMPT, once, mode="direct").logits_TV,
    )
    moved = everywhere.moved(count=3)
    assert len(moved.rows) == 3 and abs(moved.rows[0][3]) >= abs(moved.rows[1][3]) > 0


def test_what_is_not_there_is_refused():
    model, _ = setting()
    one = Intervention(0, 1, "ablate", 3)
    for options, error, message in (
        ({"mode": "sideways"}, AnalysisError, "mode should be one of direct, constrained, iterative"),
        ({"mode": "constrained"}, AnalysisError, "layers are given with mode='constrained'"),
        ({"layers": [0]}, AnalysisError, "layers are given with"),
        ({"mode": "constrained", "layers": [3]}, AnalysisError, "no layer 3; the model has 3"),
        ({"interventions": [Intervention(0, 12, "ablate")]}, LatentError, "no latent 12 that reads layer 0"),
        ({"interventions": [Intervention(0, 1, "ablate", 7)]}, AnalysisError, "no position 7"),
        ({"interventions": [Intervention(0, 1, "ablate", 0)]}, AnalysisError, "do not count at position 0"),
        ({"interventions": [Intervention(0, 1, "double", 1)]}, LatentError, "'double'"),
    ):
        with pytest.raises(error, match=message):
            intervene(model, PROMPT, **{"interventions": [one], **options})


def test_a_graph_is_compared_with_what_ablations_do():
    model, graph = setting()
    found = graph_fidelity(model, graph, top=6)
    assert found.direct_error < 1e-4 and len(found.table().rows) == 12
    assert found.observed_NK.shape == (6, 2) and np.abs(found.observed_NK).max() > 0.01
    assert -1 <= found.correlation <= 1 and found.explained <= 1
    # Another model's graph is found out.
    other = ReplacementModel(clt(tiny(), seed=5), tiny())
    wrong = graph_fidelity(other, graph, top=6)
    assert wrong.direct_error > 0.01


class _AsMLP(torch.nn.Module):
    """A transcoder in the place of an MLP."""

    def __init__(self, crosscoder):
        super().__init__()
        self.crosscoder = crosscoder

    def forward(self, x):
        site = self.crosscoder.layout.names[0]
        given = {name: x if name == site else torch.zeros_like(x) for name in self.crosscoder.layout.names}
        return self.crosscoder(self.crosscoder.layout.pack(given))


def test_total_effects_are_exact_where_all_gates_stay_as_they_are():
    """A Llama whose MLPs are their transcoders and whose norms hardly depend on what they read."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=1, head_dim=8, rms_norm_eps=1e8)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "variance_epsilon"):
                module.weight.fill_(1e4)
    plain = TransformersAdapter.wrap(model, Tokenizer(), name="linear")
    transcoders = [transcoder(plain, i) for i in range(3)]
    for one in transcoders:
        one.W_enc[0].data.mul_(0.2)
        one.b_enc_F.data.fill_(6.0)
    for layer, one in zip(model.model.layers, transcoders):
        layer.mlp = _AsMLP(one)
    adapter = TransformersAdapter.wrap(model, Tokenizer(), name="linear")
    replacement = ReplacementModel(transcoders, adapter)
    assert replacement.fidelity(PROMPT).kl < 1e-6
    graph = attribution_graph(replacement, PROMPT, progress=False, targets=[4, 9])
    assert graph.num_latents == 30 * 6 and graph.replacement_score > 0.999
    found = graph_fidelity(replacement, graph, top=8)
    np.testing.assert_allclose(found.observed_NK, found.predicted_NK, rtol=0.02, atol=1e-3)
    assert np.abs(found.predicted_NK - found.predicted_direct_NK).max() > 0.02  # paths through other latents count
    assert found.correlation > 0.999 and found.explained > 0.999
    # By hand: shares followed in the order of layers.
    node = found.nodes[0]
    edges, f = graph.edges_MM.toarray().astype(float), graph.value_n.double().numpy()
    share = np.zeros(graph.num_latents)
    share[node] = -1.0
    for layer in (1, 2):
        mine = np.flatnonzero((graph.latent_n3[:, 0] == layer).numpy())
        mine = mine[mine != node]
        share[mine] = edges[np.ix_(mine, range(graph.num_latents))] @ share / f[mine]
    by_hand = edges[graph.logits.start, : graph.num_latents] @ share
    assert total_effects(graph, [node])[0, 0] == pytest.approx(by_hand, rel=1e-9)
