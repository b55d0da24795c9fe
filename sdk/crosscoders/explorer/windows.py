"""Places as a few tokens around them, with activations, and what each model brings there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from attrs import frozen

from ..analysis.shares import shares_by_model
from ..crosscoder.latents import Latents
from ..files import disk_errors, write_whole
from .choosing import LatentDetail
from .firings import Firings

if TYPE_CHECKING:
    from ..analysis.passes import StudyBatch
    from ..analysis.study import Study

WINDOWS_AT_ONCE = 2048
"""Windows whose latents' encoder rows are copied at once."""


@frozen(eq=False)
class Windows:
    """Tokens around K places."""

    sequence_K: np.ndarray
    start_K: np.ndarray
    """Positions, within the row."""
    stop_K: np.ndarray
    position_K: np.ndarray
    """Of the place itself."""

    @classmethod
    def around(cls, place_K: np.ndarray, firings: Firings, detail: LatentDetail) -> Windows:
        """As many tokens around each place as are shown, none of another document."""
        sequence_K, position_K = np.divmod(place_K.astype(np.int64), firings.length)
        start_K, stop_K = firings.bounds_P2[place_K].astype(np.int64).T.reshape(2, -1)
        return cls(
            sequence_K,
            np.maximum(position_K - detail.before, start_K),
            np.minimum(position_K + detail.after + 1, stop_K),
            position_K,
        )


@frozen(eq=False)
class ModelShares:
    """What each model brings to latents on the tokens of some windows."""

    models: tuple[str, ...]
    latent_K: np.ndarray
    """The latent of each window, increasing."""
    share_MKW: np.ndarray
    """Aligned at the windows' first tokens."""

    def of(self, latent: int) -> np.ndarray:
        """Those of one latent, (M, its windows, W)."""
        start, stop = np.searchsorted(self.latent_K, [latent, latent + 1])
        return self.share_MKW[:, start:stop]


@torch.no_grad()
def measure_shares(
    study: Study, firings: Firings, latent_K: np.ndarray, place_K: np.ndarray, detail: LatentDetail, folder: Path
) -> ModelShares:
    """One more pass over the tokens, for the windows around places of latents; `latent_K` increases.

    Numbers are kept in `folder`; where this has ended before, they are taken from there.
    """
    models = tuple(study.crosscoder.wiring.read.points_by_model)
    shape = (len(models), len(place_K), detail.before + detail.after + 1)
    path, done = folder / "shares.bin", folder / "shares.json"
    if not (done.exists() and path.exists()):
        windows = Windows.around(place_K, firings, detail)
        order_K = np.argsort(windows.sequence_K, kind="stable")
        with disk_errors(path):
            share_MKW = np.memmap(path, dtype="<f4", mode="w+", shape=shape)
            for batch in study.batches():
                first = batch.first_sequence
                edges = np.searchsorted(windows.sequence_K[order_K], [first, first + len(batch.keep_BT)])
                for start in range(edges[0], edges[1], WINDOWS_AT_ONCE):
                    chosen = order_K[start : min(start + WINDOWS_AT_ONCE, edges[1])]
                    _measure(study, batch, windows, latent_K, chosen, share_MKW)
            share_MKW.flush()
        write_whole(done, "{}")
    return ModelShares(models, latent_K, np.memmap(path, dtype="<f4", mode="r", shape=shape))


def _measure(
    study: Study,
    batch: StudyBatch,
    windows: Windows,
    latent_K: np.ndarray,
    chosen: np.ndarray,
    share_MKW: np.ndarray,
) -> None:
    """The shares of the windows numbered `chosen`, all of which are of this batch."""
    keep_BT = batch.keep_BT.cpu().numpy()
    token_BT = (np.cumsum(keep_BT) - 1).reshape(keep_BT.shape)
    size_C = windows.stop_K[chosen] - windows.start_K[chosen]
    window_N = np.repeat(chosen, size_C)
    offset_N = np.arange(len(window_N)) - np.repeat(np.cumsum(size_C) - size_C, size_C)
    row_N = windows.sequence_K[window_N] - batch.first_sequence
    position_N = windows.start_K[window_N] + offset_N
    # Tokens that do not count, such as the beginning of a sequence, have activations that would drown the others.
    counts_N = keep_BT[row_N, position_N]
    window_N, offset_N = window_N[counts_N], offset_N[counts_N]
    token_N, latent_N = token_BT[row_N, position_N][counts_N], latent_K[window_N]
    order_N = np.lexsort((latent_N, token_N))
    crosscoder = study.crosscoder
    asked = Latents(
        torch.from_numpy(token_N[order_N]).to(crosscoder.device),
        torch.from_numpy(latent_N[order_N].astype(np.int64)).to(crosscoder.device),
        torch.zeros(len(order_N), device=crosscoder.device),
        int(keep_BT.sum()),
        crosscoder.num_latents,
    )
    found = shares_by_model(crosscoder, batch.x_BX, asked)
    for m, share_N in enumerate(found.values()):
        share_MKW[m, window_N[order_N], offset_N[order_N]] = share_N.float().cpu().numpy()


def values_in(windows: Windows, place_N: np.ndarray, value_N: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """The activations of a latent in each window, where `place_N` are all places at which it is active, increasing."""
    first_K = windows.sequence_K * length
    lows = np.searchsorted(place_N, first_K + windows.start_K)
    highs = np.searchsorted(place_N, first_K + windows.stop_K)
    for k, (low, high) in enumerate(zip(lows.tolist(), highs.tolist(), strict=True)):
        values_W = np.zeros(int(windows.stop_K[k] - windows.start_K[k]), np.float32)
        values_W[place_N[low:high].astype(np.int64) - int(first_K[k] + windows.start_K[k])] = value_N[low:high]
        yield values_W


def joined(items: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays joined, also where there are none."""
    return np.concatenate(items) if items else np.zeros(0, np.int64)
