"""What other latents say of a latent: that its concept is theirs in more contexts, or that part of it is another's."""

from __future__ import annotations

import torch
from torch import Tensor

from .presence import Presence

ABSENT = 0.2
"""A concept is not at a site where its strength is below this share of that at home: the threshold of ν^ε."""
ALONG = 0.5**0.5
"""Cosine below which less than half of a direction lies along another, so that they are not the same."""
PARTLY = 0.5
"""Cosine from which on a quarter of a direction lies along another."""
SLIGHT = 0.1
"""Share of a latent's energy below which another latent beside it does not count."""
BORROWED = 0.9
"""Cosine from which on what a latent has at a site is another latent's concept."""


def wider_concepts(specific_F: Tensor, in_others_F: Tensor, presence: Presence) -> Tensor:
    """For each specific latent another that is elsewhere too and whose concept it has in more contexts; or −1, (F,).

    Either it has the other's direction at its home, where the other adds a tenth of what it adds or more. Or the other
    adds more than it does, and it adds a part of that at home and takes away a part of it elsewhere: the same concept,
    where it is at one site alone.
    """
    home_F = presence.home_F
    twin_F = torch.full_like(home_F, -1)
    known = in_others_F.nonzero().squeeze(1)
    for h, unit_FD in enumerate(presence.unit):
        mine = (specific_F & (home_F == h)).nonzero().squeeze(1)
        if not len(mine) or not len(known):
            continue
        energy_F = _energy(presence, h)
        share = energy_F[known] / energy_F[mine][:, None].clamp_min(1e-30)
        along = unit_FD[mine] @ unit_FD[known].T
        alike = (along >= ALONG) & (share >= SLIGHT)
        for s, there_FD in enumerate(presence.unit):
            if s != h:
                takes_away = there_FD[mine] @ there_FD[known].T <= -PARTLY
                has_row = (presence.ratio[s].value[mine] >= ABSENT)[:, None]
                alike |= (along >= PARTLY) & takes_away & has_row & (share > 1)
        best = along.masked_fill(~alike, -1.0).max(dim=1)
        twin_F[mine] = torch.where(best.values > 0, known[best.indices], -1)
    return twin_F


def borrowed(rotated_FS: Tensor, presence: Presence, live_F: Tensor) -> Tensor:
    """The latent whose concept is what each latent has at a site; or −1, (F, S).

    The other latent has that direction there, adds more, and is at the first one's home under a direction of its own:
    as a parent whose part a child took over. The same concept under two latents would agree at both sites.
    """
    lender_FS = torch.full_like(rotated_FS, -1, dtype=torch.int64)
    for s, there_FD in enumerate(presence.unit):
        energy_F = _energy(presence, s)
        for h, home_FD in enumerate(presence.unit):
            mine = (rotated_FS[:, s] & (presence.home_F == h)).nonzero().squeeze(1)
            at_home_F = presence.strength_FS[:, h] > ABSENT * presence.strength_FS.max(dim=1).values
            known = (live_F & at_home_F).nonzero().squeeze(1)
            if s == h or not len(mine) or not len(known):
                continue
            along = there_FD[mine] @ there_FD[known].T
            apart = home_FD[mine] @ home_FD[known].T < ALONG
            same = (along >= BORROWED) & (energy_F[known] > energy_F[mine][:, None]) & apart
            best = along.masked_fill(~same, -1.0).max(dim=1)
            lender_FS[mine, s] = torch.where(best.values > 0, known[best.indices], -1)
    return lender_FS


def _energy(presence: Presence, site: int) -> Tensor:
    """What each latent adds at a site over all tokens, (F,)."""
    return presence.square_F * presence.strength_FS[:, site].clamp_min(0).square()
