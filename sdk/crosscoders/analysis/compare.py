"""Two crosscoders over the same sites, latent by latent: the best one-to-one matching of their decoders.

Each latent is the vector of its decoder rows at all sites, side by side. Similarity is the cosine of two such vectors;
the matching maximises its sum (`scipy.optimize.linear_sum_assignment`). In a wide space, or between wide dictionaries,
random vectors find fair partners too, so the same is done with random rows of the same norms at each site.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from attrs import frozen
from torch import Tensor

from ..crosscoder.module import Crosscoder
from ..errors import AnalysisError
from ..reports import Figure, Table

if TYPE_CHECKING:
    import pandas

Units = Literal["normalised", "raw"]


@frozen(eq=False, repr=False)
class Match:
    """Pairs of latents, most alike first; latents of the wider crosscoder that find no partner are not listed."""

    latent_P2: Tensor
    """A latent of the first and its partner in the second, (P, 2)."""
    cosine_P: Tensor
    """Of their joint decoder vectors."""
    random_P: Tensor
    """Cosines of a matching of the first with random rows in the place of the second's, most alike first."""
    units: Units

    @property
    def mean(self) -> float:
        """Mean cosine of the pairs."""
        return float(self.cosine_P.mean())

    @property
    def random_mean(self) -> float:
        """The same of the random baseline."""
        return float(self.random_P.mean())

    def __repr__(self) -> str:
        return (
            f"Match({len(self.cosine_P)} pairs, mean cosine {self.mean:.3f} against {self.random_mean:.3f} of random "
            f"rows, {float((self.cosine_P > 0.7).float().mean()):.0%} above 0.7, {self.units} units)"
        )

    def table(self) -> Table:
        """`latent_a`, `latent_b`, `cosine`, `random` (the cosine of the pair of equal rank in the baseline)."""
        columns = (self.latent_P2[:, 0], self.latent_P2[:, 1], self.cosine_P, self.random_P)
        return Table(
            title="Matched latents",
            columns=("latent_a", "latent_b", "cosine", "random"),
            rows=zip(*(column.tolist() for column in columns), strict=True),
            note=f"Joint decoder vectors in {self.units} units.",
        )

    def to_pandas(self) -> pandas.DataFrame:
        """`table` as a pandas frame."""
        return self.table().to_pandas()

    def figure(self) -> Figure:
        """How alike the pairs are, beside the random baseline."""
        from ..reports.figures import histogram

        values = {"matched": self.cosine_P.tolist(), "random rows": self.random_P.tolist()}
        drawing = histogram(values, xlabel="cosine of joint decoder vectors", ylabel="pairs", log=False)
        return Figure(title="Matched latents", svg=drawing.svg(), note=repr(self))

    def _repr_html_(self) -> str:
        return self.figure()._repr_html_()


@torch.no_grad()
def match(a: Crosscoder, b: Crosscoder, *, units: Units = "normalised", seed: int = 0) -> Match:
    """Pair the latents of two crosscoders that write the same sites.

    `units` "normalised" weighs sites alike, each crosscoder by its own scales; "raw" weighs them as the models do.
    Needs F_a · F_b cosines in memory and about F³ steps: seconds for a few thousand latents, minutes for sixteen.
    """
    from scipy.optimize import linear_sum_assignment

    if units not in ("normalised", "raw"):
        raise AnalysisError(f"units are 'normalised' or 'raw', not '{units}'")
    if {(s.name, s.width) for s in a.written.sites} != {(s.name, s.width) for s in b.written.sites}:
        raise AnalysisError(
            f"the crosscoders write different sites: {', '.join(a.written.names)} and {', '.join(b.written.names)}"
        )
    names = a.written.names
    first = [_rows(a, name, units) for name in names]
    second = [_rows(b, name, units) for name in names]
    generator = torch.Generator().manual_seed(seed)
    random = [
        torch.nn.functional.normalize(torch.randn(rows.shape, generator=generator), dim=1)
        * rows.norm(dim=1, keepdim=True)
        for rows in second
    ]
    found, baseline = _cosines(first, second), _cosines(first, random)
    row, column = linear_sum_assignment(found.numpy(), maximize=True)
    pairs_P2 = torch.stack([torch.from_numpy(row), torch.from_numpy(column)], dim=1)
    cosine_P = found[pairs_P2[:, 0], pairs_P2[:, 1]]
    order = cosine_P.argsort(descending=True, stable=True)
    random_row, random_column = linear_sum_assignment(baseline.numpy(), maximize=True)
    random_P = baseline[torch.from_numpy(random_row), torch.from_numpy(random_column)]
    return Match(pairs_P2[order], cosine_P[order], random_P.sort(descending=True).values, units)


def _rows(crosscoder: Crosscoder, site: str, units: Units) -> Tensor:
    rows_FD = crosscoder.decoder_rows(site).cpu()
    return rows_FD / crosscoder.normaliser.scale_X((site,)).cpu() if units == "raw" else rows_FD


def _cosines(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Of joint vectors, (F_a, F_b); 0 for latents that write nothing."""
    a_FX, b_FX = (torch.nn.functional.normalize(torch.cat(rows, dim=1), dim=1) for rows in (first, second))
    return a_FX @ b_FX.T
