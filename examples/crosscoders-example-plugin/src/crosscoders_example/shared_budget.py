"""Loss `shared_budget`: BatchTopK in which each latent group has its own share of the places.

It uses documented names only: exact selection, sharding over processes and an inference threshold for each group come
with `BatchSelectionLoss`.
"""

from collections.abc import Mapping

from attrs import field, frozen

from crosscoders import ConfigError
from crosscoders.authoring import BatchSelectionConfig, BatchSelectionLoss


@frozen(kw_only=True)
class SharedBudgetConfig(BatchSelectionConfig):
    shares: Mapping[str, float] = field(factory=dict)
    """Share of the `k` places per token that each latent group gets; unnamed groups share the rest evenly."""


class SharedBudget(BatchSelectionLoss):
    def budgets(self, crosscoder):
        shares, groups = self.options.shares, crosscoder.wiring.latent_slices
        unknown = set(shares) - set(groups)
        if unknown:
            raise ConfigError(f"shares name {', '.join(sorted(unknown))}; the latent groups are {', '.join(groups)}")
        rest = 1 - sum(shares.values())
        if rest < 0 or (rest > 1e-9 and len(shares) == len(groups)):
            raise ConfigError(f"shares add up to {1 - rest}; they must not exceed 1, and must be 1 if all are named")
        other = rest / max(1, len(groups) - len(shares))
        return [(latents, max(1, round(self.options.k * shares.get(name, other)))) for name, latents in groups.items()]
