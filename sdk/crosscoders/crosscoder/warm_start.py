"""Starting from a trained crosscoder of the same architecture, or from trained single-site autoencoders, one per site.

Gemma Scope 2 starts its crosscoders this way and skips duplicates by the product of early decoder rows and late encoder
rows; its rule is not published in detail. Here a latent is a duplicate if one already copied excites its encoder at
least `duplicate_response` times as much as its own decoder row of the same length does.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import ConfigError, UnansweredError
from .gates import Gate
from .module import Crosscoder
from .wiring import LatentGroup


@torch.no_grad()
def take_crosscoder(crosscoder: Crosscoder, location: str) -> Gate:
    """Give `crosscoder` the weights and the normaliser of the one at `location`; returns the other's gate.

    The normaliser comes with the weights, which mean something only behind it. `ConfigError` where the wiring differs.
    """
    other = Crosscoder.from_pretrained(location, processes=crosscoder.processes)
    problem = _difference(other, crosscoder)
    if problem:
        raise ConfigError(f"initialisation.from_crosscoder: '{location}' {problem}")
    state = {key: value for key, value in other.state_dict().items() if not key.startswith("gate.")}
    crosscoder.load_state_dict(state, strict=False)
    return other.gate


def _difference(other: Crosscoder, crosscoder: Crosscoder) -> str | None:
    """What `other` has different, in words; None where its weights can be taken as they are."""
    theirs, ours = other.wiring, crosscoder.wiring
    for what in ("sites", "groups", "ties", "nesting", "skip"):
        if getattr(theirs, what) != getattr(ours, what):
            if what == "sites":
                described = [", ".join(f"{s.name} of width {s.width}" for s in each.sites) for each in (theirs, ours)]
            elif what == "groups":
                described = [", ".join(f"{g.num_latents} latents '{g.name}'" for g in e.groups) for e in (theirs, ours)]
                if described[0] == described[1]:
                    return "has latents that read and write other sites than those of this run"
            else:
                described = [str(getattr(each, what)) for each in (theirs, ours)]
            return f"has other {what} than this run: {described[0]}, here {described[1]}"
    shapes = [
        {k: v.shape for k, v in each.state_dict().items() if not k.startswith("gate.")} for each in (other, crosscoder)
    ]
    return None if shapes[0] == shapes[1] else "has weights of other names or shapes: it is of another architecture"


@torch.no_grad()
def take_latents(
    crosscoder: Crosscoder, saes: Mapping[str, str], *, duplicate_response: float, norm: float, spread: bool
) -> None:
    """Overwrite the first latents of each group with latents of autoencoders at the sites that it reads.

    The sites of a group get equally many of its latents, in column order. A copied latent reads its own site only, with
    the autoencoder's encoder row. It writes its own site and, with `spread`, every other written site of that width
    with the same row. Decoder rows are scaled to length `norm`, and encoders inversely, so that nothing else changes.
    """
    unknown = set(saes) - set(crosscoder.layout.names)
    if unknown:
        raise ConfigError(f"from_saes names {', '.join(sorted(unknown))}, which is not a site of this crosscoder")
    rows = {name: _rows(crosscoder, name, saes[name]) for name in crosscoder.layout.names if name in saes}
    for index, group in enumerate(crosscoder.wiring.groups):
        sites = [name for name in rows if name in group.reads and name in group.writes]
        if sites:
            _fill(crosscoder, index, group, {name: rows[name] for name in sites}, duplicate_response, norm, spread)


def _rows(crosscoder: Crosscoder, site: str, location: str) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder rows, decoder rows and encoder biases of an autoencoder, in this crosscoder's normalised space."""
    try:
        sae = Crosscoder.from_pretrained(location)
    except UnansweredError:  # of a library whose files do not name the site
        sae = Crosscoder.from_pretrained(location, sites=[site])
    width = crosscoder.layout.subset([site]).width
    if len(sae.sites) != 1 or sae.sites[0].width != width:
        raise ConfigError(f"'{location}' for {site} should be over one site of width {width}, but is over {sae.sites}")
    folded = sae.folded()
    scale_X = crosscoder.normaliser.scale_X((site,)).cpu()
    encoder = torch.cat([folded[f"W_enc.{i}"] for i in range(len(sae.wiring.groups))]) / scale_X
    decoder = torch.cat([folded[f"W_dec.{i}"] for i in range(len(sae.wiring.groups))]) * scale_X
    return encoder, decoder, folded["b_enc_F"]


def _fill(
    crosscoder: Crosscoder,
    index: int,
    group: LatentGroup,
    rows: Mapping[str, tuple[Tensor, Tensor, Tensor]],
    duplicate_response: float,
    norm: float,
    spread: bool,
) -> None:
    reads, writes = crosscoder.layout.subset(group.reads), crosscoder.layout.subset(group.writes)
    W_enc, W_dec = crosscoder.encoder_weight(index).clone(), crosscoder.decoder_weight(index).clone()
    b_enc = crosscoder.b_enc_F[crosscoder.wiring.latent_slices[group.name]]
    taken: dict[int, list[Tensor]] = {}
    start = 0
    for left, (site, (encoder, decoder, bias)) in zip(range(len(rows), 0, -1), rows.items(), strict=True):
        width = writes.subset([site]).width
        length_F = decoder.norm(dim=1).clamp_min(1e-12)
        unit = decoder / length_F[:, None]
        fresh = torch.ones(len(encoder), dtype=torch.bool)
        for earlier in taken.get(width, []):
            own_F = (encoder * unit).sum(dim=1)
            fresh &= (encoder @ earlier.T).amax(dim=1) < duplicate_response * own_F
        chosen = fresh.nonzero().squeeze(1)[: (group.num_latents - start) // left]
        stop = start + len(chosen)
        gain = (norm / length_F[chosen])[:, None]
        W_enc[start:stop] = 0
        W_enc[start:stop, reads.slices[site]] = (encoder[chosen] / gain).to(W_enc)
        b_enc[start:stop] = (bias[chosen] / gain[:, 0]).to(b_enc)
        for other in writes.sites:
            same = other.name == site or (spread and other.width == width)
            W_dec[start:stop, writes.slices[other.name]] = (norm * unit[chosen]).to(W_dec) if same else 0
        taken.setdefault(width, []).append(unit[chosen])
        start = stop
    crosscoder.set_weights(index, W_enc, W_dec)
