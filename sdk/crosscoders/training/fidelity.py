"""What a model loses when a crosscoder's reconstruction takes the place of its activations.

The reconstruction, zero, or the mean activation is spliced into the running model at one site; tokens that training
leaves out keep their own activations. Cross-entropy (CE) and KL(clean ‖ spliced) are means over all tokens whose next
one is known, in nats.

    CE recovered = (CE_ablated − CE_spliced) / (CE_ablated − CE_clean)        KL recovered = 1 − KL_spliced / KL_ablated

Both are 1 where nothing is lost and 0 where the reconstruction is worth no more than the ablation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..crosscoder.latents import Latents
from ..crosscoder.module import Crosscoder
from ..devices import precise
from ..errors import ConfigError
from ..models.adapter import ModelAdapter
from ..models.predictions import Piece, pieces, puts
from ..models.tokens import TokenBatch

WAYS = ("spliced", "zero", "mean")


class Rows(Protocol):
    """Some rows with their activations, as a study's batches have them."""

    @property
    def tokens(self) -> TokenBatch:
        """The rows."""

    @property
    def x_BTX(self) -> Tensor:
        """Raw activations of every token."""

    @property
    def keep_BT(self) -> Tensor:
        """Tokens that count."""


@runtime_checkable
class _Encoded(Protocol):
    @property
    def latents(self) -> Latents:
        """Latents of the tokens that count."""


def splices(crosscoder: Crosscoder, adapters: Mapping[str, ModelAdapter]) -> dict[str, list[str]]:
    """What is spliced at once, by name: each written site, and all sites of a model that has several."""
    by_model: dict[str, list[str]] = {}
    for site in crosscoder.written.sites:
        if site.model in adapters:
            by_model.setdefault(site.model, []).append(site.name)
    found = {name: [name] for names in by_model.values() for name in names}
    return found | {f"{model} (all sites)": names for model, names in by_model.items() if len(names) > 1}


def losses_on(
    crosscoder: Crosscoder, adapters: Mapping[str, ModelAdapter], rows: Sequence[Rows]
) -> dict[str, dict[str, float]]:
    """`spliced_losses` with the mean activation of the rows themselves."""
    columns = crosscoder.layout.columns(crosscoder.written.names)
    kept_BX = torch.cat([each.x_BTX[each.keep_BT] for each in rows])[:, columns]
    return spliced_losses(crosscoder, adapters, rows, kept_BX.mean(dim=0))


@torch.no_grad()
def spliced_losses(
    crosscoder: Crosscoder, adapters: Mapping[str, ModelAdapter], batches: Iterable[Rows], mean_X: Tensor
) -> dict[str, dict[str, float]]:
    """By site `ce_clean`, then `ce_` and `kl_` of `spliced`, `zero` and `mean` (ablations); see `with_recovered`.

    `mean_X` is the mean raw activation of the written sites' columns. Models without next-token logits are left out.
    """
    chosen = splices(crosscoder, adapters)
    sums: dict[str, Tensor] = {}
    encoders: set[str] = set()
    means = crosscoder.written.unpack(mean_X)
    for batch in batches:
        values = _values(crosscoder, batch, means)
        for key in sorted({name.partition("/")[0] for names in chosen.values() for name in names} - encoders):
            mine = {label: names for label, names in chosen.items() if names[0].partition("/")[0] == key}
            try:
                for piece in pieces(adapters[key], key, batch.tokens):
                    for label, names in mine.items():
                        found = _one_piece(piece, key, names, batch, values)
                        sums[label] = sums[label] + found if label in sums else found
            except ConfigError:
                encoders.add(key)
    names_of_sums = ["count", "ce_clean", *(f"{kind}_{way}" for way in WAYS for kind in ("ce", "kl"))]
    results = {}
    for label in chosen:
        if label in sums:
            count, *totals = sums[label].tolist()
            results[label] = {n: total / max(count, 1.0) for n, total in zip(names_of_sums[1:], totals, strict=True)}
    # What is not defined, such as the loss on tokens outside the logits, is left out.
    return {
        label: {name: value for name, value in with_recovered(numbers).items() if math.isfinite(value)}
        for label, numbers in results.items()
    }


def with_recovered(numbers: Mapping[str, float]) -> dict[str, float]:
    """The same with the four recovered shares, each under its formula."""
    found = dict(numbers)
    for way in ("zero", "mean"):
        gap = numbers[f"ce_{way}"] - numbers["ce_clean"]
        shrunk = numbers[f"ce_{way}"] - numbers["ce_spliced"]
        found[f"(ce_{way}-ce_spliced)/(ce_{way}-ce_clean)"] = shrunk / gap if gap else float("nan")
    for way in ("zero", "mean"):
        whole = numbers[f"kl_{way}"]
        found[f"1-kl_spliced/kl_{way}"] = 1 - numbers["kl_spliced"] / whole if whole else float("nan")
    return found


def _values(crosscoder: Crosscoder, batch: Rows, means: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """By way and site: what takes the place of the activations, (B, T, D); it counts only where `keep_BT` is true."""
    keep_BT = batch.keep_BT
    x_BX = batch.x_BTX[keep_BT] if crosscoder.wiring.skip else None
    values: dict[str, dict[str, Tensor]] = {way: {} for way in WAYS}
    # A study's batches have been encoded already.
    latents = batch.latents if isinstance(batch, _Encoded) else crosscoder.encode(batch.x_BTX[keep_BT])
    for name, x_hat_BD in crosscoder.split(crosscoder.decode(latents, x_BX)).items():
        zero_BTD = x_hat_BD.new_zeros(*keep_BT.shape, x_hat_BD.shape[1])
        values["zero"][name] = zero_BTD
        values["mean"][name] = means[name].to(x_hat_BD).expand_as(zero_BTD)
        values["spliced"][name] = zero_BTD.index_put((keep_BT.nonzero(as_tuple=True)), x_hat_BD)
    return values


def _one_piece(
    piece: Piece, key: str, names: list[str], batch: Rows, values: Mapping[str, Mapping[str, Tensor]]
) -> Tensor:
    """Count and sums of losses and divergences over one piece, float64."""
    clean_N = piece.loss(piece.clean_NV)
    sums = [torch.tensor(float(len(clean_N))), precise(clean_N).sum()]
    for way in WAYS:
        by_point = {name.partition("/")[2]: values[way][name] for name in names}
        logp_NV = piece.changed(puts(key, batch.tokens, piece.rows, by_point, batch.keep_BT))
        sums += [precise(piece.loss(logp_NV)).sum(), precise(piece.divergence(logp_NV)).sum()]
    return torch.stack([precise(value.cpu()) for value in sums])
