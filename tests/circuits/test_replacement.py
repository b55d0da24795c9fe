"""The replacement model: which wirings it takes, and that errors make it the model itself."""

import pytest
import torch

from circuit_models import I0, I1, I2, M0, M1, M2, NAMES, PROMPT, clt, models, tiny, transcoder, wired
from crosscoders import AnalysisError, LatentError, SiteError, TopKGate
from crosscoders.circuits.replacement import ReplacementModel


@pytest.mark.parametrize("name", NAMES)
def test_with_its_errors_the_replacement_is_the_model(name):
    model = ReplacementModel(models(name), tiny())
    found = model.replace(PROMPT)
    plain = tiny().logits(model.row(PROMPT))[0]
    torch.testing.assert_close(found.logits_TV, plain)
    torch.testing.assert_close(found.with_errors_TV, plain, rtol=1e-4, atol=1e-5)
    assert (found.replaced_TV[1:] - plain[1:]).abs().max() > 0.01
    torch.testing.assert_close(found.replaced_TV[0], plain[0])  # BOS is left alone


def test_replaced_activations_are_what_the_crosscoder_decodes():
    """The first layer's reads are the model's own, so its replaced MLP is the crosscoder's own reconstruction."""
    adapter, crosscoder = tiny(), clt(tiny(), skip=True)
    model = ReplacementModel(crosscoder, adapter)
    row = model.row(PROMPT)
    own = {f"m/{p}": x[0] for p, x in adapter.activations(row, [I0, I1, I2, M0, M1, M2]).items()}
    x_hat = crosscoder.split(crosscoder(crosscoder.layout.pack(own)).detach())
    errors = {p: own[f"m/{p}"] - x_hat[f"m/{p}"] for p in (M0, M1, M2)}
    found = model.replace(PROMPT, skip_positions=[])
    for point, error in errors.items():
        share = float(error.square().sum() / own[f"m/{point}"].square().sum())
        assert found.error_share[point] == pytest.approx(share, rel=1e-4)


def test_fidelity_of_a_perfect_replacement_and_of_a_random_one():
    adapter = tiny(layers=1)
    crosscoder = transcoder(adapter, 0, num_latents=4, skip=True)
    fidelity = ReplacementModel(crosscoder, adapter).fidelity([PROMPT, PROMPT[:4]])
    assert fidelity.num_tokens == 9 and fidelity.kl > 1e-3 and 0 <= fidelity.top1_agreement <= 1
    assert "layers.0.mlp" in fidelity.error_share and len(fidelity.table().rows) == 1
    # A skip map that is the MLP itself, as far as these tokens go.
    model = ReplacementModel(crosscoder, adapter)
    own = adapter.activations(model.row(PROMPT), ["layers.0.mlp_input", "layers.0.mlp"])
    x_TD, y_TD = (own[p][0, 1:].double() for p in ("layers.0.mlp_input", "layers.0.mlp"))
    with torch.no_grad():
        for parameter in crosscoder.parameters():
            parameter.zero_()
        scale = [float(crosscoder.normaliser.scale_of(name)) for name in crosscoder.layout.names]
        crosscoder.W_skip[0].copy_((torch.linalg.lstsq(x_TD * scale[0], y_TD * scale[1]).solution.T).float())
    perfect = ReplacementModel(crosscoder, adapter).fidelity(PROMPT)
    assert perfect.kl < 1e-6 and perfect.top1_agreement == 1 and perfect.error_share["layers.0.mlp"] < 1e-6


def test_latents_are_numbered_within_the_layer_that_they_read():
    model = ReplacementModel(models("attention too"), tiny())
    assert [(one.layer, one.first, one.size) for one in model.sets] == [(0, 0, 6), (0, 6, 6), (1, 0, 6), (1, 6, 6)]
    one, local = model.set_of(1, 8)
    assert one.read == I1 and local == 2
    with pytest.raises(LatentError, match="no latent 12 that reads layer 1; there are 12 of layer 0, 12 of layer 1"):
        model.set_of(1, 12)


def test_encoding_by_set_is_the_crosscoders_own():
    adapter, crosscoder = tiny(), clt(tiny())
    model = ReplacementModel(crosscoder, adapter)
    row = model.row(PROMPT)
    own = {f"m/{p}": x[0] for p, x in adapter.activations(row, [I0, I1, I2, M0, M1, M2]).items()}
    f_TF = crosscoder.encode(crosscoder.layout.pack(own)).dense().detach()
    parts = [one.encode(own[f"m/{one.read}"]).dense() for one in model.sets]
    assert torch.equal(torch.cat(parts, dim=1), f_TF)


REFUSED = {
    "acausal": (([I0, I1], [M0, M1]), "read 2 sites .* a graph needs latents that read one"),
    "residual": ((["layers.0"], ["layers.1"]), "on the residual stream: it holds the MLP's output"),
    "backwards": (([I1], [M0]), "comes before it or is the same: they are not causal"),
    "an SAE of an MLP": (([M1], [M1]), "comes before it or is the same"),
    "reading an MLP": (([M0], [M1]), "not an affine function"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wirings_without_a_graph_are_refused_with_the_reason(name):
    group, message = REFUSED[name]
    with pytest.raises(AnalysisError, match=message):
        ReplacementModel(wired(tiny(), group), tiny())


def test_other_refusals():
    adapter = tiny()
    with pytest.raises(AnalysisError, match="skip map write m/layers.0.mlp, which comes before|skip map read"):
        ReplacementModel(wired(adapter, ([I0], [M0]), ([I1], [M1]), skip=[(I1, M0)]), adapter)
    with pytest.raises(AnalysisError, match="crosscoders 0 and 1 both explain all of layers.0.mlp"):
        ReplacementModel([transcoder(adapter, 0), transcoder(adapter, 0)], adapter)
    with pytest.raises(SiteError, match="width 16, but the model has 24"):
        other = transcoder(adapter, 0)
        ReplacementModel(other, _Wider(adapter))
    crosscoder = clt(adapter)
    crosscoder.gate = TopKGate(8)
    with pytest.raises(AnalysisError, match="ranks latents of all layers together"):
        ReplacementModel(crosscoder, adapter)
    crosscoder.gate = TopKGate(4, group_sizes=[12, 12, 12])
    assert ReplacementModel(crosscoder, adapter).replace(PROMPT)
    with pytest.raises(AnalysisError, match="at least one"):
        ReplacementModel([], adapter)
    with pytest.raises(AnalysisError, match="does not linearise"):
        ReplacementModel(crosscoder, object())
    with pytest.raises(AnalysisError, match="position 9 is to be left out, but the prompt has 7"):
        ReplacementModel(crosscoder, adapter).replace(PROMPT, skip_positions=[9])


class _Wider:
    """An adapter whose points are wider than they say."""

    def __init__(self, adapter):
        self.adapter = adapter

    def __getattr__(self, name):
        return getattr(self.adapter, name)

    def width(self, point):
        return self.adapter.width(point) + 8


def test_two_models_have_no_graph():
    from crosscoders import Site, build_crosscoder

    sites = tuple(Site(f"{m}/layers.0.{p}", 16) for m in ("base", "chat") for p in ("mlp_input", "mlp"))
    with pytest.raises(AnalysisError, match=r"of several models \(base, chat\) has no graph"):
        ReplacementModel(build_crosscoder("acausal", sites, num_latents=8), tiny())
