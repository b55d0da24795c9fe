"""One step of `dictionary-learning`'s BatchTopK trainer on the concatenated sites."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from timing import activations, device, peer


def train_step(sites, width, latents, batch, k):
    trainer = BatchTopKTrainer(
        steps=100_000,
        activation_dim=sites * width,
        dict_size=latents,
        k=k,
        layer=0,
        lm_name="none",
        lr=1e-4,
        warmup_steps=1,
        threshold_start_step=0,
        device=str(device()),
    )
    batches, number = activations(sites, width, batch), iter(range(1, 10**9))
    return lambda: trainer.update(next(number), next(batches))


peer(train_step)
