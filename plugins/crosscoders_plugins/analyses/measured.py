"""One pass over a study's text for everything that latent scaling reports: β of all latents, and where concepts are."""

from __future__ import annotations

import torch

from crosscoders import AnalysisError, Study

from .presence import FirstHalf, Presence, SecondHalf, SiteRows, beyond, of_tokens, site_rows
from .scaling_sums import ScalingAccumulator, ScalingSums

ENOUGH = 0.75
"""Where the text ends before this share of what was asked for, halves are made anew."""


@torch.no_grad()
def measured(study: Study, *, reference: str, num_blocks: int) -> tuple[ScalingSums, Presence, list[SiteRows]]:
    """β's sums over all the text, and presence: directions from its first half, numbers from its second.

    Rows go to `num_blocks` contiguous blocks, so that the rows of a document lie in one block or in neighbouring ones.
    """
    expected = -(-study.num_tokens // study.activations.context_length)
    scaling, second, num_rows = _pass(study, reference, num_blocks, expected)
    if num_rows < ENOUGH * expected:
        scaling, second, _ = _pass(study, reference, num_blocks, num_rows)
    if second is None:
        raise AnalysisError("two rows of text are the least that can be measured on; there are fewer")
    return scaling.result(), second.presence(), second.rows


def _pass(
    study: Study, reference: str, num_blocks: int, num_rows: int
) -> tuple[ScalingAccumulator, SecondHalf | None, int]:
    crosscoder = study.crosscoder
    num_blocks = max(2, min(num_blocks, num_rows) // 2 * 2)
    scaling = ScalingAccumulator(crosscoder, reference=reference, num_blocks=num_blocks)
    rows = site_rows(crosscoder)
    first, seen = FirstHalf(rows), 0
    second: SecondHalf | None = None
    for batch in study.batches():
        x_BX = crosscoder.normalised(batch.x_BX)
        latents = batch.latents
        r_BX, x_BX = crosscoder.decode_normalised(latents, x_BX), crosscoder.target(x_BX)
        row_B = batch.first_sequence + batch.place_B2[:, 0]
        seen = batch.first_sequence + len(batch.keep_BT)
        block_B = (row_B * num_blocks // max(1, num_rows)).clamp_max(num_blocks - 1)
        scaling.add(latents, block_B, x_BX, r_BX)
        left, whole = crosscoder.written.unpack(x_BX - r_BX), crosscoder.written.unpack(x_BX)
        early_B = block_B < num_blocks // 2
        for is_early in (True, False):
            mine_B = early_B if is_early else ~early_B
            if not bool(mine_B.any()):
                continue
            part = latents if bool(mine_B.all()) else of_tokens(latents, mine_B)
            parts = [(left[site.name][mine_B], beyond(part, site), whole[site.name][mine_B]) for site in rows]
            if is_early:
                first.add(part, parts)
            else:
                second = second or SecondHalf(rows, first.directions(), num_blocks // 2)
                second.add(part, block_B[mine_B] - num_blocks // 2, parts)
    return scaling, second, seen
