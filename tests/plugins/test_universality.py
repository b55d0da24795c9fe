"""Universality: conformance, by hand, and planted truth."""

import pytest
import torch

from crosscoders import AnalysisError, Crosscoder, LatentGroup, ReluGate, Site, Wiring, analyse
from crosscoders.testing import AnalysisSuite
from crosscoders_plugins.analyses.universality import Universality, UniversalityConfig
from planted_pair import pair

NAMES = ("a/x", "b/x")


class TestUniversality(AnalysisSuite):
    name = "universality"

    @pytest.fixture(autouse=True)
    def _another(self, planted_run):
        type(self).options = {"others": [str(planted_run / "crosscoder")], "blocks": 8}


def part_of(crosscoder, latents):
    """A crosscoder with only some latents of another."""
    made = Crosscoder(
        Wiring(sites=crosscoder.sites, groups=(LatentGroup("all", len(latents), reads=NAMES, writes=NAMES),))
    )
    made.gate = ReluGate()
    with torch.no_grad():
        made.W_enc[0].copy_(crosscoder.W_enc[0][latents])
        made.W_dec[0].copy_(crosscoder.W_dec[0][latents])
    return made


def report_of(study, *others, **options):
    table = {"name": "universality", "others": list(others), "blocks": 8, **options}
    (report,) = analyse(study.crosscoder, [table], study=study)
    return report


def test_what_the_wider_one_finds_beyond_is_novel_and_the_rest_is_matched():
    study, _, _ = pair()
    whole, study.crosscoder = study.crosscoder, part_of(study.crosscoder, [0, 1, 2])
    (found,) = report_of(study, whole).data["others"]
    assert found["kind"] == ["matched"] * 3 + ["novel"] * 3
    assert found["partner"][:3] == [0, 1, 2] and found["cosine"][:3] == pytest.approx([1.0] * 3)
    assert sum(found["change"][3:]) == pytest.approx(-1.0, abs=1e-4)
    assert found["error_with_novel"] == pytest.approx(0.0, abs=1e-4) == found["error_other"]


def test_the_same_said_in_other_words_is_redundant_and_a_copy_is_matched():
    """Latents along sums of directions that are all explained already add nothing: the error rises."""
    study, _, _ = pair()
    (copy,) = report_of(study, study.crosscoder).data["others"]
    assert set(copy["kind"]) == {"matched"} and copy["mean_cosine"] == pytest.approx(1.0)
    mixed = part_of(study.crosscoder, [0, 1, 2, 3])
    with torch.no_grad():
        rows, inputs = mixed.W_dec[0].clone(), mixed.W_enc[0].clone()
        turn = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
        mixed.W_dec[0].copy_(turn @ rows)
        mixed.W_enc[0].copy_(turn @ inputs)
    (found,) = report_of(study, mixed).data["others"]
    assert set(found["kind"]) == {"redundant"} and found["error_with_novel"] == found["error"]


@torch.no_grad()
def test_the_change_of_the_error_is_that_by_hand():
    study, _, _ = pair()
    whole, study.crosscoder = study.crosscoder, part_of(study.crosscoder, [0, 1])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        whole.W_dec[0].add_(0.3 * torch.randn(whole.W_dec[0].shape, generator=generator))
        whole.normaliser.set_scales({"a/x": 2.0, "b/x": 0.5})
    found = Universality(UniversalityConfig(others=(whole,), blocks=8)).compare(study, whole)
    ours = study.crosscoder
    x_BX = torch.cat([batch.x_BX for batch in study.batches()])
    error = ours.normalised(x_BX) - ours.decode_normalised(ours.encode(x_BX))
    f_BF = whole.encode(x_BX).dense()
    for j in range(6):
        rows_X = torch.cat([whole.direction(j, name) for name in NAMES])
        after = (error - f_BF[:, j : j + 1] * rows_X).square().sum() / error.square().sum() - 1
        assert found["change"][j] == pytest.approx(float(after), rel=1e-4, abs=1e-5)


def test_other_sites_and_no_other_are_refused():
    study, _, _ = pair()
    with pytest.raises(AnalysisError, match="give others"):
        report_of(study)
    sites = (Site("a/y", 8), Site("b/x", 8))
    names = ("a/y", "b/x")
    alien = Crosscoder(Wiring(sites=sites, groups=(LatentGroup("all", 2, reads=names, writes=names),)))
    with pytest.raises(AnalysisError, match="write different sites"):
        report_of(study, alien)
