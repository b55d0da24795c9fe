"""Any torch module over a data set: images, tables, sequences of any kind; the points are its modules by name.

Ids number what the crosscoder sees: sample n of the data set has the ids n·P to n·P + P − 1, one for each of its P
positions, such as the patches of an image. The token source `samples` yields them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from crosscoders import ConfigError, SiteError, TokenBatch


class ModuleAdapter:
    """Activations of modules of `model`, which is called with a batch of samples; no text, no logits.

    `inputs[indices]` gives a batch for a list of sample numbers: a tensor whose first dimension is the samples', or
    whatever takes a list. A point is the name of a module (`blocks.3`, `layer2.0.conv1`) with an output of shape
    (n, D), (n, P, D), or, with `channels_first`, (n, D, ...), where P is `positions`. Without `points`, every named
    module whose output has one of these shapes is one.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        *,
        name: str,
        revision: str = "",
        positions: int = 1,
        points: Sequence[str] = (),
        channels_first: bool = False,
        call: Callable[[nn.Module, Any], object] | None = None,
    ) -> None:
        self.model, self.inputs = model.eval().requires_grad_(False), inputs
        self.name, self.revision, self.positions, self.channels_first = name, revision, positions, channels_first
        self.call = call or (lambda module, batch: module(batch))
        self.modules = {key: module for key, module in model.named_modules() if key}
        unknown = [point for point in points if point not in self.modules]
        if unknown:
            raise SiteError(f"'{name}' has no module '{unknown[0]}'; there are {', '.join(self.modules)}")
        found = self._run([0], list(points) or list(self.modules))
        refused = [point for point in points if point not in found]
        if refused:
            raise SiteError(
                f"the module '{refused[0]}' of '{name}' does not give (n, D) or (n, {positions}, D) for n samples"
            )
        self._widths = {point: activation.shape[-1] for point, activation in found.items()}

    def describe(self) -> dict[str, Any]:
        return {
            "adapter": "module",
            "model": self.name,
            "revision": self.revision,
            "class": type(self.model).__name__,
            "positions": self.positions,
        }

    def points(self) -> Sequence[str]:
        return list(self._widths)

    def width(self, point: str) -> int:
        if point not in self._widths:
            raise SiteError(f"'{self.name}' has no point '{point}'; there are {', '.join(self._widths)}")
        return self._widths[point]

    def to(self, device: torch.device) -> ModuleAdapter:
        self.model.to(device)
        return self

    @torch.no_grad()
    def activations(self, tokens: TokenBatch, points: Sequence[str]) -> dict[str, Tensor]:
        for point in points:
            self.width(point)
        ids_BT = tokens.ids * tokens.attention
        samples, place_BT = torch.unique(ids_BT // self.positions, return_inverse=True)
        found = self._run(samples.tolist(), points)
        missing = [point for point in points if point not in found]
        if missing:
            raise ConfigError(f"the module '{missing[0]}' of '{self.name}' was not called for these samples")
        return {point: found[point][place_BT, ids_BT % self.positions] for point in points}

    @torch.no_grad()
    def _run(self, samples: list[int], points: Sequence[str]) -> dict[str, Tensor]:
        """Activations (n, P, D) at those of the points that have such."""
        found: dict[str, Tensor] = {}
        device = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))

        def keep(point: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, out: Any) -> None:
                activation = self._shaped(out[0] if isinstance(out, tuple) else out, len(samples))
                if activation is not None:
                    found[point] = activation.detach().clone()

            return hook

        try:
            batch = self.inputs[samples]
        except IndexError as error:
            raise ConfigError(f"the data set of '{self.name}' ends before sample {max(samples)}") from error
        with ExitStack() as stack:
            for point in points:
                stack.callback(self.modules[point].register_forward_hook(keep(point)).remove)
            self.call(self.model, batch.to(device) if isinstance(batch, Tensor) else batch)
        return {point: found[point] for point in points if point in found}

    def _shaped(self, out: Any, count: int) -> Tensor | None:
        if not isinstance(out, Tensor) or not out.is_floating_point() or out.dim() < 2 or len(out) != count:
            return None
        if out.dim() == 2:
            out = out[:, None]
        elif self.channels_first:
            out = out.flatten(2).transpose(1, 2)
        return out if out.dim() == 3 and out.shape[1] == self.positions else None
