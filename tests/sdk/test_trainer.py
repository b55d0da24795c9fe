"""What a training step says of itself."""

import pytest
import torch

from crosscoders import Crosscoder, LatentGroup, LossChoice, Site, TrainingConfig, Wiring
from crosscoders.crosscoder.initialise import initialise
from crosscoders.training import Trainer


@pytest.mark.parametrize("accumulation", [1, 2])
def test_explained_variance_is_that_of_the_definition(accumulation):
    """Per written site, over the tokens of the whole batch and with the mean taken off; weights as before the step."""
    sites = (Site("a/x", 6), Site("b/x", 10))
    group = LatentGroup("all", 32, ["a/x", "b/x"], ["b/x", "a/x"])
    crosscoder = Crosscoder(Wiring(sites=sites, groups=(group,)))
    config = TrainingConfig(num_tokens=640, batch_size=64, accumulation=accumulation)
    trainer = Trainer(crosscoder, LossChoice.of("topk", k=4).build(), config)
    initialise(crosscoder, decoder_norm=1.0, generator=torch.Generator().manual_seed(0))
    x_BX = torch.randn(64, 16, generator=torch.Generator().manual_seed(1)) + 3  # a mean that is most of it
    with torch.no_grad():
        values, latents = crosscoder.pre_activations(x_BX).relu().mul(crosscoder.score_norms()).topk(4)
        f_BF = torch.zeros(64, 32).scatter(1, latents, values) / crosscoder.score_norms()
        error_BX = crosscoder.target(x_BX) - crosscoder.decode_normalised(f_BF)
    report = trainer.step(x_BX.chunk(accumulation))
    for name, part in crosscoder.split(error_BX).items():
        target = crosscoder.split(crosscoder.target(x_BX))[name]
        expected = 1 - part.square().sum() / (target - target.mean(dim=0)).square().sum()
        assert report.explained_variance[name] == pytest.approx(float(expected), rel=1e-4)
    assert report.l0 == pytest.approx(4.0)
