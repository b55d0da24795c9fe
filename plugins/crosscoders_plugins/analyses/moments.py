"""Second moments of activations at pairs of sites, streamed: what CCA, CKA, Procrustes and affine maps are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from attrs import define, field, frozen
from torch import Tensor

from crosscoders.authoring import precise


@define(eq=False)
class Moments:
    """Sums over tokens of activations x^s of several sites, less a constant shift that keeps numbers small."""

    names: Sequence[str]
    shift: dict[str, Tensor] = field(factory=dict)
    count: int = 0
    sums: dict[tuple[str, ...], Tensor] = field(factory=dict)

    def add(self, x: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Add some tokens, (B, D) at each site."""
        count = len(x[self.names[0]])
        if not count:
            return
        x = {name: precise(x[name]) for name in self.names}
        x = {name: x_BD - self.shift.setdefault(name, x_BD.mean(dim=0)) for name, x_BD in x.items()}
        order = torch.randperm(count, generator=generator).to(x[self.names[0]].device)
        self.count += count
        square = {name: x_BD.square().sum(dim=1) for name, x_BD in x.items()}
        for a in self.names:
            self._add("sum", a, value=x[a].sum(dim=0))
            self._add("square", a, value=square[a].sum())
            for b in self.names:
                self._add("product", a, b, value=x[a].T @ x[b])
                self._add("shuffled", a, b, value=x[a].T @ x[b][order])
                self._add("squares", a, b, value=square[a] @ square[b])
                self._add("weighted", a, b, value=square[a] @ x[b])

    def _add(self, *key: str, value: Tensor) -> None:
        self.sums[key] = self.sums[key] + value if key in self.sums else value

    def get(self, *key: str) -> Tensor:
        """One of the sums, float64 on the CPU."""
        return self.sums[key].cpu().double()

    def covariance(self, a: str, b: str, kind: str = "product") -> Tensor:
        """Of the activations at two sites, (D_a, D_b); of rows that do not belong together where `shuffled`."""
        mean_a, mean_b = self.get("sum", a) / self.count, self.get("sum", b) / self.count
        return self.get(kind, a, b) / self.count - mean_a[:, None] * mean_b

    def mean(self, name: str) -> Tensor:
        """Mean activation, (D,)."""
        mean_D: Tensor = self.get("sum", name) / self.count + self.shift[name].cpu().double()
        return mean_D


def canonical_correlations(moments: Moments, a: str, b: str, *, variance: float, kind: str = "product") -> Tensor:
    """Correlations of the directions that hold a share of the variance at each site (SVCCA; Raghu et al. 2017)."""
    whitened = _whitening(moments, a, variance).T @ moments.covariance(a, b, kind) @ _whitening(moments, b, variance)
    correlation_K: Tensor = torch.linalg.svdvals(whitened).clamp(0, 1)
    return correlation_K


def _whitening(moments: Moments, name: str, variance: float) -> Tensor:
    """From activations to as many uncorrelated directions as hold that share of the variance, (D, K)."""
    value_D, vector_DD = torch.linalg.eigh(moments.covariance(name, name))
    value_D, vector_DD = value_D.flip(0).clamp_min(0), vector_DD.flip(1)
    share_D = value_D.cumsum(0) / value_D.sum().clamp_min(1e-300)
    kept = min(len(value_D), int((share_D < variance).sum()) + 1)
    # Directions without any variance are noise of rounding.
    kept = min(kept, int((value_D > 1e-10 * value_D[0]).sum())) or 1
    whitening_DK: Tensor = vector_DD[:, :kept] / value_D[:kept].clamp_min(1e-300).sqrt()
    return whitening_DK


def unbiased_cka(moments: Moments, a: str, b: str) -> float:
    """Linear CKA from the unbiased estimate of HSIC (Song et al. 2012; Kornblith et al. 2019): 1 up to a rotation."""
    return float(_hsic(moments, a, b) / (_hsic(moments, a, a) * _hsic(moments, b, b)).clamp_min(1e-300).sqrt())


def _hsic(moments: Moments, a: str, b: str) -> Tensor:
    """n (n − 3) times HSIC₁ of linear kernels K = x xᵀ without their diagonals, from sums alone."""
    n = moments.count
    sum_a, sum_b = moments.get("sum", a), moments.get("sum", b)
    squares = moments.get("squares", a, b)
    trace = moments.get("product", a, b).square().sum() - squares
    total_a = sum_a.square().sum() - moments.get("square", a)
    total_b = sum_b.square().sum() - moments.get("square", b)
    # 1ᵀ K L 1 = Σ_i (x_i·Σx − ‖x_i‖²)(y_i·Σy − ‖y_i‖²)
    middle = (
        sum_a @ moments.get("product", a, b) @ sum_b
        - moments.get("weighted", b, a) @ sum_a
        - moments.get("weighted", a, b) @ sum_b
        + squares
    )
    return trace + total_a * total_b / ((n - 1) * (n - 2)) - 2 * middle / (n - 2)


def procrustes(moments: Moments, a: str, b: str) -> float:
    """After the best rotation, ‖Σ_ab‖_* / √(tr Σ_aa · tr Σ_bb): 1 for rotated copies (Williams et al. 2021)."""
    across = torch.linalg.svdvals(moments.covariance(a, b)).sum()
    size = moments.covariance(a, a).trace() * moments.covariance(b, b).trace()
    return float(across / size.clamp_min(1e-300).sqrt())


@frozen(eq=False)
class AffineMap:
    """y = (x − mean_x) W + mean_y, by ridge regression."""

    weight_DD: Tensor
    mean_x_D: Tensor
    mean_y_D: Tensor

    @classmethod
    def of(cls, moments: Moments, a: str, b: str, *, ridge: float = 1e-4) -> AffineMap:
        """From site a to site b; `ridge` is relative to the mean variance at a."""
        covariance = moments.covariance(a, a)
        level = ridge * covariance.diagonal().mean() + 1e-12
        weight = torch.linalg.solve(covariance + level * torch.eye(len(covariance)).double(), moments.covariance(a, b))
        return cls(weight, moments.mean(a), moments.mean(b))

    def __call__(self, x: Tensor) -> Tensor:
        """Activations at a to those expected at b."""
        weight, mean_x, mean_y = (t.to(x) for t in (self.weight_DD, self.mean_x_D, self.mean_y_D))
        return (x - mean_x) @ weight + mean_y

    def explained_variance(self, moments: Moments, a: str, b: str) -> float:
        """1 − Σ‖y − ŷ‖² / Σ‖y − mean‖² on other tokens."""
        W = self.weight_DD
        offset = (moments.mean(a) - self.mean_x_D) @ W + self.mean_y_D - moments.mean(b)
        error = (
            moments.covariance(b, b).trace()
            - 2 * (W * moments.covariance(a, b)).sum()
            + (W * (moments.covariance(a, a) @ W)).sum()
            + offset.square().sum()
        )
        return float(1 - error / moments.covariance(b, b).trace().clamp_min(1e-300))
