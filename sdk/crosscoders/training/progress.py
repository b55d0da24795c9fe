"""What a run reports while it trains."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from attrs import frozen
from torch import Tensor
from tqdm.auto import tqdm

from ..crosscoder.module import Crosscoder
from ..processes import Processes


def say(text: str, processes: Processes) -> None:
    """A line for who runs it, by the process that speaks for all; between bars, not through them."""
    if processes.is_main:
        tqdm.write(text, file=sys.stderr)


@frozen(kw_only=True, eq=False)
class StepReport:
    """The result of one optimizer step, over all processes."""

    step: int
    """The number of steps done, including this one."""
    loss: float
    terms: Mapping[str, float]
    l0: float
    """Mean number of active latents per token, as selected in training."""
    explained_variance: Mapping[str, float]
    """Explained variance of each written site on this batch."""
    dead_share: float
    """Share of the latents that are dead: not selected within the run's dead window, whose length is
    `TrainingConfig.dead_after`."""
    lr: float
    grad_norm: float
    fired_F: Tensor
    """Boolean mask of the latents that are active on at least one token of the batch."""

    def scalars(self) -> dict[str, float]:
        """The report as a flat mapping of numbers, for trackers."""
        return {
            "loss": self.loss,
            "l0": self.l0,
            "dead_share": self.dead_share,
            "lr": self.lr,
            "grad_norm": self.grad_norm,
            **{f"loss/{name}": value for name, value in self.terms.items()},
            **{f"explained_variance/{name}": value for name, value in self.explained_variance.items()},
        }


@frozen(eq=False)
class RunView:
    """What an observer sees of a run. It is for reading only."""

    crosscoder: Crosscoder
    output: Path
    total_steps: int
    is_main: bool


@runtime_checkable
class Observer(Protocol):
    """Watches a training run; it is called in every process."""

    def step_end(self, run: RunView, report: StepReport) -> None:
        """Called after each optimizer step; the report's tensors are detached and not yet synchronised."""

    def run_end(self, run: RunView) -> None:
        """Called after the last step and the final evaluation."""
