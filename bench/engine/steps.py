"""Our training step, by loss and wiring, next to one encoder product of the same shape."""

import torch
from timing import activations, device, encoder_product, medians

from crosscoders import Crosscoder, LatentGroup, LossChoice, Site, TrainingConfig, Wiring
from crosscoders.crosscoder.initialise import initialise
from crosscoders.training import Trainer

LOSSES = {
    "batchtopk": {"name": "batchtopk", "preselect": "fp32"},
    "batchtopk, bf16 pre-selection": {"name": "batchtopk", "preselect": "bf16"},
    "topk": {"name": "topk"},
    "l1": {"name": "l1"},
    "jumprelu": {"name": "jumprelu"},
}


def wiring_of(kind, sites, width, latents):
    """The wirings that are timed, all with the same number of latents."""
    layout = tuple(Site(f"m/layers.{i}", width) for i in range(sites))
    names = [site.name for site in layout]
    if kind == "acausal":
        groups = [LatentGroup("all", latents, names, names)]
    elif kind == "weakly causal":
        groups = [LatentGroup(n, latents // sites, names[: i + 1], names[i:]) for i, n in enumerate(names)]
    elif kind == "cross-layer transcoder":
        groups = [LatentGroup(n, latents // sites, [n], names[i:]) for i, n in enumerate(names)]
    else:
        groups = [LatentGroup(n, latents // sites, [n], [n]) for n in names]
    return Wiring(sites=layout, groups=tuple(groups))


WIRINGS = ("acausal", "weakly causal", "cross-layer transcoder", "per-layer SAEs")


def trainer_of(sites, width, latents, batch, k, *, loss="batchtopk", wiring="acausal", bf16=False, **options):
    """A trainer as the runner makes it, on random weights."""
    crosscoder = Crosscoder(wiring_of(wiring, sites, width, latents)).to(device())
    if "topk" in loss:
        options["k"] = k
    chosen = LossChoice.of(loss, **options).build()
    config = TrainingConfig(num_tokens=batch * 10_000, batch_size=batch, lr=1e-4)
    trainer = Trainer(crosscoder, chosen, config)
    initialise(crosscoder.cpu(), decoder_norm=chosen.decoder_norm, generator=torch.Generator().manual_seed(0))
    crosscoder.to(device())
    return trainer


def floor(trainer, product, batch, k):
    """What no exact step does without: the product, decoding, gradients of values and of both weights, Adam."""
    from crosscoders import Latents
    from crosscoders.kernels import operations

    W = trainer.crosscoder.W_dec[0].detach()
    x = torch.randn(batch, W.shape[1], device=W.device)
    token = torch.arange(batch, device=W.device).repeat_interleave(k)
    latent = torch.randint(len(W), (batch * k,), device=W.device)
    value = torch.rand(batch * k, device=W.device)
    chosen = Latents(token, latent, value, batch, len(W))
    # Found before: how entries are ordered is not in the floor.
    by_token, sorted_token, by_latent = chosen.token_starts_B, chosen.token_of_latent_N, chosen.latent_starts_F
    weights = [torch.nn.Parameter(torch.randn_like(W)) for _ in range(2)]
    optimizer, kernels = torch.optim.Adam(weights, fused=True), operations(W)

    def call():
        product()
        kernels.weighted_row_sums(W, latent, value, by_token)
        weights[0].grad, _ = kernels.sums_and_dots(x, W, value, chosen)
        weights[1].grad = kernels.weighted_row_sums(x, sorted_token, value, by_latent)
        optimizer.step()
        optimizer.zero_grad()

    return call


def adam(trainer):
    """The optimizer's part of a step."""
    weights = [torch.nn.Parameter(torch.randn_like(weight)) for weight in trainer.parameters]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    return torch.optim.Adam(weights, fused=True).step


def measure(sites, width, latents, batch, k, rounds, *, loss="batchtopk", wiring="acausal", autocast=False):
    """Median seconds of a whole step and of the product."""
    options = dict(LOSSES[loss])
    trainer = trainer_of(sites, width, latents, batch, k, loss=options.pop("name"), wiring=wiring, **options)
    batches = activations(sites, width, batch)

    def step():
        with torch.autocast(device().type, torch.bfloat16, enabled=autocast):
            trainer.step([next(batches)])

    for _ in range(12):
        step()
    product = encoder_product(sites, width, latents, batch)
    calls = {"product": product, "step": step}
    if (loss, wiring) == ("batchtopk", "acausal"):
        calls["product in bf16"] = encoder_product(sites, width, latents, batch, torch.bfloat16)
        calls["floor"] = floor(trainer, product, batch, k)
        calls["adam"] = adam(trainer)
    found = medians(calls, rounds)
    return {**found, "repeats": getattr(trainer.loss, "repeats", 0)}
