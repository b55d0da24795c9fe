"""What is decided of each latent: specific to a site, mostly in one, rotated, shared or undecided.

A verdict is about the concept, not about a pair of sites: it does not depend on the reference, and a latent is
specific to one site at most. Each is held against its alternative by a one-sided test; over all latents that fire, a
share of at most `false_discoveries` of those that get a verdict is expected to be wrong by chance (Benjamini and
Hochberg 1995).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from .intervals import Estimate, discoveries
from .neighbours import ABSENT, ALONG, borrowed, wider_concepts
from .presence import REBUILT, Presence, SiteRows

BORNE_OUT, CANCELLED = 0.5, 0.25
"""Of what a latent puts at a site, more than half must be in the activations to count as present, and less than a
quarter shows that it only cancels what other latents put there."""
MOSTLY = 2 / 3
"""Strength elsewhere, relative to that at home, below which a concept is mostly at home."""


@frozen(eq=False)
class Verdicts:
    """One verdict for each latent."""

    verdict: list[str]
    """`specific to S`, `mostly in S`, `rotated`, `shared` or `undecided`."""
    reason: list[str]
    present_FS: Tensor
    """Boolean: sites where the concept was found."""
    absent_FS: Tensor
    """Boolean: sites that it was shown to be absent from. Neither: not decided."""

    def of_kind(self, kind: str) -> list[int]:
        """Latents whose verdict begins with `kind`."""
        return [j for j, verdict in enumerate(self.verdict) if verdict.startswith(kind)]


def decide(presence: Presence, rows: Sequence[SiteRows], *, min_firings: int, false_discoveries: float) -> Verdicts:
    """The verdicts that follow from what was measured. `min_firings` is of the half of the text measured on."""
    names, S = [site.name for site in rows], range(len(rows))
    home_F, live_F = presence.home_F, presence.firings_F >= min_firings
    known_F = live_F & (presence.strength_FS.gather(1, home_F[:, None])[:, 0] > 0)
    p_home_F = torch.stack([presence.borne_out[s].p_above(CANCELLED) for s in S]).gather(0, home_F[None])[0]
    # A row at home that activations do not bear out only corrects what other latents write.
    real_F = _of_live(p_home_F, known_F, false_discoveries)
    corrects_F, live_F = known_F & ~real_F, known_F & real_F
    away_FS = torch.arange(len(rows)) != home_F[:, None]
    # Present: strong enough under its own direction or that of other latents, and borne out by the activations.
    p_cancelled_FS = torch.stack([presence.borne_out[s].p_below(CANCELLED) for s in S], dim=1)
    # Other latents must lead against it; else its row may only be hidden by what fires with it, such as a parent.
    p_cancelled_FS = p_cancelled_FS.masked_fill(presence.others_FS > -ALONG, 1.0)
    p_absent_FS = torch.stack([
        torch.maximum(
            2 * torch.minimum(presence.ratio[s].p_below(ABSENT), p_cancelled_FS[:, s]),
            presence.rebuilt[s].p_below(REBUILT),
        ) for s in S
    ], dim=1).clamp_max(1.0)  # fmt: skip
    p_present_FS = torch.stack([
        torch.maximum(presence.ratio[s].p_above(ABSENT), presence.borne_out[s].p_above(BORNE_OUT)) for s in S
    ], dim=1)  # fmt: skip

    def found(p_FS: Tensor) -> Tensor:
        tested_FS = live_F[:, None] & away_FS
        flags_FS = torch.zeros_like(tested_FS)
        flags_FS[tested_FS] = discoveries(p_FS[tested_FS], false_discoveries)
        return flags_FS

    present_FS, absent_FS = found(p_present_FS), found(p_absent_FS)
    # Specific: absent everywhere else, so the weakest evidence counts.
    p_specific_F = p_absent_FS.masked_fill(~away_FS, 0.0).max(dim=1).values
    specific_F = _of_live(p_specific_F, live_F, false_discoveries)
    p_rotated_FS = torch.ones_like(p_present_FS)
    for s in S:
        if (cosine := presence.cosine[s]) is not None:
            p_rotated_FS[:, s] = cosine.p_below(ALONG)
    rotated_FS = found(torch.where(present_FS, p_rotated_FS, 1.0))
    p_weaker_FS = torch.stack([presence.ratio[s].p_below(MOSTLY) for s in S], dim=1)
    lender_FS = borrowed(rotated_FS, presence, live_F)
    borrowed_FS = lender_FS >= 0
    present_FS &= ~borrowed_FS
    rotated_FS &= ~borrowed_FS
    mostly_F = _of_live(p_weaker_FS.masked_fill(~away_FS, 0.0).max(dim=1).values, live_F, false_discoveries)
    present_FS = present_FS | (live_F[:, None] & ~away_FS)
    in_others_F = ((present_FS | borrowed_FS) & away_FS).any(dim=1) & ~specific_F
    wider_F = wider_concepts(specific_F, in_others_F, presence)

    verdict, reason = [], []
    for j in range(len(home_F)):
        h = int(home_F[j])
        others = [s for s in S if s != h]
        ratio = {s: float(presence.ratio[s].value[j]) for s in others}
        strengths = ", ".join(f"{ratio[s]:.2f} of its strength at {names[s]}" for s in others)
        if bool(corrects_F[j]):
            verdict.append("undecided")
            reason.append(f"its row at {names[h]} is not borne out by the activations: it corrects other latents")
        elif not bool(live_F[j]):
            verdict.append("undecided")
            reason.append(f"only {int(presence.firings_F[j])} firings in the second half of the text")
        elif bool(specific_F[j]) and int(wider_F[j]) >= 0:
            verdict.append(f"mostly in {names[h]}")
            reason.append(f"where it fires the concept is at {names[h]} alone, but along the direction of latent "
                          f"{int(wider_F[j])}, which is elsewhere too: one concept, in more contexts")  # fmt: skip
        elif bool(specific_F[j]):
            verdict.append(f"specific to {names[h]}")
            gone = [(names[s], float(presence.borne_out[s].value[j])) for s in others if ratio[s] >= ABSENT]
            cancelled = [f"of that at {name} the activations have {share:.2f}" for name, share in gone]
            reason.append("; ".join([strengths, *cancelled, "no other latents in its place there"]))
        elif bool(in_others_F[j]):
            there = [s for s in others if present_FS[j, s]]
            missing = [names[s] for s in others if absent_FS[j, s]]
            tail = f"; absent from {', '.join(missing)}" if missing else ""
            turned = [s for s in there if rotated_FS[j, s]]
            # Where the own row is small, it is other latents that show the concept to be there.
            by = [f"other latents rebuild it at {names[s]} (correlation {float(presence.rebuilt[s].value[j]):.2f})"
                  for s in there if presence.rebuilt[s].value[j] >= REBUILT]  # fmt: skip
            how = "; ".join([strengths, *by]) + tail
            if turned:
                cosines = ", ".join(f"{float(_value(presence.cosine[s])[j]):.2f} at {names[s]}" for s in turned)
                verdict.append("rotated")
                reason.append(f"in both, under another direction: cosine with {names[h]} {cosines}; {how}")
            elif bool(borrowed_FS[j].any()) and not there:
                at = ", ".join(names[s] for s in others if borrowed_FS[j, s])
                verdict.append(f"mostly in {names[h]}")
                lenders = ", ".join(str(int(lender_FS[j, s])) for s in others if borrowed_FS[j, s])
                reason.append(f"what it has at {at} is in part the concept of latent {lenders}, which is at {names[h]} "
                              f"under a direction of its own; {strengths}")  # fmt: skip
            elif bool(mostly_F[j]):
                verdict.append(f"mostly in {names[h]}")
                reason.append(how)
            else:
                verdict.append("shared")
                reason.append(how)
        else:
            spans = "; ".join(f"at {names[s]} {_span(presence.ratio[s], j)} of its strength, activations bear out "
                              f"{_span(presence.borne_out[s], j)}, correlation with other latents "
                              f"{_span(presence.rebuilt[s], j)}" for s in others)  # fmt: skip
            verdict.append("undecided")
            reason.append(f"neither presence nor absence is shown: {spans} (90 %)")
    return Verdicts(verdict, reason, present_FS, absent_FS & ~present_FS)


def _of_live(p_F: Tensor, live_F: Tensor, rate: float) -> Tensor:
    flags_F = torch.zeros_like(live_F)
    flags_F[live_F] = discoveries(p_F[live_F], rate)
    return flags_F


def _value(cosine: Estimate | None) -> Tensor:
    assert cosine is not None
    return cosine.value


def _span(estimate: Estimate, j: int) -> str:
    low, high = estimate.interval(0.9)[j].tolist()
    return f"{low:.2f} to {high:.2f}"
