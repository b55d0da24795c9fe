"""One step of science-of-finetuning's BatchTopK crosscoder trainer (their repository `crosscoder_learning`)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from dictionary_learning.trainers.crosscoder import BatchTopKCrossCoderTrainer
from timing import activations, device, peer


def train_step(sites, width, latents, batch, k):
    trainer = BatchTopKCrossCoderTrainer(
        steps=100_000,
        activation_dim=width,
        dict_size=latents,
        k=k,
        layer=0,
        lm_name="none",
        lr=1e-4,
        num_layers=sites,
        device=str(device()),
    )
    batches, number = activations(sites, width, batch), iter(range(1, 10**9))
    return lambda: trainer.update(next(number), next(batches).view(batch, sites, width))


peer(train_step)
