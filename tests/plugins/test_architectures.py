"""Architectures: conformance, and that the special cases are the general wiring."""

import pytest
import torch

from crosscoders import (
    ArchitectureChoice,
    ConfigError,
    Crosscoder,
    LossChoice,
    Site,
    StepContext,
    TrainingConfig,
    build_crosscoder,
    fit,
)
from crosscoders.crosscoder.initialise import initialise
from crosscoders.testing import ArchitectureSuite

A, B = Site("m/a", 6), Site("m/b", 4)


class TestAcausal(ArchitectureSuite):
    name = "acausal"
    options = {"num_latents": 12}


class TestSae(ArchitectureSuite):
    name = "sae"
    options = {"num_latents": 12}
    sites = (A,)


class TestTranscoder(ArchitectureSuite):
    name = "transcoder"
    options = {"num_latents": 12}
    sites = (A, B)


class TestSkipTranscoder(ArchitectureSuite):
    name = "transcoder"
    options = {"num_latents": 12, "skip": True}
    sites = (A, B)


@pytest.mark.claim("E3", "one site: the sparse autoencoder; read a, write b: the transcoder")
def test_one_site_crosscoder_is_the_sae():
    """E3: over one site the crosscoder has the autoencoder's wiring and numbers."""
    made = []
    for name in ("acausal", "sae"):
        crosscoder = Crosscoder(ArchitectureChoice.of(name, num_latents=20).build((A,)))
        initialise(crosscoder, decoder_norm=1.0, generator=torch.Generator().manual_seed(0))
        made.append(crosscoder)
    x_BX = torch.randn(30, 6)
    assert made[0].wiring == made[1].wiring
    assert torch.equal(made[0](x_BX), made[1](x_BX))


@pytest.mark.claim("E3", "one site: the sparse autoencoder; read a, write b: the transcoder")
def test_sae_by_hand():
    """E3: against a plain autoencoder written out."""
    crosscoder = Crosscoder(ArchitectureChoice.of("sae", num_latents=20).build((A,)))
    initialise(crosscoder, decoder_norm=1.0, generator=torch.Generator().manual_seed(0))
    crosscoder.b_dec_X.data.normal_()
    x_BX = torch.randn(30, 6)
    f_BF = torch.relu(x_BX @ crosscoder.W_enc[0].T + crosscoder.b_enc_F)
    torch.testing.assert_close(crosscoder(x_BX), f_BF @ crosscoder.W_dec[0] + crosscoder.b_dec_X)


@pytest.mark.claim("E3", "one site: the sparse autoencoder; read a, write b: the transcoder")
def test_transcoder_reads_a_and_writes_b():
    """E3: the written site's activations do not matter for encoding, the read one's not for the target."""
    crosscoder = Crosscoder(ArchitectureChoice.of("transcoder", num_latents=20).build((A, B)))
    initialise(crosscoder, decoder_norm=1.0, generator=torch.Generator().manual_seed(0))
    a_BD, b_BD = torch.randn(30, 6), torch.randn(30, 4)
    assert torch.equal(crosscoder.encode({"m/a": a_BD}).dense(), crosscoder.encode({"m/a": a_BD, "m/b": b_BD}).dense())
    assert crosscoder.target(torch.cat([a_BD, b_BD], 1)).equal(b_BD)
    assert set(crosscoder.split(crosscoder({"m/a": a_BD}))) == {"m/b"}


def test_wrong_number_of_sites_is_refused():
    with pytest.raises(ConfigError, match="one site, not 2"):
        ArchitectureChoice.of("sae").build((A, B))
    with pytest.raises(ConfigError, match="two sites"):
        ArchitectureChoice.of("transcoder").build((A,))


# -- variants over layers and models ------------------------------------------------------------------------------

LAYERS = (Site("m/0", 6), Site("m/1", 4), Site("m/2", 6))
EQUAL = (Site("m/0", 6), Site("m/1", 6), Site("m/2", 6))
PAIR = (Site("a/0", 6), Site("a/1", 4), Site("b/0", 6), Site("b/1", 4))
CLT = (Site("m/in0", 6), Site("m/in1", 5), Site("m/in2", 6), Site("m/out0", 4), Site("m/out1", 4), Site("m/out2", 4))


class TestPerLayerSaes(ArchitectureSuite):
    name = "per_layer_saes"
    options = {"num_latents": 11}


class TestLocal(ArchitectureSuite):
    name = "local"
    options = {"num_latents": 11, "window": 2}


class TestWeaklyCausal(ArchitectureSuite):
    name = "weakly_causal"
    options = {"num_latents": 11}


class TestWeaklyCausalReadingUpTo(ArchitectureSuite):
    name = "weakly_causal"
    options = {"num_latents": 11, "reads": "up_to"}


class TestStrictlyCausal(ArchitectureSuite):
    name = "strictly_causal"
    options = {"num_latents": 12, "skip": True}
    sites = CLT


@pytest.mark.parametrize("tying", ["none", "per_source", "per_target"])
def test_strictly_causal_with_skip_is_causal(tying):
    """Nothing read at a layer, through latents or past them, changes what is written at an earlier one."""
    choice = ArchitectureChoice.of("strictly_causal", num_latents=12, skip=True, tying=tying)
    crosscoder = build_crosscoder(choice, CLT)
    with torch.no_grad():
        for parameter in crosscoder.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    x_BX = torch.randn(7, crosscoder.layout.width)
    before = crosscoder.split(crosscoder(x_BX))
    for layer in range(3):
        changed = x_BX.clone()
        changed[:, crosscoder.layout.slices[f"m/in{layer}"]] += 1.0
        after = crosscoder.split(crosscoder(changed))
        for written in range(3):
            same = torch.equal(after[f"m/out{written}"], before[f"m/out{written}"])
            assert same == (written < layer), (layer, written)


def test_skip_of_a_clt_is_a_block_for_each_layer():
    crosscoder = build_crosscoder("strictly_causal", CLT, num_latents=12, skip=True)
    assert [tuple(W.shape) for W in crosscoder.W_skip] == [(4, 6), (4, 5), (4, 6)]
    assert crosscoder.wiring.num_weights == sum(p.numel() for p in (*crosscoder.W_enc, *crosscoder.W_dec)) + 4 * 17
    # Gemma-2-2B: 26 layers of width 2304 in fp32 take 0.55 GB, where one map of all to all would take 14.4 GB.
    assert 26 * 2304**2 * 4 < 0.56e9


class TestExplicit(ArchitectureSuite):
    name = "explicit"
    options = {
        "groups": [
            {"name": "one", "num_latents": 5, "reads": ["m/0"], "writes": ["m/1", "m/2"]},
            {"name": "two", "num_latents": 3, "reads": ["m/0", "m/1"], "writes": ["m/2"]},
            {"name": "three", "num_latents": 5, "reads": ["m/1"], "writes": ["m/1", "m/2"]},
        ],
        "skip": [["m/0", "m/1"], ["m/0", "m/2"]],
        "ties": [[["one", "m/1"], ["three", "m/1"]]],
    }
    sites = LAYERS


@pytest.mark.parametrize(
    "skip",
    [[["m/0", "m/9"]], [["m/0", "m/0"]], [["m/0", "m/1"], ["m/0", "m/1"]]],
    ids=["unknown", "unwritten", "twice"],
)
def test_explicit_refuses_impossible_skip_blocks(skip):
    group = {"name": "g", "num_latents": 4, "reads": ["m/0"], "writes": ["m/1", "m/2"]}
    with pytest.raises(ConfigError, match="skip block"):
        build_crosscoder("explicit", LAYERS, groups=[group], skip=skip)


class TestStrictlyCausalTiedPerSource(ArchitectureSuite):
    name = "strictly_causal"
    options = {"num_latents": 11, "tying": "per_source"}
    sites = CLT


class TestStrictlyCausalTiedPerTarget(ArchitectureSuite):
    name = "strictly_causal"
    options = {"num_latents": 12, "tying": "per_target"}
    sites = CLT


class TestPrePostMlp(ArchitectureSuite):
    name = "pre_post_mlp"
    options = {"num_latents": 12}
    sites = (A, B)


class TestPrePostMlpReadingPre(ArchitectureSuite):
    name = "pre_post_mlp"
    options = {"num_latents": 12, "reads": "pre"}
    sites = (A, B)


class TestDedicated(ArchitectureSuite):
    name = "dedicated"
    options = {"num_latents": 20, "exclusive_share": 0.2}
    sites = PAIR


class TestDesignatedShared(ArchitectureSuite):
    name = "designated_shared"
    options = {"num_latents": 20, "designated_share": 0.3}
    sites = PAIR


class TestFactored(ArchitectureSuite):
    name = "factored"
    options = {"num_latents": 12, "rank": 2}
    sites = EQUAL


class TestMatryoshka(ArchitectureSuite):
    name = "matryoshka"
    options = {"of": {"name": "acausal", "num_latents": 12}, "levels": [0.25, 1.0]}


class TestMatryoshkaOverFactored(ArchitectureSuite):
    name = "matryoshka"
    options = {"of": {"name": "factored", "num_latents": 12}, "levels": [0.25, 1.0]}
    sites = EQUAL


class TestMatryoshkaOverClt(ArchitectureSuite):
    name = "matryoshka"
    options = {"of": {"name": "strictly_causal", "num_latents": 12, "tying": "per_target"}, "levels": [0.25, 1.0]}
    sites = CLT


def made(name, sites, *, seed=0, dtype=torch.float64, **options):
    crosscoder = build_crosscoder(name, sites, **options).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for parameter in crosscoder.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return crosscoder


def step_of(num_tokens, **changes):
    return StepContext(**{"step": 50, "total_steps": 100, "warmed_up": True, "num_tokens": num_tokens, **changes})


SUMS = [
    ("l1", {"weight": 0.5}),
    ("batchtopk", {"k": 2, "scope": "group"}),
    ("jumprelu", {"weight": 0.5, "pre_weight": 0.1}),
]
"""Losses that are sums over the groups of latents."""


def test_window_of_one_is_per_layer_saes_and_of_all_is_acausal():
    one = ArchitectureChoice.of("local", num_latents=12, window=1).build(LAYERS)
    assert one == ArchitectureChoice.of("per_layer_saes", num_latents=12).build(LAYERS)
    whole = ArchitectureChoice.of("local", num_latents=12, window=3).build(LAYERS)
    assert [(g.reads, g.writes) for g in whole.groups] == [
        (g.reads, g.writes) for g in ArchitectureChoice.of("acausal", num_latents=12).build(LAYERS).groups
    ]


@pytest.mark.claim("E6", "per-layer SAEs as one object: losses and gradients of separate SAEs")
@pytest.mark.parametrize(("loss", "options"), SUMS)
def test_per_layer_saes_equal_separate_saes(loss, options):
    together = made("per_layer_saes", LAYERS, num_latents=15)
    x_BX = torch.randn(40, together.layout.width, dtype=torch.float64)
    made_loss = LossChoice.of(loss, **options).build().train()
    made_loss.attach(together)
    made_loss.to(torch.float64)
    terms = made_loss(together, x_BX, step_of(40)).terms
    sum(terms.values()).backward()
    sums = dict.fromkeys(terms, 0.0)
    for number, site in enumerate(LAYERS):
        alone = made("sae", (site,), num_latents=5)
        latents = together.wiring.latent_slices[site.name]
        alone.W_enc[0].data, alone.W_dec[0].data = together.W_enc[number].data, together.W_dec[number].data
        alone.b_enc_F.data = together.b_enc_F.data[latents]
        alone.b_dec_X.data = together.b_dec_X.data[together.written.slices[site.name]]
        own_loss = LossChoice.of(loss, **options).build().train()
        own_loss.attach(alone)
        own_loss.to(torch.float64)
        own = own_loss(alone, x_BX[:, together.layout.slices[site.name]], step_of(40)).terms
        sum(own.values()).backward()
        for name, term in own.items():
            sums[name] += term.item()
        torch.testing.assert_close(alone.W_enc[0].grad, together.W_enc[number].grad)
        torch.testing.assert_close(alone.W_dec[0].grad, together.W_dec[number].grad)
        torch.testing.assert_close(alone.b_enc_F.grad, together.b_enc_F.grad[latents])
    for name, term in terms.items():
        assert term.item() == pytest.approx(sums[name], rel=1e-6), name


@pytest.mark.claim("E4", "causal masks: early reconstructions have no gradient from later inputs")
@pytest.mark.parametrize(
    ("name", "sites", "options"),
    [
        ("weakly_causal", LAYERS, {}),
        ("weakly_causal", LAYERS, {"reads": "up_to"}),
        ("strictly_causal", CLT, {}),
        ("strictly_causal", CLT, {"tying": "per_source"}),
        ("strictly_causal", CLT, {"tying": "per_target"}),
    ],
)
def test_causal_masks_are_exact(name, sites, options):
    crosscoder = made(name, sites, num_latents=15, **options)
    reads, writes = crosscoder.wiring.read.names, crosscoder.written.names
    x_BX = torch.randn(20, crosscoder.layout.width, dtype=torch.float64, requires_grad=True)
    f_BF = crosscoder.pre_activations(x_BX).relu()
    x_hat = crosscoder.split(crosscoder.decode_normalised(f_BF, x_BX))
    for depth, written in enumerate(writes):
        (grad,) = torch.autograd.grad(x_hat[written].square().sum(), x_BX, retain_graph=True)
        for later, read in enumerate(reads):
            part = grad[:, crosscoder.layout.slices[read]]
            assert (part.abs().max() == 0) == (later > depth), (written, read)


@pytest.mark.claim("E4", "dedicated features: the opposite decoder is exactly zero after every step")
@pytest.mark.parametrize("loss", ["batchtopk", "dfc", "l1"])
def test_dedicated_latents_stay_zero_at_the_other_model(loss):
    crosscoder = made("dedicated", PAIR, num_latents=20, exclusive_share=0.2, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    batches = (torch.randn(32, 20, generator=generator) for _ in range(9))
    opposite = {"a": ("b/0", "b/1"), "b": ("a/0", "a/1")}
    made_loss = LossChoice.of(loss, **({} if loss == "l1" else {"k": 3})).build()
    for _ in fit(crosscoder, made_loss, batches, TrainingConfig(num_tokens=256, batch_size=32, lr=0.1)):
        for group, sites in opposite.items():
            for site in sites:
                assert crosscoder.decoder_rows(site)[crosscoder.wiring.latent_slices[group]].abs().max() == 0


def test_designated_latents_are_tied_after_training_and_free_ones_are_not():
    crosscoder = made("designated_shared", PAIR, num_latents=20, designated_share=0.3, dtype=torch.float32)
    batches = (torch.randn(32, 20) for _ in range(9))
    config = TrainingConfig(num_tokens=256, batch_size=32, lr=0.05)
    list(fit(crosscoder, LossChoice.of("batchtopk", k=3).build(), batches, config))
    for one, other in (("a/0", "b/0"), ("a/1", "b/1")):
        rows = crosscoder.decoder_rows(one), crosscoder.decoder_rows(other)
        designated = crosscoder.wiring.latent_slices["designated"]
        assert torch.equal(rows[0][designated], rows[1][designated])
        assert not torch.allclose(rows[0][designated.stop :], rows[1][designated.stop :])


def test_tied_gradient_is_the_sum_over_the_tied_blocks():
    """Against untied weights that happen to be equal."""
    tied = made("strictly_causal", CLT, num_latents=12, tying="per_source")
    free = made("strictly_causal", CLT, num_latents=12)
    for number in range(3):
        free.set_weights(number, tied.encoder_weight(number).detach(), tied.decoder_weight(number).detach())
    free.b_enc_F.data, free.b_dec_X.data = tied.b_enc_F.data, tied.b_dec_X.data
    x_BX = torch.randn(20, tied.layout.width, dtype=torch.float64)
    for crosscoder in (tied, free):
        loss = LossChoice.of("batchtopk", k=3).build().train()
        sum(loss(crosscoder, x_BX, step_of(20)).terms.values()).backward()
    for number, group in enumerate(tied.wiring.groups):
        blocks = free.layout.subset(group.writes).unpack(free.W_dec[number].grad)
        torch.testing.assert_close(tied.W_dec[number].grad, sum(blocks.values()))
    assert tied.wiring.num_weights == free.wiring.num_weights - 4 * 4 * (2 + 1)


def test_rows_tied_per_target_are_shared_by_all_sources():
    crosscoder = made("strictly_causal", CLT, num_latents=12, tying="per_target")
    last = crosscoder.decoder_rows("m/out2").view(3, 4, 4)
    assert torch.equal(last[0], last[1]) and torch.equal(last[1], last[2])
    assert crosscoder.W_dec[0].shape == (4, 12) and crosscoder.W_dec[1].numel() == 0


def test_factored_rows_have_low_rank_and_full_rank_is_no_restriction():
    low = made("factored", EQUAL, num_latents=10, rank=1)
    assert torch.linalg.matrix_rank(low.decoder_weight(0).view(10, 3, 6)).tolist() == [1] * 10
    full = made("factored", EQUAL, num_latents=10, rank=3)
    W = torch.randn(10, 18, dtype=torch.float64)
    full.set_weights(0, W, 2 * W)
    torch.testing.assert_close(full.encoder_weight(0), W, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(full.decoder_weight(0), 2 * W, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "sites", "message"),
    [
        ("local", {"window": 4}, LAYERS, "window of 4 sites is more than the 3"),
        ("strictly_causal", {}, LAYERS, "3 is odd"),
        ("strictly_causal", {"num_latents": 10, "tying": "per_target"}, CLT, "not a multiple of 3"),
        ("pre_post_mlp", {}, LAYERS, "two sites, .* not 3"),
        ("dedicated", {}, LAYERS, "two models or more, not only in m"),
        ("designated_shared", {}, PAIR[:3], "2 in a, 1 in b"),
        ("designated_shared", {}, (Site("a/0", 6), Site("b/0", 4)), "widths differ"),
        ("factored", {}, LAYERS, "sites of one width"),
        ("factored", {"rank": 4}, EQUAL, "rank of 4 is more than the 3 sites"),
        ("per_layer_saes", {"num_latents": 2}, LAYERS, "2 latents are too few for 3 groups"),
        ("matryoshka", {"of": {"name": "acausal"}, "levels": [0.5, 0.4, 1.0]}, LAYERS, "increasing shares"),
    ],
)
def test_impossible_wirings_are_refused_with_reasons(name, options, sites, message):
    with pytest.raises(ConfigError, match=message):
        build_crosscoder(name, sites, **options)


def test_costs_are_the_arithmetic_of_the_literature():
    """Ameisen et al. 2025: a cross-layer transcoder has L·d·F encoder and ½L(L+1)·F·d decoder weights."""
    layers, width, per_layer = 12, 768, 10_000
    sites = [Site(f"m/{part}{i}", width) for part in ("in", "out") for i in range(layers)]
    wiring = ArchitectureChoice.of("strictly_causal", num_latents=layers * per_layer).build(tuple(sites))
    assert wiring.encoder_flops_per_token == 2 * layers * width * per_layer
    assert wiring.num_weights == width * per_layer * (layers + layers * (layers + 1) // 2)
    # Lindsey et al. 2024: an acausal crosscoder with F latents costs as much as L SAEs with F latents each.
    layers = tuple(Site(f"m/{i}", 64) for i in range(6))
    acausal = ArchitectureChoice.of("acausal", num_latents=512).build(layers)
    saes = ArchitectureChoice.of("per_layer_saes", num_latents=6 * 512).build(layers)
    assert acausal.training_flops_per_token() == saes.training_flops_per_token()
    assert acausal.decoder_flops_per_token(512) == acausal.decoder_flops_per_token()


def test_levels_of_nested_groups_are_prefixes():
    options = {"of": {"name": "dedicated", "num_latents": 40, "exclusive_share": 0.2}, "levels": [0.25, 0.5, 1.0]}
    wiring = ArchitectureChoice.of("matryoshka", **options).build(PAIR)
    assert [wiring.level_sizes(group) for group in wiring.groups] == [(2, 2, 4), (2, 2, 4), (6, 6, 12)]
