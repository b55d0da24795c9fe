"""Whatever shape activations come in, latents are those of each token; what has no meaning is refused."""

import numpy
import pytest
import torch

from crosscoders import Site, SiteError, TrainingConfig, TrainingError, build_crosscoder, evaluate, fit
from crosscoders.losses.loss import Loss
from crosscoders_plugins.losses.batchtopk import BatchTopK, BatchTopKConfig


@pytest.fixture
def crosscoder():
    made = build_crosscoder("acausal", (Site("m/a", 4), Site("m/b", 3)), num_latents=8)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    return made


X = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(20,), (4, 5), (2, 2, 5), (0,), ()])
def test_leading_dimensions_come_back(crosscoder, shape):
    count = int(numpy.prod(shape))
    x, flat = X.reshape(-1, 7)[:count].reshape(*shape, 7), X.reshape(-1, 7)[:count]
    latents = crosscoder.encode(x)
    assert latents.leading == shape and latents.dense().shape == (*shape, 8)
    assert torch.equal(latents.dense().reshape(-1, 8), crosscoder.encode(flat).dense())
    for x_hat in (crosscoder.decode(latents), crosscoder(x)):
        assert x_hat.shape == (*shape, 7)
        assert torch.equal(x_hat.reshape(-1, 7), crosscoder(flat))
    torch.testing.assert_close(crosscoder.decode(latents.dense()), crosscoder(x))


def test_arrays_lists_and_sites_by_name(crosscoder):
    expected = crosscoder.encode(X).dense()
    by_site = {"m/a": X[..., :4].numpy(), "m/b": X[..., 4:].tolist()}
    for x in (X.numpy(), X.tolist(), list(X), by_site):
        assert torch.equal(crosscoder.encode(x).dense(), expected)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ("x", "a tensor, an array or a list of numbers"),
        (None, "a tensor, an array or a list of numbers"),
        ([[1.0] * 7, [2.0]], "a tensor, an array or a list of numbers"),
        (1.0, "a single number"),
        (X[..., :5], r"shape \(4, 5, 5\) have width 5"),
        (X.to(torch.complex64), "real numbers"),
        ({"m/a": X[..., :4]}, "no activations for site m/b"),
        ({"m/a": X[..., :4], "m/b": X[0, ..., 4:]}, "the same tokens"),
    ],
)
def test_what_are_no_activations_is_refused(crosscoder, x, message):
    with pytest.raises(SiteError, match=message):
        crosscoder.encode(x)


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "not a number"), (float("-inf"), "infinite")])
def test_infinite_activations_are_refused_by_site_and_row(crosscoder, value, kind):
    x = X.clone()
    x[2, 3, 5] = value
    with pytest.raises(SiteError, match=f"site m/b are {kind} in row 2, 3"):
        crosscoder.encode(x)
    # Large numbers whose sum is infinite are none.
    assert crosscoder.encode(torch.full((3, 7), 2e38)).num_tokens == 3


def test_latents_of_another_crosscoder_are_refused(crosscoder):
    with pytest.raises(SiteError, match=r"shape \(…, 8\), not \(3, 9\)"):
        crosscoder.decode(torch.zeros(3, 9))
    other = build_crosscoder("acausal", (Site("m/a", 4), Site("m/b", 3)), num_latents=9)
    with pytest.raises(SiteError, match="cannot be decoded here"):
        crosscoder.decode(other.encode(X))


def test_a_constant_site_has_no_explained_variance(crosscoder):
    for constant in (0.0, 3.3):
        x = X.clone()
        x[..., 4:] = constant
        metrics = evaluate(crosscoder, [x.reshape(-1, 7)])
        assert numpy.isnan(metrics.explained_variance["m/b"]) and "constant" in metrics.undefined["m/b"]
        assert numpy.isfinite(metrics.explained_variance["m/a"]) and list(metrics.undefined) == ["m/b"]


def loss() -> Loss:
    return BatchTopK(BatchTopKConfig(k=2))


def test_fit_takes_sequences_and_refuses_other_sizes(crosscoder):
    config = TrainingConfig(num_tokens=40, batch_size=20)
    assert len(list(fit(crosscoder, loss(), [X, X], config))) == 2
    for batches, error, message in (
        ([], TrainingError, "no activations to train on"),
        ([X[:1], X], TrainingError, "batch 0 has 5 tokens, but batch_size is 20"),
        ([X[..., :3]], SiteError, "width 3"),
        (["x"], SiteError, "a tensor"),
    ):
        with pytest.raises(error, match=message):
            list(fit(crosscoder, loss(), batches, config))
