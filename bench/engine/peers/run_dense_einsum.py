"""A dense BatchTopK crosscoder as papers write it, for want of a package: einsums over sites, flat top-k, Adam."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from timing import activations, device, peer


def train_step(sites, width, latents, batch, k):
    W_dec = torch.randn(latents, sites, width, device=device())
    W_dec = (W_dec / W_dec.norm(dim=-1, keepdim=True)).requires_grad_()
    W_enc = W_dec.detach().permute(1, 2, 0).contiguous().requires_grad_()
    b_enc = torch.zeros(latents, device=device(), requires_grad=True)
    b_dec = torch.zeros(sites, width, device=device(), requires_grad=True)
    parameters = [W_enc, W_dec, b_enc, b_dec]
    optimizer = torch.optim.Adam(parameters, lr=1e-4)
    batches = activations(sites, width, batch)

    def step():
        x = next(batches).view(batch, sites, width)
        f = (torch.einsum("bsd,sdf->bf", x, W_enc) + b_enc).relu()
        score = (f * W_dec.norm(dim=-1).sum(dim=1)).flatten()
        keep = torch.zeros_like(score).scatter(0, score.topk(k * batch, sorted=False).indices, 1.0)
        x_hat = torch.einsum("bf,fsd->bsd", f * keep.view(batch, latents), W_dec) + b_dec
        (x - x_hat).square().sum(dim=(1, 2)).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


peer(train_step)
