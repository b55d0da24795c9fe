"""What a loss may know about the current training step."""

from __future__ import annotations

from attrs import field, frozen
from torch import Tensor

from ..processes import ALONE, Processes


@frozen(kw_only=True)
class StepContext:
    """What a loss may know about the current training step."""

    step: int
    """The number of steps done before this one."""
    total_steps: int
    warmed_up: bool
    """Whether the learning rate's warm-up is over."""
    num_tokens: int
    """The number of tokens in the global batch, over all processes."""
    num_processes: int = 1
    """The number of processes that have tokens of their own."""
    processes: Processes = field(default=ALONE, eq=False)
    """The processes of the run; a loss needs them only for what concerns all tokens or all latents."""
    dead_F: Tensor | None = field(default=None, eq=False)
    """Boolean mask of the latents that were not selected within the run's dead window; None if they are not counted."""

    @property
    def progress(self) -> float:
        """The share of the run that is done, in [0, 1)."""
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
        """The mean over the tokens of the global batch, without gradient and equal on every process.

        Use it for terms that are not sums over tokens. If processes shard the latents, a total over latents is summed
        over all shards.
        """
        return self.processes.total(self.mean(total.detach())) / self.processes.num_replicas

    def over_latents(self, total: Tensor) -> Tensor:
        """Turn a total over this process's latents into one over all latents, with gradient.

        Penalties need it if processes shard the latents.
        """
        return self.processes.sum_with_gradient(total)
