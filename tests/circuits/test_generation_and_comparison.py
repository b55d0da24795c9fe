"""Text written under interventions, and two graphs of one prompt side by side."""

import numpy as np
import pytest
import torch

from circuit_models import NAMES, PROMPT, clt, models, tiny
from crosscoders import AnalysisError, TokenIds
from crosscoders.circuits.attribution import attribution_graph
from crosscoders.circuits.compare import compare_graphs
from crosscoders.circuits.generation import generate_intervened
from crosscoders.circuits.interventions import Intervention, intervene
from crosscoders.circuits.replacement import ReplacementModel


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("positions", [None, slice(3, None), slice(-2, None), slice(2, 9), [1, -1], 4])
def test_text_with_a_cache_is_that_of_whole_passes(name, positions):
    """Greedy text, step by step with a cache, against the intervention on the whole growing text."""
    model = ReplacementModel(models(name), tiny())
    interventions = [
        Intervention(0, 2, ("clamp", 6.0), positions),
        Intervention(model.sets[-1].layer, model.sets[-1].first + 3, ("scale", -2.0), positions),
        Intervention(0, 2, 1.0, positions),
    ]
    ids = list(PROMPT)
    last = len(PROMPT)
    at = positions
    if isinstance(positions, slice) and positions.start < 0:
        at = slice(positions.start + last, None)  # counted from the end of the prompt, not of what was written
    elif isinstance(positions, list):
        at = [place % last for place in positions]
    changed = [Intervention(one.layer, one.index, one.change, at) for one in interventions]
    written = []
    for _ in range(6):
        logits_V = intervene(model, TokenIds(tuple(ids)), changed, hold_attention=False).logits_TV[-1]
        token = int(logits_V.argmax())
        if token in tiny().end_tokens():
            break
        written.append(token)
        ids.append(token)
    found = generate_intervened(model, PROMPT, interventions, max_new_tokens=6)
    assert found == tiny().text(written)


def test_interventions_change_what_is_written_and_none_changes_nothing():
    model = ReplacementModel(clt(tiny()), tiny())
    decoder, ids = tiny().decoder(), torch.tensor([PROMPT])
    plain = []
    for _ in range(5):
        token = int(decoder.advance(ids, torch.ones_like(ids, dtype=torch.bool)).argmax())
        plain.append(token)
        ids = torch.tensor([[token]])
    assert generate_intervened(model, PROMPT, [], max_new_tokens=5) == tiny().text(plain)
    driven = {
        generate_intervened(model, PROMPT, [Intervention(layer, 1, ("clamp", 40.0))], max_new_tokens=5)
        for layer in range(3)
    }
    assert driven != {tiny().text(plain)}
    with pytest.raises(AnalysisError, match="no position 7"):
        generate_intervened(model, PROMPT, [Intervention(0, 1, "ablate", 7)])


def test_two_graphs_of_one_prompt():
    """One crosscoder in two models: the model and the same with its last MLP turned off."""
    adapter = tiny()
    crosscoder = clt(adapter)
    first = attribution_graph(ReplacementModel(crosscoder, adapter), PROMPT, targets=[4, 9], progress=False)
    weight = adapter.model.model.layers[0].mlp.down_proj.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(0.2)
        second = attribution_graph(ReplacementModel(crosscoder, adapter), PROMPT, targets=[4, 8], progress=False)
        weight.copy_(kept)
    found = compare_graphs(first, second)
    for one, other in found.common:
        if one < first.logits.start:
            assert first.name(one) == second.name(other)
    latents = [set(map(tuple, graph.latent_n3.tolist())) for graph in (first, second)]
    only = {tuple(first.latent_n3[n].tolist()) for n in found.only_in(0) if n < first.num_latents}
    assert only == latents[0] - latents[1] and only
    assert [second.targets[n - second.logits.start].token for n in found.only_in(1) if n >= second.logits.start] == [8]
    table = found.edges(5).rows
    assert len(table) == 5 and all(row[4] == pytest.approx(row[3] - row[2], abs=1e-5) for row in table)
    changes = [abs(row[4]) for row in table]
    assert changes == sorted(changes, reverse=True)
    pairs = found.common
    before = first.edges_MM.toarray()[np.ix_(*[[a for a, _ in pairs]] * 2)]
    after = second.edges_MM.toarray()[np.ix_(*[[b for _, b in pairs]] * 2)]
    assert changes[0] == pytest.approx(np.abs(after - before).max(), rel=1e-5)
    nodes = found.nodes(3).rows
    assert abs(nodes[0][2] - nodes[0][1]) >= abs(nodes[1][2] - nodes[1][1])
    same = compare_graphs(first, first)
    assert same.only_in(0) == [] and all(row[4] == 0 for row in same.edges().rows)
    other = attribution_graph(ReplacementModel(crosscoder, adapter), PROMPT[:-1], progress=False)
    with pytest.raises(AnalysisError, match="different tokens"):
        compare_graphs(first, other)
