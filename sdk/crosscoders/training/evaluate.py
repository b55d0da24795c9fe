"""Evaluation on held-out activations, always with the inference gate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from attrs import field, frozen
from torch import Tensor

from ..crosscoder.module import Crosscoder
from ..devices import accumulator, precise
from ..errors import TrainingError
from ..processes import ALONE, Processes
from ..reports import Table
from .metric import EvaluationBatch, FurtherMetrics, Metric

if TYPE_CHECKING:
    import pandas


@frozen(kw_only=True, repr=False)
class Metrics:
    """Reconstruction and sparsity over a whole evaluation set."""

    explained_variance: Mapping[str, float]
    """Explained variance of each written site, 1 − Σ‖x−x̂‖² / Σ‖x−mean‖², with sums over the whole set; NaN where
    `undefined` says why."""
    l0: float
    """Mean number of active latents per token."""
    silent_share: float
    """Share of the latents that are silent: active on no token of the set."""
    mean_squared_error: Mapping[str, float]
    """Mean over tokens of ‖x−x̂‖² at each written site, in raw units."""
    num_tokens: int
    undefined: Mapping[str, str] = field(factory=dict)
    """Per written site without an explained variance the reason."""
    spliced: Mapping[str, Mapping[str, float]] = field(factory=dict)
    """Per written site, and per model with several: cross-entropy and KL with the reconstruction in the place of the
    activations, against ablations, and the recovered shares under their formulas; see `fidelity`. Empty where no model
    ran."""
    further: Mapping[str, Mapping[str, float]] = field(factory=dict)
    """The numbers of further metrics, which plugins offer (`metrics` of a config), by the metric's name."""

    def __repr__(self) -> str:
        explained = ", ".join(f"{site} {value:.4f}" for site, value in self.explained_variance.items())
        return (
            f"Metrics(explained variance {explained}; L0 {self.l0:.2f}; silent {self.silent_share:.1%}; "
            f"{self.num_tokens} tokens)"
        )

    def scalars(self) -> dict[str, float]:
        """What is measured as a flat mapping of numbers, for trackers."""
        further = {f"{metric}/{name}": value for metric, of in self.further.items() for name, value in of.items()}
        explained = {f"explained_variance/{site}": value for site, value in self.explained_variance.items()}
        return {"l0": self.l0, "silent_share": self.silent_share, **explained, **further}

    def table(self) -> Table:
        """One row for each site, and for all sites of a model with several: reconstruction, then cross-entropy and KL
        in nats (clean, spliced, zero- and mean-ablated) and the recovered shares, their formula as the name."""
        kinds = list(dict.fromkeys(name for numbers in self.spliced.values() for name in numbers))
        rows = [
            (
                site,
                self.explained_variance.get(site),
                self.mean_squared_error.get(site),
                self.l0,
                self.silent_share,
                *(self.spliced.get(site, {}).get(kind) for kind in kinds),
            )
            for site in dict.fromkeys([*self.explained_variance, *self.spliced])
        ]
        return Table(
            title="Fidelity",
            columns=("site", "explained_variance", "mean_squared_error", "l0", "silent_share", *kinds),
            rows=rows,
            note=f"Over {self.num_tokens} tokens, with the inference gate. L0 and silent latents are of the whole "
            "crosscoder; cross-entropy and KL are nats per token.",
        )

    def further_table(self) -> Table:
        """The numbers of further metrics; columns `metric`, `name`, `value`."""
        rows = [(metric, name, value) for metric, values in self.further.items() for name, value in values.items()]
        return Table(title="Further metrics", columns=("metric", "name", "value"), rows=rows)

    def to_pandas(self) -> pandas.DataFrame:
        """`table` as a pandas frame."""
        return self.table().to_pandas()

    def _repr_html_(self) -> str:
        return self.table()._repr_html_() + (self.further_table()._repr_html_() if self.further else "")


CONSTANT = 1e-12
"""Variance over mean square, up to which a site is constant: what rounding leaves of a difference of sums."""


@torch.no_grad()
def evaluate(
    crosscoder: Crosscoder,
    batches: Iterable[Tensor],
    *,
    metrics: Mapping[str, Metric] | None = None,
    processes: Processes = ALONE,
) -> Metrics:
    """Compute metrics over `batches` of raw activations (B, X), which are this process's share of the set.

    `metrics` are further ones by name. If processes shard the latents, each of them must be given the tokens of its
    whole replica, and there can be no further metrics.
    """
    assert not metrics or processes.num_shards == 1
    further = FurtherMetrics(metrics or {})
    written = crosscoder.written
    columns = crosscoder.layout.columns(written.names)
    width, sites = written.width, len(written.sites)
    sums = torch.zeros(2 * width + sites + 2, **accumulator(crosscoder.device))
    fired_F = torch.zeros(crosscoder.num_latents, dtype=torch.int64, device=crosscoder.device)
    shift_X: Tensor | None = None
    for x_BX in batches:
        x_BX = x_BX.to(crosscoder.device)
        latents = crosscoder.encode(x_BX)
        x_hat_BX = crosscoder.decode(latents, x_BX if crosscoder.wiring.skip else None)
        target_BX = precise(x_BX[:, columns if isinstance(columns, slice) else columns.to(x_BX.device)])
        if shift_X is None:
            # A constant shift does not change the variance. The bias is close to the mean, so subtracting it avoids
            # cancellation.
            shift_X = precise(crosscoder.normaliser.undo(crosscoder.b_dec_X, written.names))
        shifted_BX = target_BX - shift_X
        errors = [part.square().sum() for part in written.unpack(target_BX - precise(x_hat_BX)).values()]
        counts = sums.new_tensor([len(latents.latent_N), len(x_BX)])
        sums += torch.cat([shifted_BX.sum(dim=0), shifted_BX.square().sum(dim=0), torch.stack(errors), counts])
        fired_F += latents.fired_F
        further.add(EvaluationBatch(crosscoder, x_BX, latents, x_hat_BX))
    further.sums = {name: processes.over_replicas(sums_K) for name, sums_K in further.sums.items()}
    sums[-2] = processes.over_shards(sums[-2])
    sums, fired_F = processes.over_replicas(sums), processes.over_replicas(fired_F)
    num_tokens = int(sums[-1])
    if num_tokens == 0:
        raise TrainingError("there are no held-out tokens to evaluate on")
    mean, square, error = sums[:width], sums[width : 2 * width], sums[2 * width : 2 * width + sites]
    variance = {name: part.sum() for name, part in written.unpack(square - mean.square() / num_tokens).items()}
    squares = {name: part.sum() for name, part in written.unpack(square).items()}
    by_site = dict(zip(written.names, error.tolist(), strict=True))
    constant = [name for name in by_site if not float(variance[name]) > CONSTANT * float(squares[name])]
    return Metrics(
        explained_variance={
            name: float("nan") if name in constant else 1 - by_site[name] / float(variance[name]) for name in by_site
        },
        l0=float(sums[-2]) / num_tokens,
        silent_share=float(processes.over_shards(precise(fired_F == 0).mean())) / processes.num_shards,
        mean_squared_error={name: value / num_tokens for name, value in by_site.items()},
        num_tokens=num_tokens,
        undefined=dict.fromkeys(constant, "its activations are constant over the evaluation tokens"),
        further=further.values(crosscoder),
    )
