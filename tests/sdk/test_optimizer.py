"""Optimizers, clipping, and the memory of a step."""

from contextlib import nullcontext

import attrs
import pytest
import torch

from crosscoders import (
    ConfigError,
    Crosscoder,
    LatentGroup,
    LossChoice,
    Site,
    StepContext,
    TrainingConfig,
    Wiring,
    build_crosscoder,
    train,
)
from crosscoders.crosscoder.initialise import initialise
from crosscoders.kernels import gradients_in_place
from crosscoders.training import Trainer, step_memory
from crosscoders.training.optimizer import gradient_norm, scale_gradient
from runs import assert_bit_equal, config_of, weights


@pytest.mark.parametrize("optimizer", ["adafactor", "adam_8bit"])
def test_other_optimizers_learn_and_resume(optimizer, tmp_path):
    if optimizer == "adam_8bit":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    lr = 0.05 if optimizer == "adafactor" else 5e-3
    training = {"optimizer": optimizer, "num_tokens": 5120, "save_every": 8, "lr": lr}
    whole = train(config_of(tmp_path / "whole", training=training), quiet=True)
    assert min(whole.info.metrics["explained_variance"].values()) > 0.3
    import shutil

    name = "checkpoints/step-00000008"
    first = attrs.evolve(config_of(tmp_path / "first", training={**training, "keep_checkpoints": 9}))
    train(first, quiet=True)
    shutil.copytree(tmp_path / "first" / name, tmp_path / "again" / name)
    train(config_of(tmp_path / "again", training={**training, "keep_checkpoints": 9}), quiet=True)
    assert_bit_equal(weights(tmp_path / "whole"), weights(tmp_path / "again"))


def test_an_optimizer_that_is_not_installed_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ConfigError, match=r"needs the extra crosscoders\[adam-8bit\]"):
        train(config_of(tmp_path, training={"optimizer": "adam_8bit"}), quiet=True)
    with pytest.raises(ConfigError, match="optimizer"):
        config_of(tmp_path, training={"optimizer": "sgd"})


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.Adafactor])
def test_clipping_is_that_of_torch(kind):
    gradients = [torch.randn(5, 3), torch.randn(4)]
    results = []
    for ours in (True, False):
        parameters = [torch.nn.Parameter(torch.ones_like(g)) for g in gradients]
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient.clone()
        optimizer = kind(parameters, lr=0.1, **({"fused": True} if kind is torch.optim.Adam else {}))
        if ours:
            norm = gradient_norm(parameters)
            scale_gradient(optimizer, parameters, (0.5 / norm).clamp_max(1.0))
        else:
            norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        results.append([norm, *parameters])
    for first, second in zip(*results):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def peak_bytes(trainer, parts):
    """Bytes allocated at the worst moment of a step, what is held between steps included."""
    from torch.profiler import ProfilerActivity, profile

    held = [*trainer.module.state_dict().values(), parts[0]]
    held += [v for s in trainer.optimizer.state.values() for v in s.values()]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        trainer.step(parts)
    now = most = sum(tensor.nbytes for tensor in held)
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("architecture", ["acausal", "weakly_causal"])
def test_accumulated_gradients_are_the_sum(architecture):
    """Parts after the first add to the gradients in place; with dead latents too."""
    sites = (Site("m/0", 6), Site("m/1", 6))
    parts = torch.randn(3, 40, 12, generator=torch.Generator().manual_seed(1))
    step = StepContext(step=0, total_steps=9, warmed_up=True, num_tokens=40, dead_F=torch.arange(24) % 3 == 0)
    found = []
    for in_place in (True, False):
        crosscoder = build_crosscoder(architecture, sites, num_latents=24)
        initialise(crosscoder, decoder_norm=1.0, generator=torch.Generator().manual_seed(0))
        loss = LossChoice.of("batchtopk", k=3).build().train()
        loss.attach(crosscoder)
        for x_BX in parts:
            with gradients_in_place() if in_place else nullcontext():
                sum(loss(crosscoder, x_BX, step).terms.values()).backward()
        found.append([parameter.grad for parameter in crosscoder.parameters()])
    for first, second in zip(*found):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("shape", [(2, 128, 2048, 1024), (1, 64, 32768, 512), (1, 1024, 2048, 64)])
@pytest.mark.parametrize(("preselect", "accumulation"), [("fp32", 1), ("bf16", 1), ("fp32", 4), ("bf16", 4)])
def test_a_step_takes_the_memory_that_the_formula_says(shape, preselect, accumulation):
    """The encoder product, activations, or weights and their gradients are most of it."""
    num_sites, width, num_latents, batch_size = shape
    sites = tuple(Site(f"m/{i}", width) for i in range(num_sites))
    names = [site.name for site in sites]
    crosscoder = Crosscoder(Wiring(sites=sites, groups=(LatentGroup("all", num_latents, names, names),)))
    loss = LossChoice.of("batchtopk", k=16, preselect=preselect).build()
    trainer = Trainer(
        crosscoder,
        loss,
        TrainingConfig(num_tokens=10**6, batch_size=batch_size * accumulation, accumulation=accumulation),
    )
    initialise(crosscoder, decoder_norm=1.0, generator=torch.Generator().manual_seed(0))
    x_BX = torch.randn(batch_size, num_sites * width)
    parts = [x_BX] * accumulation
    for _ in range(3):
        trainer.step(parts)
    expected = step_memory(
        crosscoder.wiring, batch_size=batch_size, active=16, preselect=preselect, accumulation=accumulation
    )
    assert peak_bytes(trainer, parts) == pytest.approx(expected.peak, rel=0.1)
