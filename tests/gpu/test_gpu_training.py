"""Runs on a GPU: what they learn, the bits of a resumed one, precisions, memory, and a card that is full."""

import shutil

import attrs
import pytest
import torch

from crosscoders import Crosscoder, Latents, NotEnoughMemoryError, RunConfig, train
from crosscoders.kernels import gpu, operations, reference
from crosscoders.testing import synthetic_run
from crosscoders.training import harvest
from runs import assert_bit_equal, config_of, weights

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


def on_gpu(folder, **changes):
    return config_of(folder, **{"device": "auto", **changes})


def pair_of(folder, **changes):
    """A short run on the shipped pair."""
    return RunConfig.from_dict(
        {
            "models": {key: {"name": "transformers", "model": f"tiny-pair/{key}"} for key in ("base", "chat")},
            "sites": ["base/layers.1", "chat/layers.1"],
            "tokens": {"name": "python_library"},
            "architecture": {"name": "acausal", "num_latents": 256},
            "loss": {"name": "batchtopk", "k": 16},
            "activations": {"context_length": 64, "block_tokens": 4096, "calibration_tokens": 2048},
            "training": {"num_tokens": 65_536, "batch_size": 512, "lr": 2e-3, "evaluation_tokens": 4096},
            "output": str(folder),
            **changes,
        }
    )


def explained(crosscoder):
    return list(crosscoder.info.metrics["explained_variance"].values())


@pytest.mark.parametrize("preselect", ["fp32", "bf16"])
def test_a_run_learns_what_it_learns_on_a_cpu(tmp_path, preselect):
    loss = {"preselect": preselect}
    there = train(on_gpu(tmp_path / "gpu", loss=loss), quiet=True)
    here = train(config_of(tmp_path / "cpu", loss=loss), quiet=True)
    assert there.device.type == DEVICE and operations(there.W_dec[0]) is gpu
    assert explained(there) == pytest.approx(explained(here), abs=0.02) and min(explained(there)) > 0.6
    x_BX = torch.randn(500, there.layout.width, generator=torch.Generator().manual_seed(0))
    again = Crosscoder.from_pretrained(tmp_path / "gpu" / "crosscoder")
    torch.testing.assert_close(again.encode(x_BX).dense(), there.encode(x_BX.to(DEVICE)).dense().cpu())
    torch.testing.assert_close(again(x_BX), there(x_BX.to(DEVICE)).cpu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["batchtopk", "l1", "jumprelu", "topk"])
def test_the_same_bits_come_from_the_same_seed_and_from_a_resumed_run(tmp_path, loss):
    def run(name):
        training = {"num_tokens": 5120, "save_every": 8, "keep_checkpoints": 9}
        data = synthetic_run(str(tmp_path / name), device="auto", training=training)
        data["loss"] = {"name": loss, **({"k": 2} if "topk" in loss else {})}
        train(RunConfig.from_dict(data), quiet=True)
        return weights(tmp_path / name)

    first = run("first")
    assert_bit_equal(first, run("second"))
    step = "checkpoints/step-00000008"
    shutil.copytree(tmp_path / "first" / step, tmp_path / "third" / step)
    assert_bit_equal(first, run("third"))


@pytest.mark.parametrize("training", [{"mixed_precision": "bf16"}, {"float32_precision": "high"}])
def test_lower_precisions_keep_fp32_weights_and_learn(tmp_path, training):
    plain = train(pair_of(tmp_path / "plain"), quiet=True)
    config = pair_of(tmp_path / "low")
    try:
        low = train(attrs.evolve(config, training=attrs.evolve(config.training, **training)), quiet=True)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert all(parameter.dtype == torch.float32 for parameter in low.parameters())
    assert explained(low) == pytest.approx(explained(plain), abs=0.03)


def test_live_ahead_or_from_a_cache_is_the_same_run(tmp_path):
    configs = {mode: pair_of(tmp_path / mode) for mode in ("off", "on")}
    for mode, config in configs.items():
        train(attrs.evolve(config, activations=attrs.evolve(config.activations, prefetch=mode)), quiet=True)
    assert_bit_equal(weights(tmp_path / "off"), weights(tmp_path / "on"))
    harvest(configs["on"], tmp_path / "cache", quiet=True)
    cached = train(attrs.evolve(configs["on"], output=tmp_path / "cached", cache=tmp_path / "cache"), quiet=True)
    live = Crosscoder.from_pretrained(tmp_path / "on" / "crosscoder")
    assert explained(cached) == pytest.approx(explained(live), abs=0.02)


def test_a_full_card_is_one_clear_error_after_which_all_goes_on(tmp_path):
    train(on_gpu(tmp_path / "before", training={"num_tokens": 2560, "save_every": 10}), quiet=True)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(400e6 / total)
    try:
        with pytest.raises(NotEnoughMemoryError, match=r"asked for .* more; .*batch_size"):
            train(
                on_gpu(
                    tmp_path / "large",
                    architecture={"num_latents": 400_000},
                    training={"batch_size": 2048, "num_tokens": 4096},
                ),
                quiet=True,
            )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    train(on_gpu(tmp_path / "before", training={"num_tokens": 2560, "save_every": 10}), quiet=True)


@pytest.mark.parametrize("shape", [(2, 1024, 16_384, 2048, 32), (4, 768, 24_576, 1024, 50)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_kernels_at_real_sizes(shape, dtype):
    """Against double precision: sums over a token's latents, over a latent's tokens, and products of pairs of rows."""
    sites, width, num_latents, batch, k = shape
    generator = torch.Generator(DEVICE).manual_seed(0)
    token = torch.arange(batch, device=DEVICE).repeat_interleave(k)
    latent = torch.randint(num_latents, (batch * k,), device=DEVICE, generator=generator)
    latent = latent.view(batch, k).sort(dim=1).values.flatten()
    value = torch.rand(batch * k, device=DEVICE, generator=generator)
    W = torch.randn(num_latents, sites * width, device=DEVICE, generator=generator).to(dtype)
    x = torch.randn(batch, sites * width, device=DEVICE, generator=generator).to(dtype)
    limit = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float64: 1e-13}[dtype]
    weight = value.to(dtype)
    entries = Latents(token, latent, weight, batch, num_latents)
    for operation, given in [
        ("weighted_row_sums", (W, latent, weight, entries.token_starts_B)),
        ("row_dots", (x, W, token, latent)),
        ("sums_and_dots", (x, W, weight, entries)),
    ]:
        found = getattr(gpu, operation)(*given)
        exact = getattr(reference, operation)(*(_double(each) for each in given))
        for one, other in zip(*((each if isinstance(each, tuple) else (each,)) for each in (found, exact))):
            error = (one.double() - other).norm() / other.norm()
            assert float(error) < limit, operation


def _double(given):
    return given.double() if isinstance(given, torch.Tensor) and given.is_floating_point() else given
