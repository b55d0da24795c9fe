"""What a run reports while it trains."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from attrs import frozen
from torch import Tensor
from tqdm.auto import tqdm

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
    """The sum of the terms."""
    terms: Mapping[str, float]
    """Each term of the loss, a mean over the tokens of the global batch."""
    l0: float
    """Mean number of active latents per token, as selected in training."""
    explained_variance: Mapping[str, float]
    """Explained variance of each written site on this batch."""
    dead_share: float
    """Share of the latents that are dead: not selected within the run's dead window, whose length is
    `TrainingConfig.dead_after`."""
    lr: float
    """Learning rate of this step."""
    grad_norm: float
    """Norm of the whole gradient before clipping."""
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


def summary(reports: Sequence[StepReport], read: Mapping[str, int]) -> str:
    """The numbers of the progress bar: those of one crosscoder, or the range of several."""
    counts = [f"{read[key]} {what}" for key, what in (("passes", "passes"), ("skipped", "rows skipped")) if read[key]]
    values = [value for report in reports for value in report.explained_variance.values()]
    if len(reports) > 1:
        return f"{len(reports)} crosscoders, EV {', '.join([f'{min(values):.3f} to {max(values):.3f}', *counts])}"
    explained = " ".join(f"{value:.3f}" for value in values)
    return ", ".join([f"EV {explained}, L0 {reports[0].l0:.1f}, dead {reports[0].dead_share:.1%}", *counts])


def reading_note(read: Mapping[str, int]) -> str:
    """What should be known of the tokens that a run was trained on."""
    notes = []
    if read["passes"]:
        notes.append(
            f"the token source came to its end {read['passes']} times and was read again: give it more text, and every "
            "token is a new one"
        )
    if read["skipped"]:
        notes.append(f"{read['skipped']} bad rows were skipped")
    return "; ".join(notes)
