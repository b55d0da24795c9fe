"""Representations: conformance, against naive versions over whole matrices, rotated copies, and independent sites."""

import pytest
import torch

from crosscoders import AnalysisError, Crosscoder, LatentGroup, ReluGate, Site, Wiring, analyse
from crosscoders.testing import AnalysisSuite
from crosscoders_plugins.analyses.moments import (
    AffineMap,
    Moments,
    canonical_correlations,
    procrustes,
    unbiased_cka,
)
from planted_pair import Readout, study_of


class TestRepresentations(AnalysisSuite):
    name = "representations"
    options = {"stitch_tokens": 256}


def moments_of(x_ND, y_ND, *, parts=7):
    generator = torch.Generator().manual_seed(0)
    moments = Moments(("x", "y"))
    for x_BD, y_BD in zip(x_ND.chunk(parts), y_ND.chunk(parts)):
        moments.add({"x": x_BD, "y": y_BD}, generator)
    return moments


def data(seed=0, count=300):
    generator = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(count, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 5
    y_ND = x_ND[:, :4] @ torch.randn(4, 5, generator=generator) + torch.randn(count, 5, generator=generator) - 3
    return x_ND.double(), y_ND.double()


def naive_unbiased_cka(x_ND, y_ND):
    """From the definition, over n × n kernels."""

    def hsic(K, L):
        n = len(K)
        K, L = (M - torch.diag(M.diagonal()) for M in (K, L))
        one = torch.ones(n, dtype=K.dtype)
        total = torch.trace(K @ L) + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
        return (total - 2 * (one @ K @ L @ one) / (n - 2)) / (n * (n - 3))

    K, L = x_ND @ x_ND.T, y_ND @ y_ND.T
    return float(hsic(K, L) / (hsic(K, K) * hsic(L, L)).sqrt())


def test_sums_give_what_whole_matrices_give():
    x_ND, y_ND = data()
    moments = moments_of(x_ND, y_ND)
    assert unbiased_cka(moments, "x", "y") == pytest.approx(naive_unbiased_cka(x_ND, y_ND), rel=1e-6)
    x, y = x_ND - x_ND.mean(0), y_ND - y_ND.mean(0)
    naive = torch.linalg.svdvals(x.T @ y).sum() / (x.norm() * y.norm())
    assert procrustes(moments, "x", "y") == pytest.approx(float(naive), rel=1e-6)
    qx, qy = (torch.linalg.qr(part).Q for part in (x, y))
    torch.testing.assert_close(canonical_correlations(moments, "x", "y", variance=1.0), torch.linalg.svdvals(qx.T @ qy))
    found = AffineMap.of(moments, "x", "y", ridge=0.0)
    design = torch.cat([x_ND, torch.ones(len(x_ND), 1).double()], dim=1)
    expected = design @ torch.linalg.lstsq(design, y_ND).solution
    torch.testing.assert_close(found(x_ND), expected, rtol=1e-5, atol=1e-5)
    x_new, y_new = data(seed=1)
    left = (y_new - found(x_new)).square().sum() / (y_new - y_new.mean(0)).square().sum()
    assert found.explained_variance(moments_of(x_new, y_new), "x", "y") == pytest.approx(1 - float(left), rel=1e-6)


def study(second, readout=None):
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(400, 8, generator=generator) * torch.linspace(0.5, 2, 8)
    readout_DV = 2 * torch.randn(8, 400, generator=generator)
    y_ND, readout_y = second(x_ND, readout_DV, generator)
    sites, names = (Site("a/x", 8), Site("b/x", 8)), ("a/x", "b/x")
    crosscoder = Crosscoder(Wiring(sites=sites, groups=(LatentGroup("all", 4, reads=names, writes=names),)))
    crosscoder.gate = ReluGate()
    return study_of(crosscoder, {"a": Readout(x_ND, readout_DV), "b": Readout(y_ND, readout_y)})


def report_of(study, **options):
    (report,) = analyse(study.crosscoder, [{"name": "representations", **options}], study=study)
    return report


def test_a_rotated_copy_is_alike_in_everything():
    def rotated(x_ND, readout_DV, generator):
        turn = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
        return x_ND @ turn + 3, turn.T @ (readout_DV)

    found = report_of(study(rotated)).data
    (pair,) = found["pairs"]
    for kind in ("cka", "procrustes", "svcca"):
        assert pair[kind] == pytest.approx(1.0, abs=1e-4), kind
    for stitching in found["stitching"]:
        assert stitching["explained_variance"] == pytest.approx(1.0, abs=1e-3)
        assert stitching["ce_stitched"] == pytest.approx(stitching["ce_clean"], abs=0.01)


def test_independent_sites_are_not_alike_and_the_control_says_how_much_is_chance():
    def independent(x_ND, readout_DV, generator):
        return torch.randn(400, 8, generator=generator), readout_DV

    found = report_of(study(independent)).data
    (pair,) = found["pairs"]
    assert abs(pair["cka"]) < 0.05
    assert pair["svcca"] == pytest.approx(pair["svcca_shuffled"], abs=0.05) and pair["svcca"] > 0.05
    assert all(stitching["explained_variance"] < 0.05 for stitching in found["stitching"])


def test_what_cannot_be_compared_is_said():
    made = study(lambda x, readout, generator: (x, readout))
    with pytest.raises(AnalysisError, match="not a written site"):
        report_of(made, sites=["c/x", "a/x"])
    with pytest.raises(AnalysisError, match="there is only one"):
        report_of(made, sites=["a/x"])
