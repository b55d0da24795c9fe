"""Sites, wiring, and a wiring that is none of the shipped ones."""

import copy
import json

import pytest
import torch

from crosscoders import (
    CheckpointError,
    ConfigError,
    Crosscoder,
    LatentGroup,
    Site,
    SiteError,
    SiteLayout,
    Wiring,
    build_crosscoder,
)
from crosscoders.crosscoder.gates import TopKGate, gate_from_config
from crosscoders.crosscoder.initialise import InitialisationConfig, initialise

SITES = (Site("m/a", 3), Site("m/b", 2), Site("n/c", 4))


def dedicated(sites=SITES):
    """Groups that read and write sites which do not lie side by side."""
    return Wiring(
        sites=sites,
        groups=(
            LatentGroup("ends", 4, reads=("m/a", "n/c"), writes=("m/a", "n/c")),
            LatentGroup("middle", 3, reads=("m/b",), writes=("m/a", "m/b")),
            LatentGroup("all", 5, reads=("m/a", "m/b", "n/c"), writes=("m/b", "n/c")),
        ),
    )


def test_pack_and_unpack():
    layout = SiteLayout(SITES)
    parts = {site.name: torch.randn(5, site.width) for site in SITES}
    packed = layout.pack(parts)
    assert packed.shape == (5, 9)
    assert all(torch.equal(layout.unpack(packed)[name], part) for name, part in parts.items())


def test_layout_errors_name_sites():
    layout = SiteLayout(SITES)
    with pytest.raises(SiteError, match="no activations for site m/b"):
        layout.pack({"m/a": torch.zeros(1, 3), "n/c": torch.zeros(1, 4)})
    with pytest.raises(SiteError, match="m/b has width 2"):
        layout.pack({"m/a": torch.zeros(1, 3), "m/b": torch.zeros(1, 3), "n/c": torch.zeros(1, 4)})
    with pytest.raises(SiteError, match="unknown site x"):
        layout.subset(["x"])
    with pytest.raises(SiteError, match="twice"):
        SiteLayout((SITES[0], SITES[0]))


def test_columns_are_a_slice_where_they_can_be():
    layout = SiteLayout(SITES)
    assert layout.columns(["m/b", "n/c"]) == slice(3, 9)
    assert layout.columns(["m/a", "n/c"]).tolist() == [0, 1, 2, 5, 6, 7, 8]


def test_wiring_errors():
    with pytest.raises(ConfigError, match="no latent reads or writes site n/c"):
        Wiring(sites=SITES, groups=(LatentGroup("g", 2, reads=("m/a",), writes=("m/b",)),))
    with pytest.raises(SiteError, match="unknown site q"):
        Wiring(sites=SITES, groups=(LatentGroup("g", 2, reads=("q",), writes=("m/b",)),))
    with pytest.raises(ConfigError, match="share a name"):
        Wiring(sites=SITES[:1], groups=(LatentGroup("g", 2, ("m/a",), ("m/a",)),) * 2)


@pytest.mark.parametrize(
    ("ties", "message"),
    [
        ([[("g", "m/a"), ("h", "m/c")]], "one shape"),
        ([[("g", "m/a"), ("h", "m/b")]], "does not write m/b"),
        ([[("g", "m/a"), ("nope", "m/a")]], "no latent group is called 'nope'; available: g, h"),
        ([[("g", "m/a"), ("h", "m/a")], [("h", "m/a"), ("h", "m/c")]], "tied twice"),
    ],
)
def test_impossible_ties_are_refused(ties, message):
    sites = (Site("m/a", 3), Site("m/b", 3), Site("m/c", 4))
    groups = (LatentGroup("g", 2, ("m/a",), ("m/a", "m/b")), LatentGroup("h", 2, ("m/b",), ("m/a", "m/c")))
    with pytest.raises(ConfigError, match=message):
        Wiring(sites=sites, groups=groups, ties=ties)


def test_costs_count_only_the_blocks_in_the_table():
    wiring = dedicated()
    crosscoder = Crosscoder(wiring)
    assert wiring.num_weights == sum(w.numel() for w in (*crosscoder.W_enc, *crosscoder.W_dec))
    assert wiring.encoder_flops_per_token == 2 * (4 * 7 + 3 * 2 + 5 * 9)


@pytest.mark.parametrize("sparse", [True, False])
def test_general_wiring_equals_masked_dense_matrices(sparse):
    """The naive version: full matrices with zeros where the wiring has no block."""
    crosscoder = Crosscoder(dedicated())
    initialise(
        crosscoder,
        InitialisationConfig(same_across_sites=False),
        decoder_norm=0.8,
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        crosscoder.b_enc_F.normal_()
        crosscoder.b_dec_X.normal_()
    crosscoder.normaliser.set_mean_norms(torch.tensor([1.0, 2.0, 3.0]))
    crosscoder.gate = TopKGate(4)
    full_enc, full_dec = torch.zeros(12, 9), torch.zeros(12, 9)
    start = 0
    for group, W_enc, W_dec in zip(crosscoder.wiring.groups, crosscoder.W_enc, crosscoder.W_dec):
        rows = slice(start, start + group.num_latents)
        for full, names, W in ((full_enc, group.reads, W_enc), (full_dec, group.writes, W_dec)):
            at = 0
            for name in names:
                columns = crosscoder.layout.slices[name]
                full[rows, columns] = W[:, at : at + columns.stop - columns.start]
                at += columns.stop - columns.start
        start += group.num_latents
    x_BX = torch.randn(20, 9)
    scale_X = torch.tensor([3**0.5 / 1] * 3 + [2**0.5 / 2] * 2 + [2.0 / 3] * 4)
    f_BF = torch.relu((x_BX * scale_X) @ full_enc.T + crosscoder.b_enc_F)
    norm_F = sum(full_dec[:, columns].norm(dim=1) for columns in crosscoder.layout.slices.values())
    keep = torch.zeros_like(f_BF).scatter_(1, (f_BF * norm_F).topk(4, dim=1).indices, 1.0)
    f_BF = f_BF * keep
    expected = (f_BF @ full_dec + crosscoder.b_dec_X) / scale_X
    latents = crosscoder.encode(x_BX)
    torch.testing.assert_close(latents.dense(), f_BF)
    torch.testing.assert_close(crosscoder.decode(latents if sparse else latents.dense()), expected)


def test_normaliser_makes_mean_norms_root_width():
    crosscoder = Crosscoder(dedicated())
    x_BX = torch.randn(4000, 9) * torch.tensor([5.0] * 3 + [0.1] * 2 + [40.0] * 4)
    norms = torch.stack([part.norm(dim=1).mean() for part in crosscoder.layout.unpack(x_BX).values()])
    crosscoder.normaliser.set_mean_norms(norms)
    for site in SITES:
        part = crosscoder.layout.unpack(crosscoder.normalised(x_BX))[site.name]
        assert part.norm(dim=1).mean().item() == pytest.approx(site.width**0.5, rel=1e-5)
    with pytest.raises(SiteError, match="positive and finite"):
        crosscoder.normaliser.set_mean_norms(torch.tensor([1.0, float("nan"), 1.0]))


@pytest.mark.parametrize("group_sizes", [(), (5, 7)])
@pytest.mark.parametrize("by", ["score", "activation"])
def test_topk_gate_ranks_as_it_says(by, group_sizes):
    f_BF, norm_F = torch.rand(30, 12), torch.linspace(0.1, 3.0, 12)
    gate = TopKGate(2, by=by, group_sizes=group_sizes)
    again = gate_from_config(json.loads(json.dumps({"name": gate.name, **gate.options()})))
    rank_BF = f_BF * norm_F if by == "score" else f_BF
    keep_BF = gate.keep(f_BF, norm_F)
    assert torch.equal(keep_BF, again.keep(f_BF, norm_F))
    for part in torch.arange(12).split(group_sizes or (12,)):
        cut_B = rank_BF[:, part].topk(2).values[:, -1:]
        assert torch.equal(keep_BF[:, part], rank_BF[:, part] >= cut_B)


def test_topk_gate_refuses_another_ranking():
    with pytest.raises(CheckpointError, match="by 'score' or by 'activation'"):
        TopKGate(2, by="size")


def test_unknown_normalisation_is_refused_until_given_or_estimated(tmp_path):
    crosscoder = build_crosscoder("acausal", SITES, num_latents=4)
    crosscoder.normaliser.set_unknown([SITES[0].name])
    crosscoder.save_pretrained(tmp_path / "saved")
    assert "unknown" in (tmp_path / "saved" / "README.md").read_text()
    crosscoder = Crosscoder.from_pretrained(tmp_path / "saved")
    x_BX = torch.randn(50, crosscoder.layout.width)
    for use in (crosscoder.encode, crosscoder, crosscoder.normalised, lambda _: crosscoder.folded()):
        with pytest.raises(SiteError, match="unknown"):
            use(x_BX)
    given, estimated = copy.deepcopy(crosscoder), copy.deepcopy(crosscoder)
    given.normaliser.set_scales({SITES[0].name: 2.0})
    given.encode(x_BX)
    estimated.normaliser.estimate(x_BX)
    first = x_BX[:, estimated.layout.slices[SITES[0].name]]
    scale = SITES[0].width ** 0.5 / first.norm(dim=1).mean()
    torch.testing.assert_close(estimated.normaliser.scale_of(SITES[0].name), scale)
    assert estimated.normaliser.scale_S[1:].equal(torch.ones(len(SITES) - 1))
    with pytest.raises(SiteError, match="positive and finite"):
        given.normaliser.set_scales({SITES[0].name: 0.0})


def test_thousands_of_sites_are_quick():
    """Tables are checked in time that grows with what they hold; with the square of it, this took minutes."""
    from time import perf_counter

    sites = tuple(Site(f"m/layers.{i}", 2) for i in range(3000))
    start = perf_counter()
    groups = tuple(LatentGroup(site.name, 2, reads=(site.name,), writes=(site.name,)) for site in sites)
    with torch.device("meta"):
        assert Crosscoder(Wiring(sites=sites, groups=groups)).num_latents == 6000
    assert perf_counter() - start < 20
    with pytest.raises(SiteError, match="unknown site x; the sites are .*and 2,995 more"):
        Wiring(sites=sites, groups=groups).layout.subset(["x"])
