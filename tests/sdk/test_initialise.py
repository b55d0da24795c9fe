"""How weights start: directions, biases from data, and latents of trained autoencoders."""

import pytest
import torch

from crosscoders import (
    ArchitectureChoice,
    CheckpointInfo,
    ConfigError,
    Crosscoder,
    InitialisationConfig,
    LatentGroup,
    LossChoice,
    RunConfig,
    Site,
    TrainingConfig,
    Wiring,
    build_crosscoder,
    fit,
    train,
)
from crosscoders.crosscoder.initialise import initialise
from crosscoders.testing import LayerWorld, LayerWorldConfig, synthetic_run

SITES = (Site("a/x", 8), Site("b/x", 8), Site("c/x", 5))
NAMES = tuple(site.name for site in SITES)


def start(config=None, *, wiring=None, **options):
    wiring = wiring or Wiring(sites=SITES, groups=(LatentGroup("all", 40, NAMES, NAMES),))
    crosscoder = Crosscoder(wiring)
    generator = torch.Generator().manual_seed(0)
    initialise(crosscoder, config, decoder_norm=0.3, generator=generator, **options)
    return crosscoder


def test_default_is_the_transpose_and_the_same_at_sites_of_one_width():
    crosscoder = start()
    assert torch.equal(crosscoder.W_enc[0], crosscoder.W_dec[0])
    assert torch.equal(crosscoder.decoder_rows("a/x"), crosscoder.decoder_rows("b/x"))
    torch.testing.assert_close(crosscoder.decoder_norms(), torch.full((40, 3), 0.3))


def test_scale_norm_difference_and_random_encoders():
    config = InitialisationConfig(encoder_scale=2.0, decoder_norm=0.7, same_across_sites=False)
    crosscoder = start(config)
    torch.testing.assert_close(crosscoder.W_enc[0], 2 * crosscoder.W_dec[0])
    torch.testing.assert_close(crosscoder.decoder_norms(), torch.full((40, 3), 0.7))
    assert not torch.allclose(crosscoder.decoder_rows("a/x"), crosscoder.decoder_rows("b/x"))
    random = start(InitialisationConfig(encoder="random"))
    cosine = torch.nn.functional.cosine_similarity(random.W_enc[0], random.W_dec[0])
    assert cosine.abs().mean() < 0.4


def test_decoder_bias_is_mean_geometric_median_or_zero():
    sample = torch.randn(501, 21) + 1
    sample[:40] += 1000  # outliers move the mean, hardly the median
    mean = sample.mean(0)
    assert torch.equal(start(mean_X=mean, sample_BX=sample).b_dec_X, mean)
    median = start(InitialisationConfig(decoder_bias="geometric_median"), sample_BX=sample).b_dec_X
    assert (median - 1).abs().max() < 0.6 < (mean - 1).abs().min()
    # At the minimum of the summed distances the unit vectors to the points cancel, at each site.
    for name, columns in start().layout.slices.items():
        unit = torch.nn.functional.normalize(sample[:, columns] - median[columns], dim=1)
        assert unit.sum(0).norm() < 0.02 * 501, name
    assert start(InitialisationConfig(decoder_bias="zero"), mean_X=mean).b_dec_X.abs().max() == 0
    with pytest.raises(ConfigError, match="geometric_median' needs a sample"):
        start(InitialisationConfig(decoder_bias="geometric_median"))


@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_encoder_biases_give_every_latent_the_same_rate(threshold):
    sample = torch.randn(4000, 21) * torch.linspace(0.5, 2.0, 21) + 0.3
    config = InitialisationConfig(firing_rate=0.05)
    crosscoder = start(config, sample_BX=sample, firing_threshold=threshold)
    rate = (crosscoder.pre_activations(sample) > threshold).float().mean(0)
    torch.testing.assert_close(rate, torch.full((40,), 0.05), rtol=0.02, atol=1e-3)
    with pytest.raises(ConfigError, match="firing_rate needs a sample"):
        start(config)


def test_a_run_takes_the_table_and_its_own_threshold(tmp_path):
    data = synthetic_run(str(tmp_path), initialisation={"firing_rate": 0.1, "decoder_bias": "geometric_median"})
    data["loss"] = {"name": "jumprelu", "threshold": 0.3}
    data["training"] |= {"num_tokens": 256, "lr": 1e-6}
    crosscoder = train(RunConfig.from_dict(data), quiet=True)
    assert crosscoder.info.metrics["l0"] == pytest.approx(0.1 * 32, rel=0.3)


WORLD = LayerWorld(LayerWorldConfig(num_layers=2, num_features=12, width=16, min_rate=0.05, max_rate=0.1, min_span=1))


def world_batches(points, steps=400):
    for step in range(steps):
        ids = torch.arange(step * 256, step * 256 + 256)
        yield torch.cat(list(WORLD.activations(points, ids).values()), dim=1)


@pytest.fixture(scope="module")
def saes(tmp_path_factory):
    """An autoencoder for each of two layers, saved."""
    folder = tmp_path_factory.mktemp("saes")
    for point in ("layers.0", "layers.1"):
        choice = ArchitectureChoice.of("sae", num_latents=16)
        sae = build_crosscoder(choice, (Site(f"m/{point}", 16),))
        config = TrainingConfig(num_tokens=400 * 256, batch_size=256, lr=5e-3)
        list(fit(sae, LossChoice.of("l1", weight=0.5).build(), world_batches([point]), config))
        sae.info = CheckpointInfo.from_architecture(choice)
        sae.save_pretrained(folder / point)
    return {f"m/{point}": str(folder / point) for point in ("layers.0", "layers.1")}


def warm(saes, *, num_latents=32, architecture="acausal", **options):
    sites = (Site("m/layers.0", 16), Site("m/layers.1", 16))
    crosscoder = build_crosscoder(architecture, sites, num_latents=num_latents)
    crosscoder.normaliser.set_mean_norms(torch.tensor([1.7, 0.9]))  # not what the autoencoders were trained with
    generator = torch.Generator().manual_seed(0)
    initialise(crosscoder, InitialisationConfig(from_saes=saes, **options), decoder_norm=0.4, generator=generator)
    return crosscoder


def test_taken_latents_do_what_they_did_in_their_autoencoder(saes):
    crosscoder = warm(saes, duplicate_response=1e9, same_across_sites=False)
    x = WORLD.activations(["layers.0", "layers.1"], torch.arange(10**6, 10**6 + 500))
    f_BF = crosscoder.pre_activations(crosscoder.normalised(torch.cat(list(x.values()), 1))).relu()
    written = crosscoder.split(
        crosscoder.normaliser.undo(crosscoder.decode_without_bias(f_BF), crosscoder.written.names)
    )
    for point, site in (("layers.0", "m/layers.0"), ("layers.1", "m/layers.1")):
        sae = Crosscoder.from_pretrained(saes[site])
        alone = sae.decode(sae.encode(x[point])) - sae.normaliser.undo(sae.b_dec_X, sae.written.names)
        torch.testing.assert_close(written[site], alone, rtol=1e-3, atol=1e-3)


def test_duplicates_of_an_earlier_layer_are_left_out(saes):
    """Features on both layers are in both autoencoders, their rows at cosine 0.95."""
    both = int(((WORLD.strength_CL > 0).sum(1) == 2).sum())
    only_second = int((WORLD.windows_C2[:, 0] == 1).sum())
    everything, fresh = (warm(saes, duplicate_response=r) for r in (1e9, 0.7))
    reads_second = [int((c.W_enc[0][:, :16].abs().sum(1) == 0).sum()) for c in (everything, fresh)]
    assert reads_second[0] == 16 and both > 3
    assert only_second - 1 <= reads_second[1] <= 16 - both


def test_a_group_takes_only_what_it_reads(saes):
    crosscoder = warm(saes, architecture="per_layer_saes", same_across_sites=True)
    sae = Crosscoder.from_pretrained(saes["m/layers.1"])
    unit = [torch.nn.functional.normalize(rows, dim=1) for rows in (crosscoder.W_dec[1], sae.W_dec[0])]
    torch.testing.assert_close((unit[0] * unit[1]).sum(1), torch.ones(16))


def test_what_cannot_be_taken_is_named(saes, tmp_path):
    with pytest.raises(ConfigError, match="m/nowhere, which is not a site"):
        warm({"m/nowhere": saes["m/layers.0"]})
    wide = ArchitectureChoice.of("sae", num_latents=4)
    made = build_crosscoder(wide, (Site("m/x", 7),))
    made.info = CheckpointInfo.from_architecture(wide)
    made.save_pretrained(tmp_path / "wide")
    with pytest.raises(ConfigError, match="one site of width 16"):
        warm({"m/layers.0": str(tmp_path / "wide")})


def test_a_warm_start_begins_better_than_a_random_one(saes):
    points = ["layers.0", "layers.1"]
    explained = []
    for config in (InitialisationConfig(), InitialisationConfig(from_saes=saes)):
        sites = tuple(Site(f"m/{point}", 16) for point in points)
        crosscoder = build_crosscoder("acausal", sites, num_latents=32)
        training = TrainingConfig(num_tokens=10 * 256, batch_size=256, lr=1e-3)
        loss = LossChoice.of("l1", weight=0.5).build()
        reports = list(fit(crosscoder, loss, world_batches(points), training, initialisation=config))
        explained.append(min(reports[0].explained_variance.values()))
    assert explained[1] > 0.5 > explained[0]
