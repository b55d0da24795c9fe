"""What a loss may know about the step it is in."""

from __future__ import annotations

from attrs import field, frozen
from torch import Tensor

from ..processes import ALONE, Processes


@frozen(kw_only=True)
class StepContext:
    """What a loss may know about the step it is in."""

    step: int
    """Steps done before this one."""
    total_steps: int
    warmed_up: bool
    """Whether the learning rate's warm-up is over."""
    num_tokens: int
    """Tokens of the global batch, over all processes."""
    num_processes: int = 1
    """How many processes have tokens of their own."""
    processes: Processes = field(default=ALONE, eq=False)
    """Those of the run: only what concerns all tokens or all latents needs them."""
    dead_F: Tensor | None = field(default=None, eq=False)
    """Latents that have not been selected for the run's dead window; None where nobody counts."""

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.step / self.total_steps

    def ramp(self, share: float) -> float:
        """A factor that rises linearly from above 0 to 1 over the first `share` of the run."""
        return min(1.0, (self.progress + 1 / self.total_steps) / share) if share else 1.0

    def mean(self, total: Tensor) -> Tensor:
        """The mean over the tokens of the global batch, from a sum over this process's tokens.

        Processes average their gradients, so the sum is scaled up by their number first.
        """
        return total * (self.num_processes / self.num_tokens)

    def global_mean(self, total: Tensor) -> Tensor:
        """The same without gradient and equal on every process: the true mean, for terms that are not sums.

        Of a total over latents: where processes share them, those of all.
        """
        return self.processes.total(self.mean(total.detach())) / self.processes.num_replicas

    def over_latents(self, total: Tensor) -> Tensor:
        """A total over this process's latents as one over all of them, with gradient: where processes share latents,
        penalties go through here."""
        return self.processes.sum_with_gradient(total)
