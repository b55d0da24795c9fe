"""Analyses: conformance, definitions by hand, and planted truth."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscoders import (
    AnalysisError,
    Crosscoder,
    LatentGroup,
    ReluGate,
    ScoreThresholdGate,
    Site,
    Study,
    TokenIds,
    TopKGate,
    Wiring,
    analyse,
)
from crosscoders.activations import ActivationConfig
from crosscoders.testing import AnalysisSuite
from crosscoders.testing.fakes import MarkovModel
from crosscoders_plugins.analyses.decoder_norms import DecoderNorms, DecoderNormsConfig
from crosscoders_plugins.analyses.functional_coherence import FunctionalCoherence, FunctionalCoherenceConfig
from crosscoders_plugins.analyses.intervals import discoveries, jackknife, student_quantile, student_tail
from crosscoders_plugins.analyses.latent_scaling import LatentScaling, LatentScalingConfig
from crosscoders_plugins.analyses.measured import measured
from crosscoders_plugins.analyses.norm_classes import classes_of, delta_norm, entropy_share, norm_share


class TestDecoderNorms(AnalysisSuite):
    name = "decoder_norms"
    options = {"top": 3}


class TestLatentScaling(AnalysisSuite):
    name = "latent_scaling"


class TestFunctionalCoherence(AnalysisSuite):
    name = "functional_coherence"


class TestFidelity(AnalysisSuite):
    name = "fidelity"
    options = {"num_tokens": 512}


class TestBehaviours(AnalysisSuite):
    name = "behaviours"
    options = {
        "patterns": {"five": "5", "nothing": "no such text"},
        "before": "base",
        "documents": 3,
        "ablated": 4,
    }


class TestAmplification(AnalysisSuite):
    name = "amplification"
    options = {
        "prompts": ["12", "7 9"],
        "samples_per_prompt": 3,
        "patterns": {"five": r"\b5\b"},
        "alphas": [0.0, 1.0],
        "sampling": {"max_new_tokens": 4},
    }


class Table:
    """A model whose activations are looked up by token id: data of one's own behind the adapter interface."""

    def __init__(self, x_ND):
        self.x_ND = x_ND

    def points(self):
        return ("x",)

    def activations(self, tokens, points):
        return {"x": self.x_ND[tokens.ids]}

    def has_chat_template(self):
        return False

    def __getattr__(self, name):
        return getattr(MarkovModel(torch.zeros(2, 2), ("a", "b") * 100), name)


class Rows:
    def __init__(self, count, length):
        self.count, self.length = count, length

    def documents(self, *, skip=0):
        for start in range(skip * self.length, self.count, self.length):
            yield TokenIds(tuple(range(start, start + self.length)))


def study_of(crosscoder, tables, *, length=20):
    count = len(next(iter(tables.values())))
    config = ActivationConfig(context_length=length, held_out_share=0.0, rows_per_forward=8)
    adapters = {key: Table(table) for key, table in tables.items()}
    return Study(crosscoder, adapters, Rows(count, length), activations=config, num_tokens=count)


def crosscoder_of(W_dec, widths, num_latents):
    sites = tuple(Site(f"{key}/x", width) for key, width in widths.items())
    names = tuple(site.name for site in sites)
    crosscoder = Crosscoder(Wiring(sites=sites, groups=(LatentGroup("all", num_latents, reads=names, writes=names),)))
    with torch.no_grad():
        crosscoder.W_dec[0].copy_(W_dec)
        crosscoder.W_enc[0].copy_(W_dec)
    return crosscoder


# -- decoder norms


@pytest.mark.claim("E9", "Δnorm and norm share agree at 0, ½ and 1 only, both in [0, 1]")
@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)), min_size=1, max_size=20))
def test_delta_norm_and_share_agree_only_at_the_ends_and_the_middle(norms):
    """E9: both lie in [0, 1], order latents alike, and agree at 0, ½ and 1 alone."""
    norms_FS = torch.tensor(norms, dtype=torch.float64)
    share, delta = norm_share(norms_FS)[:, 1], delta_norm(norms_FS)
    assert bool(((share >= 0) & (share <= 1) & (delta >= 0) & (delta <= 1)).all())
    for s, d in zip(share.tolist(), delta.tolist()):
        if 0.001 < s < 0.499 or 0.501 < s < 0.999:
            assert s != pytest.approx(d, abs=1e-7)
    ends = torch.tensor([[1.0, 0.0], [2.0, 2.0], [0.0, 3.0]], dtype=torch.float64)
    assert norm_share(ends)[:, 1].tolist() == delta_norm(ends).tolist() == [0.0, 0.5, 1.0]


def test_classes_by_hand():
    W_dec = torch.zeros(5, 4)
    for row, (a, b) in enumerate([(1, 0), (0, 2), (1, 1), (1, 0.3), (1.0, 0.85)]):
        W_dec[row, 0], W_dec[row, 3] = a, b
    classes = classes_of(crosscoder_of(W_dec, {"base": 2, "chat": 2}, 5))
    assert classes == ["only base/x", "only chat/x", "shared", "other", "shared"]


def test_three_sites_use_share_and_entropy():
    W_dec = torch.tensor([[1.0, 0, 0], [1, 1, 1], [1, 1, 0]])
    crosscoder = crosscoder_of(W_dec, {"a": 1, "b": 1, "c": 1}, 3)
    assert classes_of(crosscoder) == ["only a/x", "shared", "other"]
    spread = entropy_share(norm_share(crosscoder.decoder_norms().detach()))
    assert spread.tolist() == pytest.approx([0.0, 1.0, torch.tensor(2.0).log().item() / torch.tensor(3.0).log().item()])


def test_examples_are_the_strongest_with_their_text():
    x = torch.zeros(400, 2)
    x[[37, 111, 250, 251], 1] = torch.tensor([3.0, 9.0, 5.0, 6.0])
    crosscoder = crosscoder_of(torch.tensor([[0.0, 0.0, 0.0, 1.0], [1.0, 0, 1.0, 0]]), {"base": 2, "chat": 2}, 2)
    crosscoder.gate = ReluGate()
    study = study_of(crosscoder, {"base": torch.zeros(400, 2), "chat": x})
    study.activations = ActivationConfig(context_length=20, held_out_share=0.0, masks=_no_masks())
    study.reading.token_texts = lambda ids: [f"<{i}>" for i in ids]
    report = DecoderNorms(DecoderNormsConfig(top=1, examples=3, min_firings=1)).run(study)
    assert report.data["most_specific"] == {"base/x": [0], "chat/x": [0]}
    entry = next(part for part in report.parts if part.title == "Most chat/x-leaning latents").entries[0]
    peaks = [c.tokens[max(range(len(c.tokens)), key=c.activations.__getitem__)] for c in entry.contexts]
    assert peaks == ["<111>", "<251>", "<37>"]
    assert report.data["firings"][0] == 4
    page = report.to_html()
    assert "&lt;111&gt;" in page and "<111>" not in page


def _no_masks():
    from crosscoders.activations import MaskConfig

    return MaskConfig(max_norm_multiple=0.0)


def test_one_site_has_nothing_to_compare():
    crosscoder = crosscoder_of(torch.tensor([[1.0, 1, 1], [2, 2, 2]]), {"m": 3}, 2)
    study = study_of(crosscoder, {"m": torch.ones(40, 3)})
    (report,) = analyse(crosscoder, study=study)
    assert [row[0] for row in report.data["norms_over_root_width"]] == pytest.approx([1.0, 2.0])
    assert report.data["class"] == ["only site"] * 2
    assert report.data["most_specific"] == {crosscoder.written.names[0]: [1, 0]}
    with pytest.raises(AnalysisError, match="writes only one"):
        analyse(crosscoder, ["latent_scaling"], study=study)


# -- latent scaling


def brute_force(crosscoder, study, reference):
    """β of every target by least squares over materialised targets."""
    x_BX = torch.cat([batch.x_BX for batch in study.batches()])
    latents = crosscoder.encode(x_BX)
    f_BF = latents.dense().double()
    x = crosscoder.normalised(x_BX).double()
    r = crosscoder.decode_normalised(latents, crosscoder.normalised(x_BX)).double()
    result = {}
    for site in crosscoder.sites:
        columns = crosscoder.layout.slices[site.name]
        for j in range(crosscoder.num_latents):
            d = crosscoder.decoder_rows(reference)[j].double()
            own = crosscoder.decoder_rows(site.name)[j].double()
            targets = {
                "activation": x[:, columns],
                "activation_without_bias": x[:, columns] - crosscoder.b_dec_X[columns].double(),
                "reconstruction": r[:, columns],
                "error": x[:, columns] - (r[:, columns] - f_BF[:, j : j + 1] * own),
            }
            design = (f_BF[:, j : j + 1] * d).reshape(-1, 1)
            for name, y in targets.items():
                result[name, site.name, j] = torch.linalg.lstsq(design, y.reshape(-1, 1)).solution.item()
    return result


@pytest.mark.claim("E5", "latent scaling: closed form equals least squares to 1e-6")
@pytest.mark.parametrize("seed", [0, 1])
def test_closed_form_equals_brute_force(seed):
    """E5: every target, every site of three, to 1e-6."""
    generator = torch.Generator().manual_seed(seed)
    widths = {"a": 5, "b": 5, "c": 5}
    crosscoder = crosscoder_of(torch.randn(7, 15, generator=generator), widths, 7)
    with torch.no_grad():
        crosscoder.b_dec_X.copy_(torch.randn(15, generator=generator))
        crosscoder.b_enc_F.copy_(torch.randn(7, generator=generator))
    crosscoder.normaliser.set_mean_norms(torch.tensor([1.0, 2.0, 0.5]))
    tables = {key: torch.randn(200, 5, generator=generator) for key in widths}
    study = study_of(crosscoder, tables)
    sums, _, _ = measured(study, reference="b/x", num_blocks=4)
    betas = sums.betas()
    for (target, site, j), expected in brute_force(crosscoder, study, "b/x").items():
        found = betas[target][j, sums.site_names.index(site)].item()
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6), (target, site, j)
    x_BX = torch.cat([batch.x_BX for batch in study.batches()])
    f_BF = crosscoder.encode(x_BX).dense().double()
    x_BD = crosscoder.normalised(x_BX)[:, crosscoder.layout.slices["b/x"]].double()
    v_FD = f_BF.T @ x_BD / f_BF.square().sum(0)[:, None]
    level_F = 1.6449 * v_FD.norm(dim=1) / (crosscoder.decoder_rows("b/x").double().norm(dim=1) * 5**0.5)
    torch.testing.assert_close(sums.random_F, level_F, rtol=1e-4, atol=1e-5)


def planted(rho, *, rebuilt=0.0, count=3000, turned=False):
    """One latent that fires at 10 %, with direction d at chat; base has ρ·f·d, of which `rebuilt` is reconstructed
    there by another latent that always fires with it. Where it is turned, base has it under another direction."""
    generator = torch.Generator().manual_seed(0)
    f = torch.where(torch.rand(count, generator=generator) < 0.1, 1.0 + torch.rand(count, generator=generator), 0.0)
    d = torch.tensor([1.0, 0, 0, 0])
    chat = f[:, None] * d
    base = rho * f[:, None] * (d.roll(1) if turned else d)
    crosscoder = crosscoder_of(
        torch.tensor([[0.0] * 4 + [1.0, 0, 0, 0], [rebuilt, 0, 0, 0] + [0.0] * 4]), {"base": 4, "chat": 4}, 2
    )
    with torch.no_grad():
        crosscoder.W_enc[0].copy_(torch.tensor([[0.0] * 4 + [1.0, 0, 0, 0], [0.0] * 4 + [1.0, 0, 0, 0]]))
    crosscoder.gate = TopKGate(2) if rebuilt else ScoreThresholdGate(0.5)
    noise = 0.01 * torch.randn(2, count, 4, generator=generator)
    return study_with_everything(crosscoder, {"base": base + noise[0], "chat": chat + noise[1]})


def study_with_everything(crosscoder, tables):
    study = study_of(crosscoder, tables)
    study.activations = ActivationConfig(context_length=20, held_out_share=0.0, rows_per_forward=8, masks=_no_masks())
    return study


@pytest.mark.claim("E5", "latent scaling: y = ρ·f·d gives β = ρ")
@pytest.mark.parametrize("rho", [0.0, 0.4, 1.0])
def test_a_planted_share_comes_back_as_beta(rho):
    """E5: y = ρ·f·d gives β = ρ."""
    betas = measured(planted(rho), reference="chat/x", num_blocks=8)[0].betas()
    assert betas["activation"][0].tolist() == pytest.approx([rho, 1.0], abs=0.01)


def verdict_of(study, reference="chat/x"):
    report = LatentScaling(LatentScalingConfig(reference=reference)).run(study)
    return report.data, report


@pytest.mark.claim("E5", "latent scaling: ν = 0 and 1 at the extremes")
def test_absent_concept_is_specific():
    """E5: ν = 0."""
    data, report = verdict_of(planted(0.0))
    assert data["verdict"][0] == "specific to chat/x"
    against = data["against"]["base/x"]
    assert against["nu_error"][0] == pytest.approx(0, abs=0.02)
    assert against["nu_reconstruction"][0] == pytest.approx(0, abs=0.02)
    assert "Of the 1 that decoder norms call only chat/x, 1 are specific to it, 0 are not, and 0" in report.summary


@pytest.mark.claim("E5", "latent scaling: ν = 0 and 1 at the extremes")
def test_shrunk_concept_is_caught_by_the_error():
    """E5: present in base to the full, reconstructed nowhere there: ν^ε = 1."""
    data, report = verdict_of(planted(1.0))
    assert data["against"]["base/x"]["nu_error"][0] == pytest.approx(1, abs=0.02)
    assert data["verdict"][0] == "shared" and "1.00 of its strength at base/x" in data["reason"][0]
    assert "0 are specific to it, 1 are not" in report.summary


@pytest.mark.claim("E5", "latent scaling: ν = 0 and 1 at the extremes")
def test_decoupled_concept_is_caught_by_the_reconstruction():
    """E5: rebuilt in base by another latent: ν^r = 1, ν^ε = 0."""
    data, _ = verdict_of(planted(1.0, rebuilt=1.0))
    against = data["against"]["base/x"]
    assert against["nu_reconstruction"][0] == pytest.approx(1, abs=0.02)
    assert against["nu_error"][0] == pytest.approx(0, abs=0.02)
    assert data["verdict"][0] == "shared" and "other latents rebuild it at base/x" in data["reason"][0]


def test_a_turned_concept_is_rotated_although_both_ratios_are_low():
    data, _ = verdict_of(planted(1.0, turned=True))
    against = data["against"]["base/x"]
    assert against["nu_error"][0] < 0.2 and against["nu_reconstruction"][0] < 0.5
    assert data["verdict"][0] == "rotated" and data["cosine"]["base/x"][0] == pytest.approx(0, abs=0.02)


def test_a_weak_concept_is_mostly_in_one():
    data, _ = verdict_of(planted(0.4))
    assert data["verdict"][0] == "mostly in chat/x"
    assert data["relative_strength"]["base/x"][0] == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("rho", [0.0, 0.4, 1.0])
def test_the_verdict_does_not_depend_on_the_reference(rho):
    study = planted(rho)
    first, second = (verdict_of(study, reference)[0] for reference in ("base/x", "chat/x"))
    assert first["verdict"] == second["verdict"] and first["reason"] == second["reason"]


def test_a_row_that_activations_do_not_bear_out_is_no_presence():
    """A shared latent fires by mistake with the first one, whose rows take back what it adds at both sites."""
    study = planted(0.0)
    with torch.no_grad():
        study.crosscoder.W_dec[0].copy_(torch.tensor([[0, -0.6, 0, 0, 1, -0.6, 0, 0], [0, 0.6, 0, 0, 0, 0.6, 0, 0]]))
    study.crosscoder.gate = TopKGate(2)
    data, _ = verdict_of(study)
    assert data["relative_strength"]["base/x"][0] == pytest.approx(0.6 / 1.36**0.5, abs=0.02)
    assert data["borne_out"]["base/x"][0] == pytest.approx(0, abs=0.05)
    assert data["verdict"][0] == "specific to chat/x"


def pair_of_latents(rows, base, chat, f_B2):
    """Two latents that the chat model's first two directions turn on, in a study of two models of width 4."""
    crosscoder = crosscoder_of(torch.tensor(rows), {"base": 4, "chat": 4}, 2)
    with torch.no_grad():
        crosscoder.W_enc[0].zero_()
        crosscoder.W_enc[0][:, -2:] = torch.eye(2)
    noise = 0.01 * torch.randn(2, len(f_B2), 4, generator=torch.Generator().manual_seed(1))
    tables = {"base": f_B2 @ torch.tensor(base), "chat": f_B2 @ torch.tensor(chat)}
    # The last two directions of chat carry what turns the latents on.
    crosscoder.gate = ScoreThresholdGate(0.5)
    tables["chat"] = torch.cat([tables["chat"], f_B2], dim=1)
    return study_with_everything(crosscoder, {key: table + noise[i] for i, (key, table) in enumerate(tables.items())})


def parent_and_child(count=6000):
    """The parent on a fifth of the tokens; the child, latent 0, on half of those."""
    generator = torch.Generator().manual_seed(0)
    strength = 1 + torch.rand(count, 2, generator=generator)
    lot = torch.rand(count, generator=generator)
    return strength * torch.stack([lot < 0.1, lot < 0.2], dim=1)


def test_what_a_parent_hides_is_not_taken_for_cancelled():
    """The child is in base with 0.4 of its strength, under a parent that leads the other way there."""
    rows = [[0.4, 0, 0, 0, 1, 0, 0, 0], [-0.6, 0.8, 0, 0, 0, 1, 0, 0]]
    f_B2 = parent_and_child()
    study = pair_of_latents(rows, [[0.4, 0, 0, 0], [-0.6, 0.8, 0, 0]], [[1.0, 0], [0, 1.0]], f_B2)
    data, _ = verdict_of(study)
    assert data["borne_out"]["base/x"][0] < 0.25 and not data["verdict"][0].startswith("specific"), data["reason"]


def test_a_latent_that_moves_anothers_concept_to_one_site_is_not_specific():
    """Latent 1 writes a concept at both sites; where it is in chat alone, latent 0 takes it away from base."""
    rows = [[-0.8, 0, 0, 0, 0.6, 0.8, 0, 0], [1, 0, 0, 0, 1, 0, 0, 0]]
    f_B2 = parent_and_child()
    f_B2[:, 0] = torch.where(f_B2[:, 0] > 0, f_B2[:, 1], 0.0)
    study = pair_of_latents(rows, [[-0.8, 0, 0, 0], [1, 0, 0, 0]], [[0.6, 0.8], [1, 0]], f_B2)
    data, _ = verdict_of(study)
    assert data["verdict"][0] == "mostly in chat/x", data["reason"]
    assert "along the direction of latent 1" in data["reason"][0]


def test_rare_and_silent_latents_are_undecided():
    study = planted(0.0, count=200)
    data, report = verdict_of(study)
    assert data["verdict"] == ["undecided", "undecided"]
    assert "firings" in data["reason"][0]
    json.dumps(report.to_json(), allow_nan=False)


def test_text_that_ends_early_is_parted_anew():
    study = planted(0.0)
    study.num_tokens = 100_000
    assert verdict_of(study)[0]["verdict"][0] == "specific to chat/x"


def test_students_t_and_discoveries_by_tables():
    freedom = torch.tensor([5.0, 10.0, 30.0], dtype=torch.float64)
    assert student_quantile(0.95, freedom).tolist() == pytest.approx([2.0150, 1.8125, 1.6973], abs=2e-3)
    assert student_quantile(0.05, freedom).tolist() == pytest.approx([-2.0150, -1.8125, -1.6973], abs=2e-3)
    assert student_tail(torch.tensor([2.0150, 1.8125, 1.6973]), freedom).tolist() == pytest.approx([0.05] * 3, abs=5e-4)
    p = torch.tensor([0.9, 0.001, 0.039, 0.041, 0.012, float("nan")], dtype=torch.float64)
    assert discoveries(p, 0.05).tolist() == [False, True, False, False, True, False]
    assert not discoveries(torch.full((5,), 0.5), 0.05).any()


def test_blocks_are_joined_where_neighbours_agree_and_intervals_then_cover():
    """Means of independent blocks, and of blocks in runs of four alike: nominal 90 %."""
    generator = torch.Generator().manual_seed(0)
    for run in (1, 4):
        value_GF = torch.randn(64 // run, 2000, generator=generator, dtype=torch.float64).repeat_interleave(run, dim=0)
        found = jackknife(lambda w, x=value_GF: w @ x / w.sum(1, keepdim=True), 64, torch.ones_like(value_GF))
        low, high = found.interval(0.9).unbind(1)
        assert 0.87 <= float(((low < 0) & (high > 0)).double().mean()) <= 0.93
    plain = value_GF[:, 0]
    alone = jackknife(lambda w: w @ plain[:, None] / w.sum(1, keepdim=True), 64, torch.ones(64, 1, dtype=torch.float64))
    assert alone.error.item() == pytest.approx(float(plain.std() / 8), rel=1e-9)


def test_intervals_hold_the_estimate_and_narrow_with_data():
    widths = []
    for count in (1000, 16000):
        against = verdict_of(planted(0.3, count=count))[0]["against"]["base/x"]
        low, high = against["nu_error_interval"][0]
        assert low < against["nu_error"][0] < high and against["nu_error"][0] == pytest.approx(0.3, abs=0.01)
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_sites_of_another_width_have_a_verdict_but_no_ratios():
    """Present in both, at widths 4 and 2: norms over √D and strengths agree; ν needs one width."""
    generator = torch.Generator().manual_seed(0)
    f = torch.where(torch.rand(3000, generator=generator) < 0.1, 1.0 + torch.rand(3000, generator=generator), 0.0)
    crosscoder = crosscoder_of(torch.tensor([[2.0**0.5, 0, 0, 0, 1.0, 0], [0, 1.0, 0, 0, 0, 0]]), {"a": 4, "b": 2}, 2)
    crosscoder.gate = ScoreThresholdGate(0.5)
    with torch.no_grad():
        crosscoder.W_enc[0].copy_(torch.tensor([[0.0, 0, 0, 0, 1.0, 0], [0.0, 0, 0, 0, 0, 0]]))
    noise = 0.01 * torch.randn(3000, 6, generator=generator)
    tables = {"a": noise[:, :4].clone(), "b": noise[:, 4:].clone()}
    tables["a"][:, 0] += 2**0.5 * f
    tables["b"][:, 0] += f
    report = LatentScaling(LatentScalingConfig()).run(study_with_everything(crosscoder, tables))
    assert report.data["verdict"][0] == "shared" and report.data["against"] == {}
    assert report.data["relative_strength"]["a/x"][0] == pytest.approx(1.0, abs=0.02)
    assert report.data["class"][0] == "shared"
    with pytest.raises(AnalysisError, match="not a written site"):
        LatentScaling(LatentScalingConfig(reference="q")).run(study_with_everything(crosscoder, tables))


def test_functional_coherence_tells_what_is_read_from_what_is_written():
    """One latent read from one site, one from both alike; by decoder norm both are spread over both sites."""
    names = ("a/x", "b/x")
    crosscoder = Crosscoder(
        Wiring(sites=(Site("a/x", 2), Site("b/x", 2)), groups=(LatentGroup("all", 3, names, names),))
    )
    crosscoder.W_enc[0].data = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 1.0, 0], [0, 3.0, 0, 1.0]])
    crosscoder.W_dec[0].data = torch.ones(3, 4)
    analysis = FunctionalCoherence(FunctionalCoherenceConfig())
    change_FS, firings_F = analysis.changes(crosscoder, [torch.rand(50, 2).repeat(1, 2) + 0.1, torch.ones(3, 4)])
    torch.testing.assert_close(
        change_FS, torch.tensor([[1.0, 0], [0.5, 0.5], [0.75, 0.25]], dtype=torch.float64), rtol=1e-5, atol=1e-6
    )
    assert firings_F.tolist() == [53, 53, 53]


def test_functional_coherence_refuses_a_single_site(planted_crosscoder):
    alone = Crosscoder(Wiring(sites=(Site("a/x", 2),), groups=(LatentGroup("all", 3, ("a/x",), ("a/x",)),)))
    with pytest.raises(AnalysisError, match="more than one site"):
        FunctionalCoherence(FunctionalCoherenceConfig()).run(Study(alone, {}, None, reading=object()))


@pytest.mark.parametrize("name", ["decoder_norms", "functional_coherence", "latent_scaling"])
def test_frames_have_a_row_for_each_latent(planted_study, name):
    (report,) = analyse(planted_study.crosscoder, [name], study=planted_study)
    frame = report.to_pandas()
    assert frame["latent"].tolist() == list(range(planted_study.crosscoder.num_latents))
    assert frame["firings"].tolist() == report.data["firings"]
