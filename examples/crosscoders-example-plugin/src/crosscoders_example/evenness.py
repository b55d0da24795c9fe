"""Metric `evenness`: over how many latents the activity is spread."""

import torch

from crosscoders import Metric


class Evenness(Metric):
    def __init__(self, options):
        pass

    def sums(self, batch):
        latents = batch.latents
        firings_F = torch.zeros(latents.num_latents, device=latents.latent_N.device)
        return firings_F.index_add(0, latents.latent_N, torch.ones_like(latents.value_N))

    def values(self, sums_K, crosscoder):
        share_F = sums_K / sums_K.sum().clamp_min(1)
        entropy = -(share_F * share_F.clamp_min(1e-30).log()).sum()
        return {"effective_latents": float(entropy.exp())}
