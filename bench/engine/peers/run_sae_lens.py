"""One step of `sae-lens`' BatchTopK training SAE on the concatenated sites: its forward pass, clipping and Adam."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput
from timing import activations, device, peer


def train_step(sites, width, latents, batch, k):
    config = BatchTopKTrainingSAEConfig(d_in=sites * width, d_sae=latents, k=k, device=str(device()))
    sae = BatchTopKTrainingSAE(config).train()
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-4)
    dead = torch.zeros(latents, dtype=torch.bool, device=device())
    batches = activations(sites, width, batch)

    def step():
        given = TrainStepInput(
            sae_in=next(batches), dead_neuron_mask=dead, coefficients={}, n_training_steps=1, is_logging_step=False
        )
        sae.training_forward_pass(step_input=given).loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


peer(train_step)
