"""Each model's part of a pre-activation, against plain sums over its sites."""

import pytest
import torch

from crosscoders.analysis.shares import shares_by_model
from study_of_texts import study_over


@pytest.mark.parametrize("sites", [("base/layers.1", "chat/layers.1", "chat/layers.2"), ("chat/layers.1",)])
def test_parts_and_bias_add_up_to_the_pre_activation(sites):
    study = study_over(sites)
    batch = next(iter(study.batches()))
    crosscoder, latents = study.crosscoder, batch.latents
    parts = shares_by_model(crosscoder, batch.x_BX, latents)
    assert list(parts) == list(dict.fromkeys(site.partition("/")[0] for site in sites))
    x_BX, W = crosscoder.normalised(batch.x_BX), crosscoder.encoder_weight(0)
    for model, part_N in parts.items():
        mine = torch.cat(
            [torch.arange(s.start, s.stop) for n, s in crosscoder.layout.slices.items() if n.startswith(model)]
        )
        naive_N = (x_BX[:, mine] @ W[:, mine].T)[latents.token_N, latents.latent_N]
        torch.testing.assert_close(part_N, naive_N, rtol=1e-4, atol=1e-4)
    whole_N = sum(parts.values()) + crosscoder.b_enc_F[latents.latent_N]
    torch.testing.assert_close(whole_N, latents.value_N, rtol=1e-4, atol=1e-4)


def test_a_latent_gets_nothing_of_a_model_that_its_group_does_not_read():
    from crosscoders import Site, build_crosscoder

    sites = [Site(f"{model}/layers.1", 6) for model in ("a", "b")]
    crosscoder = build_crosscoder("dedicated", sites, num_latents=12)
    with torch.no_grad():
        for parameter in crosscoder.parameters():
            parameter.normal_()
    crosscoder.normaliser.set_scales({site.name: 1.0 for site in sites})
    x_BX = torch.randn(5, 12)
    latents = crosscoder.encode(x_BX)
    parts = shares_by_model(crosscoder, x_BX, latents)
    for group in crosscoder.wiring.groups:
        here_N = latents.inside(crosscoder.wiring.latent_slices[group.name])
        assert here_N.any()
        for model, part_N in parts.items():
            assert bool(part_N[here_N].any()) == (f"{model}/layers.1" in group.reads)
    whole_N = sum(parts.values()) + crosscoder.b_enc_F[latents.latent_N]
    torch.testing.assert_close(whole_N, latents.value_N, rtol=1e-4, atol=1e-4)
