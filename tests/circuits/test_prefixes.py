"""Pulling back through the beginning of a prompt gives what pulling back through all of it gives."""

import torch

from circuit_models import clt, models, tiny
from crosscoders.circuits.attribution import attribution_graph
from crosscoders.circuits.prefixes import Prefixes
from crosscoders.circuits.prompt import ExplainedPrompt
from crosscoders.circuits.replacement import ReplacementModel
from crosscoders.models.linear import FINAL

LONG = [1, *(3 + 5 * i % 28 for i in range(35))]


def explained(name="clt"):
    model = ReplacementModel(models(name), tiny())
    tokens = model.row(LONG)
    return ExplainedPrompt(model, tokens, model.kept(tokens))


def test_a_half_a_quarter_and_so_on_as_positions_need():
    prefixes = explained().prefixes
    assert [prefixes.length(p) for p in (0, 8, 9, 17, 18, 35)] == [9, 9, 18, 18, 36, 36]


def test_derivatives_are_those_of_the_whole_prompt():
    for name in ("clt", "clt with skips", "attention too"):
        prompt = explained(name)
        point = prompt.model.sets[-1].read
        vector_RD = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
        for positions in ([3, 0, 8, 7, 5], [17, 1, 9, 4, 12], [30, 0, 35, 20, 3]):
            position_R = torch.tensor(positions)
            part, whole = (one.pull(point, vector_RD, position_R) for one in (prompt.prefixes, prompt.linear))
            assert part.keys() == whole.keys()
            for source, whole_RTD in whole.items():
                length = part[source].shape[1]
                assert length == prompt.prefixes.length(max(positions)) and not whole_RTD[:, length:].any()
                torch.testing.assert_close(part[source], whole_RTD[:, :length], rtol=1e-4, atol=1e-5)


def test_the_whole_is_used_where_its_beginning_alone_is_another_map():
    prompt = explained()
    whole = prompt.linear

    class Other:
        values = {FINAL: 1.1 * whole.values[FINAL][:9]}

    prefixes = Prefixes(prompt.tokens, whole, lambda tokens: Other())
    vector_RD, position_R = torch.ones(1, 16), torch.tensor([2])
    found = prefixes.pull("layers.1.mlp_input", vector_RD, position_R)
    expected = whole.pull("layers.1.mlp_input", vector_RD, position_R)
    assert all(torch.equal(found[point], expected[point]) for point in expected)


def test_a_long_prompt_adds_up():
    model = ReplacementModel(clt(tiny()), tiny())
    for batch_size in (4, 64):
        graph = attribution_graph(model, LONG, progress=False, batch_size=batch_size)
        assert graph.num_latents > 100 and graph.gap() < 2e-6
