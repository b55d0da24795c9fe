"""Adapters of libraries that call the places of a transformers model by names of their own.

Which names are points is tried on two rows when a model is first asked for them: those that are reached once in a
forward pass with a value for each token, where putting the value back changes nothing and another one changes what the
model gives. A subclass says how the library runs the model and with which names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from crosscoders import Edit, SiteError, TokenBatch

from .foreign import foreign_errors
from .reads import Reads

Change = Callable[[Tensor], Tensor]
"""From activations (B, T, D) to what takes their place."""

TRIED = (2, 13)
"""Rows and tokens of a trial: numbers that heads or channels seldom come in."""


class ByName(Reads):
    """The base of such adapters."""

    def _seen(self, keywords: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
        """Run the model and give what each name had, in the order of the forward pass."""
        raise AssertionError("the adapter's own")

    def _pass(self, keywords: Mapping[str, Any], changes: Mapping[str, Change], *, ends: bool = False) -> Tensor:
        """Run the model with changes by name, given in the order of the forward pass.

        Returns the logits, or an encoder's last activations; with `ends`, the pass may end after the last change.
        """
        raise AssertionError("the adapter's own")

    # -- points -------------------------------------------------------------------------------------------------

    def points(self) -> Sequence[str]:
        return list(self._widths)

    def width(self, point: str) -> int:
        if point not in self._widths:
            close = [name for name in self._widths if name.rpartition(".")[2] == point.rpartition(".")[2]]
            shown = close or list(self._widths)
            raise SiteError(
                f"model '{self.options.model}' ({type(self.model).__name__}) has no point '{point}'; there are "
                f"{', '.join(shown[:12])}{f' and {len(shown) - 12} more' if len(shown) > 12 else ''}"
            )
        return self._widths[point]

    @cached_property
    def _widths(self) -> dict[str, int]:
        """Points in the order of the forward pass, and their widths."""
        rows, length = TRIED
        ids = (torch.arange(rows * length) * 5 + 3).reshape(rows, length) % (self._size or rows * length)
        none = torch.zeros_like(ids, dtype=torch.bool)
        keywords = self._keywords(TokenBatch(ids, ~none, none, none))
        widths: dict[str, int] = {}
        times: Counter[str] = Counter()
        with torch.no_grad(), foreign_errors(f"the model '{self.options.model}', which fails on two rows of tokens"):
            for name, value in self._seen(keywords):
                times[name] += 1
                if is_by_token(value, TRIED):
                    widths[name] = value.numel() // (rows * length)
        widths = {name: width for name, width in widths.items() if times[name] == 1}
        that_matter = self._that_matter(keywords, widths)
        return {name: width for name, width in widths.items() if name in that_matter}

    def _that_matter(self, keywords: Mapping[str, Any], widths: Mapping[str, int]) -> set[str]:
        """Names at which zeros, added, change nothing and have a derivative."""
        added = {name: torch.zeros(*TRIED, width, requires_grad=True) for name, width in widths.items()}

        def adding(name: str) -> Change:
            return lambda activation: activation + added[name].to(activation)

        with torch.no_grad():
            plain = self._pass(keywords, {})
        with torch.enable_grad():
            out = self._pass(keywords, by_token({name: adding(name) for name in widths}, TRIED))
        if (out.detach() - plain).norm() > 1e-3 * plain.norm():
            raise SiteError(f"model '{self.options.model}' gives something else where its activations are put back")
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
        try:
            found = torch.autograd.grad((out * weight).sum(), list(added.values()), allow_unused=True)
        except RuntimeError:  # some kernel of the model has no derivative: then all are taken to matter
            return set(widths)
        return {name for name, grad in zip(added, found, strict=True) if grad is not None and bool(grad.any())}

    # -- running ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def activations(self, tokens: TokenBatch, points: Sequence[str]) -> dict[str, Tensor]:
        for point in points:
            self.width(point)
        wanted, found = set(points), dict[str, Tensor]()

        def record(point: str) -> Change:
            # A copy, because the model may go on to write into it.
            def keep(activation: Tensor) -> Tensor:
                found[point] = activation.detach().clone()
                return activation

            return keep

        tokens, back = self._from_the_left(tokens)
        keywords = self._keywords(tokens)
        changes = {point: record(point) for point in self.points() if point in wanted}
        self._pass(keywords, by_token(changes, shape_of(tokens.ids)), ends=True)
        return {point: back(activation) for point, activation in found.items()}

    @torch.no_grad()
    def logits(self, tokens: TokenBatch, edits: Sequence[Edit] = ()) -> Tensor:
        self._check_causal()
        changes = self._ordered([(edit.point, edit.apply) for edit in edits])
        logits = self._pass(self._keywords(tokens), by_token(changes, shape_of(tokens.ids)))
        return logits.reshape(*tokens.ids.shape, -1).float()

    def _ordered(self, changes: Iterable[tuple[str, Change]]) -> dict[str, Change]:
        """Changes in the order of the forward pass; several of one name follow each other."""
        by_name: dict[str, list[Change]] = {}
        for name, change in changes:
            self.width(name)
            by_name.setdefault(name, []).append(change)
        return {name: _following(by_name[name]) for name in self.points() if name in by_name}

    def _deep(self, tokens: TokenBatch) -> Tensor:
        point = list(self._widths)[-1]
        return self.activations(tokens, [point])[point]


def shape_of(ids: Tensor) -> tuple[int, int]:
    """Rows and length."""
    return len(ids), ids.shape[1]


def is_by_token(value: Any, shape: tuple[int, int]) -> bool:
    """Whether a value is activations of rows of tokens, (B, T, …), or flattened (B·T, D) or (1, B·T, D)."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() < 2:
        return False
    rows, length = shape
    if value.shape[:2] == shape and value.dim() > 2:
        return True
    flat = value.shape[1:] if value.dim() == 3 and len(value) == 1 else value.shape
    return len(flat) == 2 and flat[0] == rows * length


def by_token(changes: Mapping[str, Change], shape: tuple[int, int]) -> dict[str, Change]:
    """The same changes of values that may be flattened, or have heads of their own."""

    def shaped(name: str, change: Change) -> Change:
        def apply(value: Tensor) -> Tensor:
            if not is_by_token(value, shape):
                raise SiteError(
                    f"'{name}' has a value of shape {tuple(value.shape)} for {shape[0]} rows of {shape[1]} tokens"
                )
            activation = value.reshape(*shape, -1)
            new = change(activation)
            # A value that is only looked at stays the very tensor that it was.
            return value if new is activation else new.reshape(value.shape)

        return apply

    return {name: shaped(name, change) for name, change in changes.items()}


def _following(changes: Sequence[Change]) -> Change:
    def apply(activation: Tensor) -> Tensor:
        for change in changes:
            activation = change(activation)
        return activation

    return apply
