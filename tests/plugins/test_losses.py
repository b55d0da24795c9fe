"""Losses: conformance, and equality with naive versions written here from the formulas."""

import math
from itertools import islice

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscoders import (
    ArchitectureChoice,
    ConfigError,
    Crosscoder,
    LatentGroup,
    LossChoice,
    Site,
    StepContext,
    TrainingConfig,
    Wiring,
    build_crosscoder,
    evaluate,
    fit,
)
from crosscoders.crosscoder.sparse_encoder import find_candidates, find_candidates_by_bf16
from crosscoders.testing import DiffWorld, LossSuite, LossTermSuite
from crosscoders.testing.suites.loss import SMALL_WORLD, planted_batches


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


@pytest.mark.claim("E1", "norms 6 and 8 cost 14 as a sum, 10 as a concatenation")
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


@pytest.mark.parametrize("k", [1, 2, 4, 11])
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


@torch.no_grad()
def test_auxiliary_term_under_mean_l2_is_relative_as_in_the_published_code():
    """mean_B‖e − ê‖² / mean_B‖e − mean e‖², sites side by side, 0 where that is not a number (crosscoder_learning)."""
    crosscoder, x_BX = make()
    dead_F = torch.arange(11) >= 6
    terms = {}
    for reconstruction in ("sum_sq", "mean_l2"):
        loss = LossChoice.of("batchtopk", k=2, reconstruction=reconstruction).build().train()
        output = loss(crosscoder, x_BX, context(dead_F=dead_F))
        terms[reconstruction] = output.terms["auxk"].item()
    rows = output.residual_BX.tolist()
    mean = [sum(column) / len(rows) for column in zip(*rows)]
    variance = sum((v - m) ** 2 for row in rows for v, m in zip(row, mean)) / len(rows)
    assert terms["mean_l2"] == pytest.approx(terms["sum_sq"] / variance, rel=1e-5)
    term = LossChoice.of("batchtopk", k=2, aux_weight=0.0, terms=[{"name": "auxk", "relative": True}]).build().train()
    found = term(crosscoder, x_BX, context(dead_F=dead_F)).terms["auxk"].item()
    assert found == pytest.approx(terms["mean_l2"], rel=1e-5)


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


@pytest.mark.claim("E2", "rescaling a latent changes neither loss nor selection nor norm shares")
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


# -- further losses and terms -------------------------------------------------------------------------------------


class TestBatchTopKAnnealed(LossSuite):
    name = "batchtopk"
    options = {"k": 2, "k_start": 8, "anneal_share": 0.5}


class TestTopK(LossSuite):
    name = "topk"
    options = {"k": 3}


class TestJumpReluTanh(LossSuite):
    name = "jumprelu"
    options = {"weight": 0.5}


class TestJumpReluQuadratic(LossSuite):
    name = "jumprelu"
    options = {"penalty": "quadratic", "target_l0": 3.0, "weight": 1.0, "ramp_share": 0.1}


class TestL1WithTarget(LossSuite):
    name = "l1"
    options = {"weight": 0.5, "target_l0": 3.0}


class TestMeanL2(LossSuite):
    name = "l1"
    options = {"weight": 0.02, "reconstruction": "mean_l2"}


class TestSiteMasking(LossSuite):
    name = "batchtopk"
    options = {"k": 2, "site_masking": 0.05}
    expected_failures = {"test_terms_are_means_over_tokens": "each token draws its own mask"}


def grouped_wiring(first="designated", second="free"):
    sites = (Site("base/x", 16), Site("chat/x", 16))
    names = ("base/x", "chat/x")
    groups = (LatentGroup(first, 22, reads=names, writes=names), LatentGroup(second, 10, reads=names, writes=names))
    return Wiring(sites=sites, groups=groups)


class TestDSF(LossSuite):
    name = "dsf"
    options = {"weight": 0.5}

    def wiring(self):
        return grouped_wiring()


class TestDFC(LossSuite):
    name = "dfc"
    options = {"k": 2}

    def wiring(self):
        return ArchitectureChoice.of("dedicated", num_latents=32, exclusive_share=0.15).build(super().wiring().sites)


class TestDelta(LossSuite):
    name = "delta"
    options = {"k": 1, "k_shared": 2}

    def wiring(self):
        return ArchitectureChoice.of("designated_shared", num_latents=32, designated_share=0.6).build(
            super().wiring().sites
        )


class TestMatryoshka(LossSuite):
    name = "matryoshka_batchtopk"
    options = {"k": 2}

    def wiring(self):
        return attrs.evolve(super().wiring(), nesting=(0.5, 1.0))


class TestAuxKTerm(LossTermSuite):
    name = "auxk"


class TestFrequencyTerm(LossTermSuite):
    name = "frequency"
    options = {"limit": 0.02}


class TestGroupL1Term(LossTermSuite):
    name = "group_l1"
    options = {"weights": {"all": 0.1}}


def test_topk_keeps_the_largest_scores_of_each_token():
    crosscoder, x_BX = make()
    output = LossChoice.of("topk", k=3).build().train()(crosscoder, x_BX, context())
    f, norms = naive_parts(crosscoder, x_BX)
    kept = []
    for active in f:
        order = sorted(range(len(active)), key=lambda i: -active[i] * sum(norms[i]))[:3]
        kept.append([v if i in order else 0.0 for i, v in enumerate(active)])
    assert output.terms["reconstruction"].item() == pytest.approx(
        naive_reconstruction_loss(crosscoder, x_BX, kept), rel=1e-5
    )


@pytest.mark.parametrize("name", ["topk", "batchtopk"])
def test_k_is_annealed_linearly_to_its_final_value(name):
    crosscoder, x_BX = make(num_latents=40)
    loss = LossChoice.of(name, k=2, k_start=8, anneal_share=0.5, aux_weight=0.0).build().train()
    kept = [int(loss(crosscoder, x_BX, context(step=step)).num_active) for step in (0, 24, 49, 99)]
    assert kept[0] > kept[1] > kept[2] == kept[3] <= 2 * 17


def test_selection_within_groups_gives_each_its_own_places_and_threshold():
    crosscoder = Crosscoder(grouped_wiring()).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in crosscoder.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    crosscoder.W_dec[1].data *= 0.01  # its scores are far smaller, so it would get no place among all
    x_BX = torch.randn(40, 32, generator=generator, dtype=torch.float64)
    loss = LossChoice.of("batchtopk", k=2, scope="group").build().train()
    loss.attach(crosscoder)
    output = loss(crosscoder, x_BX, context(num_tokens=40))
    assert int(output.num_active) == 2 * 2 * 40
    gate = loss.gate()
    assert gate.threshold.shape == (32,) and gate.threshold[0] > 50 * gate.threshold[31] > 0
    crosscoder.gate = gate
    assert crosscoder.encode(x_BX).l0 == pytest.approx(4.0, rel=0.05)  # strictly above the smallest kept


def test_reconstruction_as_mean_of_error_norms():
    crosscoder, x_BX = make()
    loss = LossChoice.of("l1", reconstruction="mean_l2").build()
    output = loss(crosscoder, x_BX, context())
    r = output.residual_BX
    expected = sum(float(row[:5].norm() + row[5:].norm()) / 2 for row in r) / 17
    assert output.terms["reconstruction"].item() == pytest.approx(expected)


def test_masked_sites_are_hidden_from_the_encoder_alone_and_the_same_for_a_step():
    crosscoder, x_BX = make(widths=(5, 3), num_latents=400)
    loss = LossChoice.of("l1", site_masking=0.5).build().train()
    seen = {step: loss._masked(crosscoder, x_BX, context(step=step)) for step in (3, 4)}
    hidden = torch.stack([(seen[3][:, :5] == 0).all(1), (seen[3][:, 5:] == 0).all(1)], 1)
    assert 4 < int(hidden.sum()) < 30
    assert torch.equal(seen[3][~hidden[:, 0]][:, :5], x_BX[~hidden[:, 0]][:, :5])
    assert torch.equal(loss._masked(crosscoder, x_BX, context(step=3)), seen[3])
    assert not torch.equal(seen[3], seen[4])
    assert torch.equal(loss.eval()._masked(crosscoder, x_BX, context(step=3)), x_BX)
    # Targets stay whole: with all latents off, the error is that of the unmasked input.
    crosscoder.W_dec[0].data.zero_()
    output = loss.train()(crosscoder, x_BX, context(step=3))
    torch.testing.assert_close(output.residual_BX, (x_BX - crosscoder.b_dec_X).detach())


def test_matryoshka_is_the_mean_over_prefixes():
    crosscoder, x_BX = make(num_latents=12)
    crosscoder.wiring = attrs.evolve(crosscoder.wiring, nesting=(0.25, 0.5, 1.0))
    loss = LossChoice.of("matryoshka_batchtopk", k=3, aux_weight=0.0).build().train()
    loss.attach(crosscoder)
    term = loss(crosscoder, x_BX, context()).terms["reconstruction"]
    f, _ = naive_batchtopk(crosscoder, x_BX, 3)
    by_level = [
        naive_reconstruction_loss(crosscoder, x_BX, [[v if i < size else 0.0 for i, v in enumerate(a)] for a in f])
        for size in (3, 6, 12)
    ]
    assert term.item() == pytest.approx(sum(by_level) / 3, rel=1e-5)
    with pytest.raises(ConfigError, match="architecture 'matryoshka'"):
        loss.attach(make()[0])


def test_dsf_charges_designated_latents_less():
    crosscoder = Crosscoder(grouped_wiring()).double()
    for parameter in crosscoder.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64)
    x_BX = torch.randn(17, 32, dtype=torch.float64)
    terms = LossChoice.of("dsf", weight=0.7, designated_share=0.2).build()(crosscoder, x_BX, context()).terms
    charge_F = crosscoder.pre_activations(x_BX).relu().sum(0) * crosscoder.decoder_norms().sum(1)
    expected = 0.7 * (0.2 * charge_F[:22].sum() + charge_F[22:].sum()) / 17
    assert terms["sparsity"].item() == pytest.approx(expected.item())


def test_dfc_charges_each_latent_once():
    sites = (Site("a/x", 5), Site("b/x", 4))
    crosscoder = build_crosscoder("dedicated", sites, num_latents=20, exclusive_share=0.2).double()
    for parameter in crosscoder.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64)
    x_BX = torch.randn(17, 9, dtype=torch.float64)
    loss = LossChoice.of("dfc", k=4, shared_weight=0.3, exclusive_weight=0.1).build().train()
    loss.attach(crosscoder)
    output = loss(crosscoder, x_BX, context())
    f_BF = crosscoder.pre_activations(x_BX).relu()
    score_BF = f_BF * crosscoder.score_norms()
    kept_BF = f_BF * (score_BF >= score_BF.flatten().topk(4 * 17).values.min())
    charge_F = kept_BF.sum(0) * crosscoder.decoder_norms().sum(1) / 17
    expected = 0.1 * charge_F[:8].sum() + 0.3 * charge_F[8:].sum()
    assert output.terms["dedicated"].item() == pytest.approx(expected.item())


def test_delta_has_two_pools_and_its_term_by_hand():
    sites = (Site("a/x", 5), Site("b/x", 5))
    crosscoder = build_crosscoder("designated_shared", sites, num_latents=20, designated_share=0.5).double()
    for parameter in crosscoder.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64)
    x_BX = torch.randn(17, 10, dtype=torch.float64)
    loss = LossChoice.of("delta", k=1, k_shared=3, difference_weight=0.5).build().train()
    loss.attach(crosscoder)
    output = loss(crosscoder, x_BX, context())
    assert int(output.num_active) == 4 * 17
    f_BF = crosscoder.pre_activations(x_BX).relu()
    score_BF = f_BF * crosscoder.score_norms()
    delta_BF = (f_BF * (score_BF >= score_BF[:, 10:].flatten().topk(17).values.min()))[:, 10:]
    rows = crosscoder.decoder_rows("b/x")[10:] - crosscoder.decoder_rows("a/x")[10:]
    bias = crosscoder.b_dec_X[5:] - crosscoder.b_dec_X[:5]
    error = x_BX[:, 5:] - x_BX[:, :5] - bias - delta_BF @ rows
    assert output.terms["difference"].item() == pytest.approx(0.5 * error.square().sum().item() / 17)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dsf", {}, "no latent group is called 'designated'; available: all"),
        ("dfc", {}, "no latent group is called 'shared'"),
        ("delta", {}, "no latent group is called 'designated'"),
        ("delta", {"shared": "all"}, "needs delta latents"),
        ("dfc", {"shared": "all"}, "needs exclusive latents"),
    ],
)
def test_losses_for_special_wirings_refuse_others_with_reasons(name, options, message):
    with pytest.raises(ConfigError, match=message):
        LossChoice.of(name, **options).build().attach(make()[0])


def test_jumprelu_values_penalties_and_straight_through_gradients_by_hand():
    crosscoder, x_BX = make()
    loss = LossChoice.of("jumprelu", weight=0.7, ramp_share=0.0, pre_weight=0.3, threshold=0.8, bandwidth=1.5).build()
    loss.attach(crosscoder)
    loss.double()
    terms = loss.train()(crosscoder, x_BX, context()).terms
    with torch.no_grad():
        pre = x_BX @ crosscoder.W_enc[0].T + crosscoder.b_enc_F
        n_F = crosscoder.W_dec[0][:, :5].norm(dim=1) + crosscoder.W_dec[0][:, 5:].norm(dim=1)
        f = torch.where(pre > 0.8, pre, 0.0)
        sparsity = 0.7 * torch.tanh(4 * f * n_F).sum() / 17
        below = 0.3 * ((0.8 - pre).clamp_min(0) * n_F).sum() / 17
        residual = x_BX - f @ crosscoder.W_dec[0] - crosscoder.b_dec_X
    assert terms["sparsity"].item() == pytest.approx(sparsity.item())
    assert terms["pre_activation"].item() == pytest.approx(below.item())
    assert terms["reconstruction"].item() == pytest.approx(residual.square().sum().item() / 17)
    sum(terms.values()).backward()
    with torch.no_grad():
        grad_f = -2 * residual @ crosscoder.W_dec[0].T / 17
        grad_f += 0.7 * 4 * n_F * (1 - torch.tanh(4 * f * n_F).square()) / 17
        window = ((pre - 0.8).abs() < 0.75).double() / 1.5
        grad_theta = -(grad_f * 0.8 * window).sum(0) + 0.3 * ((pre < 0.8) * n_F).sum(0) / 17
        grad_pre = grad_f * ((pre > 0.8) + 0.8 * window) - 0.3 * (pre < 0.8) * n_F / 17
    torch.testing.assert_close(loss.raw_F.grad, grad_theta)
    torch.testing.assert_close(crosscoder.b_enc_F.grad, grad_pre.sum(0))


def test_jumprelu_quadratic_penalty_and_its_gradient():
    crosscoder, x_BX = make()
    loss = LossChoice.of(
        "jumprelu", penalty="quadratic", target_l0=2.0, weight=0.7, ramp_share=0.0, pre_weight=0.0, bandwidth=1.0
    ).build()
    loss.attach(crosscoder)
    loss.double()
    terms = loss.train()(crosscoder, x_BX, context()).terms
    pre = (x_BX @ crosscoder.W_enc[0].T + crosscoder.b_enc_F).detach()
    l0 = float((pre > 0.1).sum()) / 17
    assert terms["sparsity"].item() == pytest.approx(0.7 * (l0 / 2 - 1) ** 2)
    terms["sparsity"].backward()
    slope = 0.7 * 2 * (l0 / 2 - 1) / 2
    expected = -slope * ((pre - 0.1).abs() < 0.5).double().sum(0) / 17
    torch.testing.assert_close(loss.raw_F.grad, expected)
    assert crosscoder.W_enc[0].grad is None


WORLD = DiffWorld(SMALL_WORLD)


def trained(loss, steps=400, **options):
    sites = (Site("a/x", 16), Site("b/x", 16))
    names = tuple(site.name for site in sites)
    crosscoder = Crosscoder(Wiring(sites=sites, groups=(LatentGroup("all", 32, names, names),)))
    made_loss = LossChoice.of(loss, **options).build()
    config = TrainingConfig(num_tokens=steps * 256, batch_size=256, lr=5e-3)
    reports = list(fit(crosscoder, made_loss, planted_batches(WORLD), config))
    return crosscoder, made_loss, reports, evaluate(crosscoder, islice(planted_batches(WORLD), 20))


@pytest.mark.parametrize(
    ("loss", "target", "options"),
    [
        ("l1", 2.5, {"weight": 0.05}),
        ("l1", 2.5, {"weight": 20.0}),
        ("jumprelu", 1.4, {"weight": 0.1, "ramp_share": 0.1}),
        ("jumprelu", 1.4, {"weight": 5.0, "ramp_share": 0.1}),
        ("jumprelu", 2.5, {"penalty": "quadratic", "weight": 3.0, "ramp_share": 0.1}),
    ],
)
def test_target_l0_is_met_from_whatever_weight(loss, target, options):
    *_, metrics = trained(loss, steps=500, target_l0=target, **options)
    assert metrics.l0 == pytest.approx(target, rel=0.2)


def test_jumprelu_thresholds_move():
    """A logarithmic threshold of 0.01 under Adam moves by 1e-7 a step, and L0 never falls; ours must."""
    _, loss, reports, _ = trained("jumprelu", weight=1.0)
    moved = (loss.threshold_F.detach() - 0.1).abs()
    assert float(moved.median()) > 0.02
    assert reports[-1].l0 < 0.6 * max(report.l0 for report in reports[:50])


def test_frequency_term_presses_frequent_latents_down():
    limit, rates = 0.05, {}
    for name, terms in (("without", []), ("with", [{"name": "frequency", "limit": limit, "weight": 3.0}])):
        crosscoder, *_ = trained("batchtopk", k=3, terms=terms)
        latents = crosscoder.encode(torch.cat(list(islice(planted_batches(WORLD), 20))))
        rates[name] = torch.bincount(latents.latent_N, minlength=32) / latents.num_tokens
    assert int((rates["with"] > 2 * limit).sum()) < int((rates["without"] > 2 * limit).sum())
    assert rates["with"].max() < 0.6 * rates["without"].max()


def test_frequency_term_by_hand():
    crosscoder, x_BX = make()
    loss = LossChoice.of("l1", terms=[{"name": "frequency", "limit": 0.25, "weight": 0.5}]).build().train()
    terms = loss(crosscoder, x_BX, context()).terms
    f = crosscoder.pre_activations(x_BX).relu()
    excess = ((f > 0).double().mean(0) / 0.25 - 1).clamp_min(0)
    expected = 0.5 * (excess * f.sum(0) * crosscoder.decoder_norms().sum(1)).sum() / 17
    assert terms["frequency"].item() == pytest.approx(expected.item())


def test_auxk_as_a_term_is_the_same_as_the_built_in_one():
    crosscoder, x_BX = make()
    dead_F = torch.arange(11) >= 6
    built_in = LossChoice.of("batchtopk", k=2).build().train()(crosscoder, x_BX, context(dead_F=dead_F)).terms
    loss = LossChoice.of("batchtopk", k=2, aux_weight=0.0, terms=[{"name": "auxk"}]).build().train()
    assert torch.equal(loss(crosscoder, x_BX, context(dead_F=dead_F)).terms["auxk"], built_in["auxk"])


def test_several_terms_compose_and_keep_their_names():
    crosscoder, x_BX = make()
    weights = {"all": 0.1}
    terms = [{"name": "group_l1", "weights": weights}, {"name": "frequency"}, {"name": "group_l1", "weights": weights}]
    found = LossChoice.of("topk", k=2, terms=terms).build().train()(crosscoder, x_BX, context()).terms
    assert list(found) == ["reconstruction", "auxk", "group_l1", "frequency", "group_l1_2"]
    assert torch.equal(found["group_l1"], found["group_l1_2"])
    with pytest.raises(ConfigError, match="no loss term is called 'nope'"):
        LossChoice.of("topk", terms=[{"name": "nope"}])


# -- the sparse engine ----------------------------------------------------------------------------------------------


class TestBatchTopKPreselectedInBf16(LossSuite):
    name = "batchtopk"
    options = {"k": 2, "preselect": "bf16"}


WIRINGS = [
    ("acausal", {}),
    ("weakly_causal", {}),
    ("per_layer_saes", {}),
    ("local", {"window": 2}),
    ("dedicated", {"exclusive_share": 0.2}),
    ("factored", {"rank": 2}),
]


def wired(name, options, seed, dtype=torch.float32):
    sites = (Site("a/0", 6), Site("a/1", 6), Site("b/0", 6))
    crosscoder = build_crosscoder(name, sites, num_latents=24, **options).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for parameter in crosscoder.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return crosscoder, torch.randn(50, 18, generator=generator, dtype=dtype)


@pytest.mark.parametrize(("name", "options"), WIRINGS)
@pytest.mark.parametrize("latents", [5, 1000])
def test_candidates_are_what_exceeds_the_floor(name, options, latents, monkeypatch):
    monkeypatch.setattr("crosscoders.crosscoder.sparse_encoder.LATENT_PIECE_ELEMENTS", {"cpu": 50 * latents})
    monkeypatch.setattr("crosscoders.crosscoder.sparse_encoder.LEAST_PIECE_LATENTS", 1)
    crosscoder, x_BX = wired(name, options, seed=1)
    floor_F = torch.rand(24) * 4
    pre_BF = crosscoder.pre_activations(x_BX).detach()
    found = find_candidates(crosscoder, x_BX, floor_F)
    exact = found.select(found.value_N > floor_F[found.latent_N])
    assert len(exact.value_N) == len(found.value_N) and bool((exact.token_N.diff() >= 0).all())
    torch.testing.assert_close(exact.dense(), pre_BF * (pre_BF > floor_F))
    for latents in crosscoder.wiring.latent_slices.values():
        mine_N = found.latent_N[found.inside(latents)]
        assert torch.equal(mine_N, found.latent_N[(found.latent_N >= latents.start) & (found.latent_N < latents.stop)])
    rough = find_candidates_by_bf16(crosscoder, x_BX, floor_F)
    assert len(rough.value_N) < 2 * len(found.value_N) + 50
    rough = rough.select(torch.ones_like(rough.latent_N, dtype=torch.bool))
    places = rough.dense() != 0
    assert places[pre_BF > floor_F].all()
    torch.testing.assert_close(rough.dense(), pre_BF * places)
    some_K = torch.tensor([0, 5, 6, 13, 23])
    torch.testing.assert_close(crosscoder.pre_activations_of(x_BX, some_K).detach(), pre_BF[:, some_K])


@pytest.mark.parametrize(("name", "options"), WIRINGS)
@pytest.mark.parametrize("preselect", ["fp32", "bf16"])
@pytest.mark.parametrize("scope", ["all", "group"])
@pytest.mark.parametrize("k", [1, 3, 24])
def test_losses_and_gradients_equal_the_dense_reference(name, options, preselect, scope, k):
    """Dense reference: a mask over all pre-activations from a sort of all scores, decoded as a dense product."""
    crosscoder, x_BX = wired(name, options, seed=2, dtype=torch.float64)
    if scope == "group":
        k = min(k, *(group.num_latents for group in crosscoder.wiring.groups))
    loss = LossChoice.of("batchtopk", k=k, scope=scope, preselect=preselect, aux_weight=0.0).build().train()
    loss.attach(crosscoder)
    for cut in (0.0, 1e-3, 1e6):  # no guess, a low one, and one that is far too high
        loss.cut.fill_(cut)
        crosscoder.zero_grad()
        output = loss(crosscoder, x_BX, context(num_tokens=50))
        output.terms["reconstruction"].backward()
        found = {n: p.grad.clone() for n, p in crosscoder.named_parameters() if p.grad is not None}
        crosscoder.zero_grad()
        f_BF = crosscoder.pre_activations(x_BX).relu()
        score_BF = (f_BF * crosscoder.score_norms()).detach()
        mask_BF = torch.zeros_like(score_BF)
        groups = crosscoder.wiring.latent_slices.values() if scope == "group" else [slice(0, 24)]
        for latents in groups:
            part = score_BF[:, latents]
            order = part.flatten().argsort(descending=True)[: k * 50]
            keep = torch.zeros(part.numel(), dtype=part.dtype).index_fill(0, order, 1.0).view_as(part)
            mask_BF[:, latents] = keep * (part > 0)
        residual = crosscoder.target(x_BX) - crosscoder.decode_normalised(f_BF * mask_BF, x_BX)
        reference = residual.square().sum() / 50
        reference.backward()
        assert output.terms["reconstruction"].item() == pytest.approx(reference.item(), rel=1e-9)
        assert int(output.num_active) == int(mask_BF.sum())
        for parameter_name, parameter in crosscoder.named_parameters():
            if parameter.grad is not None and parameter_name in found:
                torch.testing.assert_close(found[parameter_name], parameter.grad, msg=parameter_name)
    assert loss.repeats >= 1


def test_a_batch_without_any_positive_activation_is_fine():
    crosscoder, x_BX = make()
    crosscoder.b_enc_F.data.fill_(-1e6)
    output = LossChoice.of("batchtopk", k=3).build().train()(crosscoder, x_BX, context())
    assert int(output.num_active) == 0
    torch.testing.assert_close(output.residual_BX, (x_BX - crosscoder.b_dec_X).detach())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "batchtopk", "k": 25}, r"k = 25 is more than the 24 latents it selects from \(all\)"),
        ({"name": "topk", "k": 25}, "k = 25 is more than the 24 latents"),
        ({"name": "topk", "k": 2, "k_start": 30}, "k_start = 30 is more than the 24 latents"),
        ({"name": "l1", "target_l0": 25.0}, "target_l0 = 25 is more than the 24 latents"),
        ({"name": "jumprelu", "target_l0": 25.0}, "target_l0 = 25 is more than the 24 latents"),
    ],
)
def test_more_active_latents_than_there_are_is_refused(options, message):
    crosscoder, _ = wired("acausal", {}, seed=0)
    with pytest.raises(ConfigError, match=message):
        LossChoice.of(options.pop("name"), **options).build().attach(crosscoder)


def test_each_group_must_have_its_k():
    crosscoder, _ = wired("per_layer_saes", {}, seed=0)
    with pytest.raises(ConfigError, match=r"k = 9 is more than the 8 latents it selects from \(a/0\)"):
        LossChoice.of("batchtopk", k=9, scope="group").build().attach(crosscoder)
    LossChoice.of("batchtopk", k=9).build().attach(crosscoder)
    both = tuple(site.name for site in crosscoder.sites[:2])
    groups = (LatentGroup("designated", 10, both, both), LatentGroup("rest", 7, both, both))
    crosscoder = Crosscoder(Wiring(sites=crosscoder.sites[:2], groups=groups))
    with pytest.raises(ConfigError, match=r"k = 11 is more than the 10 latents it selects from \(designated\)"):
        LossChoice.of("delta", k=1, k_shared=11).build().attach(crosscoder)


def test_fewer_positive_latents_than_places_cost_no_repeated_products():
    crosscoder, x_BX = make()
    loss = LossChoice.of("batchtopk", k=11).build().train()
    for step in range(4):
        output = loss(crosscoder, x_BX, context(step=step))
    assert int(output.num_active) == int((crosscoder.pre_activations(x_BX) > 0).sum()) < 11 * 17
    assert loss.repeats == 0


@pytest.mark.parametrize("seed", range(5))
def test_candidates_below_the_floor_do_not_count(seed):
    """The bf16 product lets some of them through: enough in number, but not the largest that there are."""
    crosscoder, x_BX = wired("acausal", {}, seed=seed)
    found = []
    for preselect in ("fp32", "bf16"):
        loss = LossChoice.of("batchtopk", k=3, preselect=preselect).build().train()
        loss.attach(crosscoder)
        loss(crosscoder, x_BX, context(num_tokens=50))
        loss.cut.mul_(1.002 / (1 - loss._margins[0]))  # so that the guess is a little above the cut
        found.append(loss(crosscoder, x_BX, context(num_tokens=50)))
        assert loss.repeats == 1
    assert found[0].terms["reconstruction"].item() == pytest.approx(found[1].terms["reconstruction"].item(), rel=1e-6)
    assert torch.equal(found[0].fired_F, found[1].fired_F)


@pytest.mark.parametrize(("name", "options"), WIRINGS)
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_l1_is_the_same_dense_and_sparse(name, options, norm):
    crosscoder, x_BX = wired(name, options, seed=3, dtype=torch.float64)
    gradients, terms = [], []
    for density in (1.0, 0.0):  # of the step before, which decides how this one is computed
        loss = LossChoice.of("l1", norm=norm, weight=0.3).build().train()
        loss.density.fill_(density)
        crosscoder.zero_grad()
        output = loss(crosscoder, x_BX, context(num_tokens=50))
        sum(output.terms.values()).backward()
        terms.append([term.item() for term in output.terms.values()])
        gradients.append([parameter.grad for parameter in crosscoder.parameters()])
        share = (crosscoder.pre_activations(x_BX) > 0).double().mean().item()
        assert float(loss.density) == pytest.approx(share) and int(output.num_active) == round(share * 50 * 24)
    assert terms[0] == pytest.approx(terms[1], rel=1e-12)
    for dense, sparse in zip(*gradients):
        torch.testing.assert_close(sparse, dense)
