"""A study of the shipped pair over a few texts, with a crosscoder that was trained for seconds on them."""

from functools import cache

import torch

from crosscoders import (
    ActivationConfig,
    LossChoice,
    ModelChoice,
    Study,
    Text,
    TrainingConfig,
    build_crosscoder,
    fit,
)
from crosscoders.activations.harvest import resolve_sites

SITES = ("base/layers.1", "chat/layers.1", "chat/layers.2")
WORDS = "Return the sum of a list and join the strings with open file path for each key in the new map value".split()


class Texts:
    """A token source of the same words in many orders."""

    def __init__(self, count=40):
        self.count, self.read = count, 0

    def documents(self, *, skip=0):
        for number in range(skip, self.count):
            self.read += 1
            order = torch.randperm(len(WORDS), generator=torch.Generator().manual_seed(number)).tolist()
            yield Text(" ".join(WORDS[i] for i in order))


@cache
def adapters():
    return {key: ModelChoice.of("transformers", model=f"tiny-pair/{key}").build() for key in ("base", "chat")}


def study_over(sites=SITES, *, steps=30, num_latents=48, **options):
    models = adapters()
    config = ActivationConfig(context_length=24, held_out_share=0.0, rows_per_forward=8)
    crosscoder = build_crosscoder("acausal", resolve_sites(models, sites).sites, num_latents=num_latents)
    study = Study(crosscoder, models, Texts(), activations=config, num_tokens=40 * 24, **options)
    x_BX = torch.cat([batch.x_BX for batch in study.batches()])
    loss = LossChoice.of("batchtopk", k=6, decoder_norm=0.3).build()
    training = TrainingConfig(num_tokens=steps * 256, batch_size=256, lr=5e-3)
    order = torch.randint(len(x_BX), (steps, 256), generator=torch.Generator().manual_seed(0))
    with torch.enable_grad():
        list(fit(crosscoder, loss, (x_BX[rows] for rows in order), training, calibration_BX=x_BX))
    return study


@cache
def shared_study():
    """For tests that change nothing in it."""
    return study_over()
