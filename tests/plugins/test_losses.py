"""Losses: conformance, and equality with naive versions written here from the formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscoders import Crosscoder, LatentGroup, LossChoice, Site, StepContext, Wiring
from crosscoders.testing import LossSuite


class TestBatchTopK(LossSuite):
    name = "batchtopk"
    options = {"k": 2}


class TestL1(LossSuite):
    name = "l1"
    options = {"weight": 0.5}


class TestL1WithL2OfNorms(LossSuite):
    name = "l1"
    options = {"weight": 0.5, "norm": "l2"}


def make(widths=(5, 3), num_latents=11, seed=0, dtype=torch.float64):
    sites = tuple(Site(f"m/{i}", width) for i, width in enumerate(widths))
    names = tuple(site.name for site in sites)
    crosscoder = Crosscoder(Wiring(sites=sites, groups=(LatentGroup("all", num_latents, reads=names, writes=names),)))
    generator = torch.Generator().manual_seed(seed)
    for parameter in crosscoder.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=dtype)
    x_BX = torch.randn(17, sum(widths), generator=generator, dtype=dtype)
    return crosscoder, x_BX


def context(num_tokens=17, **changes):
    return StepContext(**{"step": 50, "total_steps": 100, "warmed_up": True, "num_tokens": num_tokens, **changes})


@torch.no_grad()
def naive_parts(crosscoder, x_BX):
    """Latents and reconstruction, one token and one latent at a time."""
    W_enc, W_dec = crosscoder.W_enc[0], crosscoder.W_dec[0]
    f = [[max(0.0, float(x @ W_enc[i] + crosscoder.b_enc_F[i])) for i in range(len(W_enc))] for x in x_BX]
    edges = [0, *torch.tensor([s.width for s in crosscoder.sites]).cumsum(0).tolist()]
    norms = [[float(row[a:b].norm()) for a, b in zip(edges, edges[1:])] for row in W_dec]
    return f, norms


@torch.no_grad()
def naive_reconstruction_loss(crosscoder, x_BX, f):
    total = 0.0
    for x, active in zip(x_BX, f):
        x_hat = crosscoder.b_dec_X.detach().clone()
        for value, row in zip(active, crosscoder.W_dec[0]):
            x_hat = x_hat + value * row.detach()
        total += float((x - x_hat).square().sum())
    return total / len(x_BX)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_l1_equals_the_formula(norm):
    crosscoder, x_BX = make()
    loss = LossChoice.of("l1", weight=0.7, norm=norm).build()
    terms = loss(crosscoder, x_BX, context()).terms
    f, norms = naive_parts(crosscoder, x_BX)
    assert terms["reconstruction"].item() == pytest.approx(naive_reconstruction_loss(crosscoder, x_BX, f), rel=1e-5)
    n = [sum(row) if norm == "l1" else math.sqrt(sum(v * v for v in row)) for row in norms]
    penalty = sum(value * n[i] for active in f for i, value in enumerate(active)) / len(x_BX)
    assert terms["sparsity"].item() == pytest.approx(0.7 * penalty, rel=1e-5)


def test_l1_gradient_flows_through_decoder_norms():
    crosscoder, x_BX = make()
    LossChoice.of("l1").build()(crosscoder, x_BX, context()).terms["sparsity"].backward()
    assert crosscoder.W_dec[0].grad.abs().sum() > 0


def test_l1_weight_ramps_linearly():
    loss = LossChoice.of("l1", weight=2.0, ramp_share=0.5).build()
    weights = [loss.weight(context(step=step)) for step in (0, 24, 49, 50, 99)]
    assert weights == pytest.approx([2.0 / 50, 1.0, 2.0, 2.0, 2.0])


def test_site_norms_of_6_and_8_cost_14_as_a_sum_and_10_as_a_concatenation():
    """E1."""
    costs = {}
    for norm in ("l1", "l2"):
        crosscoder, _ = make(widths=(2, 2), num_latents=1)
        crosscoder.W_enc[0].data = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
        crosscoder.W_dec[0].data = torch.tensor([[6.0, 0, 0, 8.0]], dtype=torch.float64)
        crosscoder.b_enc_F.data.zero_()
        loss = LossChoice.of("l1", weight=1.0, norm=norm, ramp_share=0.0).build()
        x_BX = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
        costs[norm] = loss(crosscoder, x_BX, context(num_tokens=1)).terms["sparsity"].item()
    assert costs == pytest.approx({"l1": 14.0, "l2": 10.0})


def naive_batchtopk(crosscoder, x_BX, k):
    f, norms = naive_parts(crosscoder, x_BX)
    scored = sorted(
        ((value * sum(norms[i]), t, i) for t, active in enumerate(f) for i, value in enumerate(active) if value > 0),
        reverse=True,
    )[: k * len(x_BX)]
    kept = {(t, i) for _, t, i in scored}
    return [[v if (t, i) in kept else 0.0 for i, v in enumerate(a)] for t, a in enumerate(f)], scored[-1][0]


@pytest.mark.parametrize("k", [1, 2, 4, 50])
def test_batchtopk_equals_the_formula(k):
    crosscoder, x_BX = make()
    loss = LossChoice.of("batchtopk", k=k).build().train()
    output = loss(crosscoder, x_BX, context())
    f, cut = naive_batchtopk(crosscoder, x_BX, k)
    assert output.terms["reconstruction"].item() == pytest.approx(
        naive_reconstruction_loss(crosscoder, x_BX, f), rel=1e-5
    )
    assert int(output.num_active) == sum(v > 0 for row in f for v in row)
    assert float(loss.threshold) == pytest.approx(cut, rel=1e-5)


@torch.no_grad()
def test_batchtopk_auxiliary_term_by_hand():
    crosscoder, x_BX = make()
    dead_F = torch.arange(11) >= 6
    loss = LossChoice.of("batchtopk", k=2, aux_weight=0.5, aux_k_share=0.5).build().train()
    output = loss(crosscoder, x_BX, context(dead_F=dead_F))
    f_BF = torch.relu(x_BX @ crosscoder.W_enc[0].T + crosscoder.b_enc_F)
    W_dec = crosscoder.W_dec[0]
    norms = W_dec[:, :5].norm(dim=1) + W_dec[:, 5:].norm(dim=1)
    total = 0.0
    for row, residual in zip(f_BF, output.residual_BX):
        order = sorted((i for i in range(6, 11)), key=lambda i: -float(row[i] * norms[i]))[:2]
        guess = sum(row[i] * W_dec[i] for i in order)  # no bias
        total += float((residual - guess).square().sum())
    assert output.terms["auxk"].item() == pytest.approx(0.5 * total / 17, rel=1e-5)


def test_auxiliary_gradient_reaches_only_dead_latents():
    crosscoder, x_BX = make()
    dead_F = torch.arange(11) >= 6
    loss = LossChoice.of("batchtopk", k=2).build().train()
    loss(crosscoder, x_BX, context(dead_F=dead_F)).terms["auxk"].backward()
    assert crosscoder.W_dec[0].grad[:6].abs().max() == 0 < crosscoder.W_dec[0].grad[6:].abs().max()
    assert crosscoder.b_dec_X.grad is None


def test_without_dead_latents_the_auxiliary_term_is_zero():
    crosscoder, x_BX = make()
    loss = LossChoice.of("batchtopk", k=2).build().train()
    assert loss(crosscoder, x_BX, context(dead_F=torch.zeros(11, dtype=torch.bool))).terms["auxk"].item() == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10.0))
def test_rescaling_a_latent_changes_neither_loss_nor_selection(seed, scale):
    """E2: f → f/c, d → c·d leaves the L1 loss, the BatchTopK support and norm shares as they are."""
    crosscoder, x_BX = make(seed=seed)
    other, _ = make(seed=seed)
    other.W_enc[0].data[3] /= scale
    other.b_enc_F.data[3] /= scale
    other.W_dec[0].data[3] *= scale
    for name, options in (("l1", {}), ("batchtopk", {"k": 2})):
        first = LossChoice.of(name, **options).build().train()(crosscoder, x_BX, context())
        second = LossChoice.of(name, **options).build().train()(other, x_BX, context())
        assert torch.equal(first.fired_F, second.fired_F)
        for term in first.terms:
            assert first.terms[term].item() == pytest.approx(second.terms[term].item(), rel=1e-4)
    share = [c.decoder_norms() / c.decoder_norms().sum(1, keepdim=True) for c in (crosscoder, other)]
    torch.testing.assert_close(share[0], share[1], rtol=1e-5, atol=1e-7)


def test_threshold_follows_the_batch_until_warm_up_ends_then_averages():
    crosscoder, x_BX = make()
    loss = LossChoice.of("batchtopk", k=2, threshold_decay=0.9, threshold_window_share=1.0).build().train()
    cuts = []
    for step in range(6):
        loss(crosscoder, x_BX * (1 + step), context(step=step, warmed_up=step >= 2))
        cuts.append(float(loss.cut))
        if step <= 2:
            assert float(loss.threshold) == cuts[-1]
    expected = cuts[2]
    for cut in cuts[3:]:
        expected = 0.9 * expected + 0.1 * cut
    assert float(loss.threshold) == pytest.approx(expected, rel=1e-5)


def test_evaluation_does_not_move_the_threshold():
    crosscoder, x_BX = make()
    loss = LossChoice.of("batchtopk", k=2).build()
    loss.train()(crosscoder, x_BX, context())
    before = float(loss.threshold)
    loss.eval()(crosscoder, 3 * x_BX, context())
    assert float(loss.threshold) == before
