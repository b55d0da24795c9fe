"""Layers and snapshots: conformance, by hand, planted profiles, and worlds where they must say no."""

import pytest
import torch

from crosscoders import AnalysisError, Crosscoder, LatentGroup, ReluGate, Site, Wiring, analyse
from crosscoders.testing import AnalysisSuite
from crosscoders_plugins.analyses.profiles import Profiles, spread_of
from crosscoders_plugins.analyses.snapshots import relative
from planted_pair import Readout, study_of

NUM_SITES, WIDTH = 8, 4
NAMES = tuple(f"m/{i}" for i in range(NUM_SITES))


@pytest.fixture(scope="module")
def window_study():
    return study_with(windows(40))


class TestLayers(AnalysisSuite):
    name = "layers"
    options = {"shuffles": 50}

    @pytest.fixture
    def study(self, window_study):
        return window_study


class TestSnapshots(AnalysisSuite):
    name = "snapshots"
    options = {"shuffles": 100}

    @pytest.fixture
    def study(self, window_study):
        return window_study


class Many(Readout):
    """A model with eight points of the same activations."""

    def points(self):
        return tuple(str(i) for i in range(NUM_SITES))

    def activations(self, tokens, points):
        return dict.fromkeys(points, self.x_ND[tokens.ids])


def study_with(norms_FS, rows_FSD=None, readout_DV=None):
    """A study of a crosscoder whose latents have these norms over eight sites, and all fire."""
    F, generator = len(norms_FS), torch.Generator().manual_seed(0)
    sites = tuple(Site(name, WIDTH) for name in NAMES)
    crosscoder = Crosscoder(Wiring(sites=sites, groups=(LatentGroup("all", F, reads=NAMES, writes=NAMES),)))
    crosscoder.gate = ReluGate()
    if rows_FSD is None:
        rows_FSD = torch.nn.functional.normalize(torch.randn(F, 1, WIDTH, generator=generator), dim=2).expand(-1, 8, -1)
    with torch.no_grad():
        crosscoder.W_dec[0].copy_((norms_FS[:, :, None] * rows_FSD).reshape(F, -1))
        crosscoder.W_enc[0].copy_(torch.randn(F, NUM_SITES * WIDTH, generator=generator))
        crosscoder.b_enc_F.fill_(1.0)
    x_ND = torch.randn(400, WIDTH, generator=generator)
    return study_of(crosscoder, {"m": Many(x_ND, torch.zeros(WIDTH, 4) if readout_DV is None else readout_DV)})


def windows(count):
    """Each latent around one of the sites, falling off on both sides."""
    distance_FS = torch.arange(NUM_SITES) - torch.arange(count)[:, None] % NUM_SITES
    return (-0.3 * distance_FS.float().square()).exp()


def report_of(study, name, **options):
    (report,) = analyse(study.crosscoder, [{"name": name, **options}], study=study)
    return report


def test_windows_are_local_and_the_same_sites_shuffled_are_not():
    local = report_of(study_with(windows(60)), "layers")
    assert sum(local.data["local"]) >= 57 and "60 latents that fire" in local.summary
    assert local.data["centre"][4] == pytest.approx(4.0, abs=0.05)
    generator = torch.Generator().manual_seed(1)
    scattered = torch.stack([row[torch.randperm(NUM_SITES, generator=generator)] for row in windows(60)])
    assert sum(report_of(study_with(scattered), "layers").data["local"]) <= 6


def test_numbers_by_hand():
    norms_FS = torch.tensor([[1.0, 1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 1]])
    rows_FSD = torch.zeros(2, 8, WIDTH)
    rows_FSD[0, 0, 0] = rows_FSD[1, :, 0] = 1.0
    rows_FSD[0, 1] = torch.tensor([0.6, 0.8, 0, 0])
    found = report_of(study_with(norms_FS, rows_FSD), "layers").data
    assert found["centre"] == pytest.approx([0.5, 3.5]) and found["spread"] == pytest.approx([0.5, 3.5])
    assert found["effective_sites"] == pytest.approx([2.0, 2.0], rel=1e-5)
    assert found["drift"][0] == pytest.approx(0.4)
    assert found["cosine_by_distance"]["1"] == pytest.approx(0.6)
    assert found["cosine_by_distance"]["7"] == pytest.approx(1.0)
    assert spread_of(torch.tensor([[0.25, 0.75]]), torch.tensor([0.0, 2.0])).tolist() == pytest.approx([0.75**0.5])


def growing(onsets, generator):
    """Norms that come up at a snapshot and stay, with some noise; None is noise alone, −1 fades."""
    norms_FS = torch.empty(len(onsets), NUM_SITES)
    for j, onset in enumerate(onsets):
        noise = 1 + 0.05 * torch.randn(NUM_SITES, generator=generator)
        if onset is None:
            norms_FS[j] = 0.2 + torch.rand(NUM_SITES, generator=generator)
        elif onset < 0:
            norms_FS[j] = torch.linspace(1, 0.1, NUM_SITES) * noise
        else:
            step = torch.arange(NUM_SITES)
            norms_FS[j] = torch.where(step >= onset, 0.8 + 0.02 * (step - onset), 0.02 * (1 + step)) * noise
    return norms_FS


def test_dates_are_those_that_were_planted():
    generator = torch.Generator().manual_seed(0)
    onsets = [1 + j % 6 for j in range(40)] + [-1] * 20
    steps = [0, 10, 30, 100, 300, 1000, 3000, 10000]
    found = report_of(study_with(growing(onsets, generator)), "snapshots", steps=steps).data
    emerging = [j for j in range(40) if found["kind"][j] == "emerging"]
    assert len(emerging) >= 36
    assert all(found["onset"][j] == steps[onsets[j]] for j in emerging)
    assert found["kind"][40:].count("fading") >= 18


def test_noise_has_no_dates():
    generator = torch.Generator().manual_seed(0)
    found = report_of(study_with(growing([None] * 60, generator)), "snapshots").data
    assert found["kind"].count("emerging") + found["kind"].count("fading") <= 3


def test_a_direction_settles_when_it_stops_turning():
    norms_FS = torch.ones(1, NUM_SITES)
    angle = torch.tensor([1.5, 1.4, 1.2, 0.9, 0.3, 0.2, 0.1, 0.0])
    rows_FSD = torch.stack([angle.cos(), angle.sin(), 0 * angle, 0 * angle], dim=1)[None]
    found = report_of(study_with(norms_FS, rows_FSD), "snapshots").data
    assert found["settled"] == [4.0] and found["onset"] == [0.0] and found["kind"] == ["from the start"]


@torch.no_grad()
def test_indirect_effects_are_those_by_hand():
    generator = torch.Generator().manual_seed(3)
    study = study_with(growing([3, 5], generator), readout_DV=torch.randn(WIDTH, 400, generator=generator))
    found = report_of(study, "snapshots", effects=[1]).data
    x_BD = study.adapters["m"].x_ND
    f_B = study.crosscoder.encode(dict.fromkeys(NAMES, x_BD)).dense()[:, 1]
    rows = torch.arange(400).view(20, 20)
    expected = []
    for name in NAMES:
        without = x_BD - f_B[:, None] * study.crosscoder.direction(1, name)
        logp = [(x @ study.adapters["m"].readout_DV).log_softmax(1) for x in (without, x_BD)]
        loss = [-each[rows[:, :-1], rows[:, 1:]] for each in logp]
        expected.append(float((loss[0] - loss[1]).mean()))
    assert found["indirect_effect"]["1"] == pytest.approx(expected, abs=1e-4)
    sizes = [abs(value) for value in expected]
    assert found["relative_indirect_effect"]["1"] == pytest.approx([s / sum(sizes) for s in sizes], abs=1e-3)
    assert relative([0.0, 0.0]) == [0.5, 0.5]


def test_what_cannot_be_ordered_is_said():
    study = study_with(windows(6))
    with pytest.raises(AnalysisError, match="not a written site"):
        report_of(study, "layers", sites=["m/9", "m/1", "m/2"])
    with pytest.raises(AnalysisError, match="at least 4 sites"):
        report_of(study, "snapshots", sites=["m/0", "m/1", "m/2"])
    with pytest.raises(AnalysisError, match="8 rising numbers"):
        report_of(study, "snapshots", steps=[3, 2, 1])


def test_rows_of_different_widths_have_no_cosines():
    sites = (Site("m/0", 4), Site("m/1", 4), Site("m/2", 2))
    names = tuple(site.name for site in sites)
    crosscoder = Crosscoder(Wiring(sites=sites, groups=(LatentGroup("all", 3, reads=names, writes=names),)))
    assert Profiles.of(crosscoder, names).drift() is None
