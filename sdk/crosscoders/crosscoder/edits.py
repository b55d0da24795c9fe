"""Changes of single latents as changes of a model's activations at one site.

Latent j of value f_j writes f_j·d_j at a site, d_j its decoder row in raw units. Making its value f_j' moves the
activations x there by (f_j' − f_j)·d_j; what the crosscoder does not explain of x stays as it is, unless `keep_error`
is false, when the reconstruction takes the place of x.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..errors import LatentError, SiteError
from .latents import known_latents

if TYPE_CHECKING:
    from .module import Crosscoder

Change = float | Literal["ablate"] | tuple[Literal["add", "scale", "clamp"], float]
"""What becomes of a latent's value f: `"ablate"` makes it 0, `("scale", a)` a·f, `("clamp", a)` a on every token,
`("add", a)`, or a bare number a, f + a on every token."""

KINDS = ("add", "scale", "clamp")


def parsed(changes: Mapping[int, Change], num_latents: int) -> dict[int, tuple[str, float]]:
    """Each change as kind and number; `LatentError` for latents that are not there or changes that mean nothing."""
    known_latents(changes, num_latents)
    found = {}
    for latent, change in changes.items():
        if change == "ablate":
            found[latent] = ("scale", 0.0)
        elif isinstance(change, int | float):
            found[latent] = ("add", float(change))
        elif isinstance(change, tuple) and len(change) == 2 and change[0] in KINDS:
            found[latent] = (change[0], float(change[1]))
        else:
            raise LatentError(
                f"the change {change!r} of latent {latent} is none of 'ablate', a number to add, or a pair of "
                f"{', '.join(KINDS)} and a number"
            )
    return found


def latent_change(
    crosscoder: Crosscoder,
    changes: Mapping[int, Change],
    *,
    site: str,
    x: Mapping[str, Tensor] | None = None,
    keep_error: bool = True,
) -> Callable[[Tensor], Tensor]:
    """From the activations at `site`, (B, T, D) raw, to what `changes` make of them.

    Whatever depends on the latents' values needs the activations of all sites that the crosscoder reads: those of
    `site` are taken as they come unless `x` has them, the others from `x`, each (B, T, D) for the same tokens.
    """
    wanted = parsed(changes, crosscoder.num_latents)
    crosscoder.written.subset([site])
    latents = list(wanted)
    direction_KD = crosscoder.direction(latents, site)
    added_K = torch.tensor([value if kind == "add" else 0.0 for kind, value in wanted.values()])
    if keep_error and all(kind == "add" for kind, _ in wanted.values()):
        # The same for every token: nothing has to be encoded.
        step_D = added_K.to(direction_KD) @ direction_KD
        return lambda activation: activation + step_D.to(activation)
    given = dict(x or {})
    missing = [name for name in crosscoder.wiring.read.names if name != site and name not in given]
    if missing:
        raise SiteError(
            f"the latents' values also depend on {', '.join(missing)}; pass x with the activations there of the same "
            "tokens, or add to latents only"
        )

    @torch.no_grad()
    def change(activation: Tensor) -> Tensor:
        shape = activation.shape
        here = {site: activation.float(), **given} if site in crosscoder.layout.names else dict(given)
        flat = {name: value.reshape(-1, value.shape[-1]).to(crosscoder.device) for name, value in here.items()}
        found = crosscoder.encode(flat)
        f_BF = found.dense()
        f_BK = f_BF[:, latents]
        new_BK = torch.stack([_changed(f_BK[:, i], *wanted[j]) for i, j in enumerate(latents)], dim=1)
        moved_BD = ((new_BK - f_BK) @ direction_KD).view(shape).to(activation)
        if keep_error:
            return activation + moved_BD
        x_hat_BX = crosscoder.decode(found, flat if crosscoder.wiring.skip else None)
        return crosscoder.split(x_hat_BX)[site].view(shape).to(activation) + moved_BD

    return change


def _changed(f_B: Tensor, kind: str, value: float) -> Tensor:
    """New values of one latent."""
    if kind == "scale":
        return f_B * value
    return f_B + value if kind == "add" else torch.full_like(f_B, value)
