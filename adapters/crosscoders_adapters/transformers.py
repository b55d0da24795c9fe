"""Hugging Face transformers models of any family: activations are captured by hooks on the list of layers.

Points, for layer i of n:

* `layers.{i}.input`: the residual stream before the layer (`layers.0.input` is the embedding)
* `layers.{i}.attention`: what attention adds to the residual stream
* `layers.{i}.mlp_input`: what the MLP reads (after the norm before it, if the layer has one)
* `layers.{i}.mlp`: what the MLP adds to the residual stream
* `layers.{i}`: the residual stream after the layer (before any final norm)
* `final`: what the output embedding reads, after the final norm (models with logits only)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from crosscoders import ConfigError, Edit, SiteError, TokenBatch

from .anatomy import last_norm, layer_list, text_config
from .foreign import foreign_errors
from .lens_names import advice, canonical_point
from .linear import FINAL, Linearises
from .loading import Loaded, TransformersConfig, load
from .lora import scaled
from .parts import LayerParts, Part, find_parts, residual_of
from .placement import input_device, is_spread
from .read_out import direct_effect
from .reads import Context, Reads

__all__ = ["TransformersAdapter", "TransformersConfig", "TransformersDecoder"]

OFFERED = ("input", "attention", "mlp_input", "mlp", "")
"""Parts of a layer in the order in which the forward pass reaches them."""


class TransformersAdapter(Reads, Linearises):
    """Model adapter `transformers`."""

    decoders_may_end_early = True
    """An edit of a decoder may raise to end the pass: layers below keep what they have read, none above is needed."""

    kind = "transformers"
    canonical_point = staticmethod(canonical_point)
    """From names of TransformerLens to ours."""

    def __init__(self, options: TransformersConfig, loaded: Loaded | None = None) -> None:
        super().__init__(options, loaded or load(options))
        self.layers = layer_list(self.model)
        self._shape: tuple[int, int] = (0, 0)

    def to(self, device: torch.device) -> TransformersAdapter:
        """Move the model, unless its parts have places of their own (`device_map`)."""
        if not is_spread(self.model):
            self.model.to(device)
        return self

    # -- points -------------------------------------------------------------------------------------------------

    def points(self) -> Sequence[str]:
        return list(self._widths)

    def width(self, point: str) -> int:
        self._parse(point)
        return self._widths[point]

    def _parse(self, point: str) -> tuple[int, str]:
        if point in self._widths:
            return _split(point)
        _, number, *part = [*point.split("."), "", ""][:3]
        name = part[0]
        there = name in OFFERED and number.isdigit() and int(number) < len(self.layers) and point.startswith("layers.")
        if there:
            reason = self._parts[int(number)].reason or "replacing it by itself changes what the model gives"
            raise SiteError(
                f"model '{self.options.model}' ({type(self.model).__name__}) has no point '{point}': {reason}"
            )
        raise SiteError(
            f"model '{self.options.model}' has no point '{point}'; it has layers.0 to "
            f"layers.{len(self.layers) - 1}, each alone or with .input, .attention, .mlp_input or .mlp{advice(point)}"
        )

    @cached_property
    def _parts(self) -> list[LayerParts]:
        """What each layer offers, measured on one row when the model is first asked."""
        with foreign_errors(f"the model '{self.options.model}', which fails on a row of tokens"):
            return find_parts(list(self.layers), text_config(self.model.config), self._tried)

    def _tried(self) -> Any:
        """What the model gives for one row, which must be numbers: nothing could be measured on it otherwise."""
        out = self._run(self._row())
        if bool((out.logits if self.causal else out[0]).isnan().any()):
            raise ConfigError(
                f"the model '{self.options.model}' gives NaN for a row of tokens: its weights are damaged, or too "
                f"large for dtype = '{self.options.dtype}'"
            )
        return out

    @cached_property
    def _widths(self) -> dict[str, int]:
        """Points and their widths; one that the model does not take back as it gave it is left out."""
        points = [
            f"layers.{number}{f'.{part}' if part else ''}"
            for number, found in enumerate(self._parts)
            for part in OFFERED
            if (found.residual if part in ("input", "") else getattr(found, part) is not None)
        ]
        points += [FINAL] if self.causal else []
        widths: dict[str, int] = {}
        plain = self._given([], widths)
        if not _alike(self._given(points, widths), plain):
            for part in (*OFFERED, FINAL):
                chosen = [point for point in points if _split(point)[1] == part]
                if not _alike(self._given(chosen, widths), plain):
                    points = [point for point in points if point not in chosen]
        return {point: widths[point] for point in points}

    def _given(self, points: Sequence[str], widths: dict[str, int]) -> Tensor:
        """What the model gives for one row where the activations at `points` are replaced by copies of themselves."""

        def same(point: str) -> Callable[[Tensor], Tensor]:
            def change(activation: Tensor) -> Tensor:
                widths[point] = activation.shape[-1]
                return activation.clone()

            return change

        with (
            torch.no_grad(),
            foreign_errors(f"the model '{self.options.model}', whose activations are not those of the tokens given"),
            _all_of(self._hooked(*_split(point), same(point)) for point in points),
        ):
            out = self._run(self._row())
        given: Tensor = out.logits if self.causal else out[0]
        return given.float()

    def _row(self) -> TokenBatch:
        size = int(text_config(self.model.config).vocab_size)
        ids = ((torch.arange(6) + 5) % size)[None]
        none = torch.zeros_like(ids, dtype=torch.bool)
        return TokenBatch(ids, ~none, none, none)

    @contextmanager
    def _hooked(self, number: int, part: str, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Call `change` with the activations at a point; what it returns, if anything, replaces them."""
        layer = self.layers[number]
        if part in ("input", "mlp_input", FINAL):
            readers = {"input": layer, FINAL: self.model.get_output_embeddings() if part == FINAL else None}
            reader = readers[part] if part in readers else self._parts[number].mlp_input
            assert reader is not None
            handle = reader.register_forward_pre_hook(
                lambda _, args, kwargs: self._replace_input(args, kwargs, change), with_kwargs=True, prepend=True
            )
        else:
            found: Part | None = getattr(self._parts[number], part) if part else Part(layer)
            assert found is not None
            # Prepend the hook, so that the library's own capture hooks see the replacement too.
            handle = found.module.register_forward_hook(
                lambda _, args, kwargs, out: self._replace_output(found, args, kwargs, out, change),
                with_kwargs=True,
                prepend=True,
            )
        try:
            yield
        finally:
            handle.remove()

    def _replace_input(self, args: Any, kwargs: Any, change: Callable[[Tensor], Tensor | None]) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        new = change(self._by_token(given))
        if new is None:
            return None
        new = new.reshape(given.shape)
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    def _replace_output(
        self, part: Part, args: Any, kwargs: Any, out: Any, change: Callable[[Tensor], Tensor | None]
    ) -> Any:
        # Layers return a tensor, or a tuple or list that begins with one, and some blocks one row of all tokens.
        given = out[0] if isinstance(out, tuple | list) else out
        residual = residual_of(args, kwargs) if part.whole else None
        new = change(self._by_token(part.added(given, residual)))
        if new is None:
            return None
        new = part.returned(new.reshape(given.shape), residual)
        if isinstance(out, list):
            return [new, *out[1:]]
        return (new, *out[1:]) if isinstance(out, tuple) else new

    def _by_token(self, given: Tensor) -> Tensor:
        """Activations as (B, T, D): blocks may see all tokens as one row, and some streams side by side."""
        rows, length = self._shape
        if tuple(given.shape[:2]) in ((rows, length), (1, rows * length)) or (
            given.dim() == 2 and len(given) == rows * length
        ):
            return given.reshape(rows, length, -1)
        raise ValueError(f"they have the shape {tuple(given.shape)} for {rows} rows of {length} tokens")

    # -- running ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def activations(self, tokens: TokenBatch, points: Sequence[str]) -> dict[str, Tensor]:
        wanted, found, device = set(points), dict[str, Tensor](), input_device(self.model)
        order = [point for point in self.points() if point in wanted]
        for point in points:
            self._parse(point)

        def record(point: str) -> Callable[[Tensor], None]:
            def keep(activation: Tensor) -> None:
                # A copy, because the model may go on to write into it: Falcon adds attention to its MLP's output.
                found[point] = activation.detach().clone().to(device)
                if len(found) == len(wanted):
                    raise _AllFoundError

            return keep

        tokens, back = self._from_the_left(tokens)
        keywords = self._keywords(tokens)
        # The last hook raises it: the rest of the forward pass is not needed.
        with suppress(_AllFoundError), _all_of(self._hooked(*_split(point), record(point)) for point in order):
            self._run(tokens, keywords)
        return {point: back(activation) for point, activation in found.items()}

    @torch.no_grad()
    def logits(self, tokens: TokenBatch, edits: Sequence[Edit] = ()) -> Tensor:
        self._check_causal()
        keywords = self._keywords(tokens)
        with _all_of(self._hooked(*self._parse(edit.point), edit.apply) for edit in edits):
            logits: Tensor = self._run(tokens, keywords).logits
        return logits.reshape(*tokens.ids.shape, -1).float()

    def scaled(self, factor: float) -> AbstractContextManager[None]:
        """Within, the adapter of peft in the model's layers counts `factor` times; `ConfigError` without one."""
        return scaled(self.model, factor, self.options.lora or self.options.model)

    def decoder(self, edits: Sequence[Edit] = ()) -> TransformersDecoder:
        self._check_causal()
        return TransformersDecoder(self, edits)

    @torch.no_grad()
    def read_out(self, point: str, direction_KD: Tensor) -> Tensor:
        self._check_causal()
        if self._parse(point)[1] == "mlp_input":
            raise SiteError(f"'{point}' is what an MLP reads and no part of the residual stream")
        norm = None if point == FINAL else last_norm(self.model, self.layers)
        return direct_effect(self.model.get_output_embeddings(), norm, direction_KD)

    def _run(self, tokens: TokenBatch, keywords: dict[str, Any] | None = None) -> Any:
        keywords = self._keywords(tokens) if keywords is None else keywords
        self._shape = (len(tokens.ids), tokens.ids.shape[1])
        return self.model(**keywords)

    def _deep(self, tokens: TokenBatch) -> Tensor:
        """After the last layer, (B, T, D), which shows whatever was seen before it."""
        point = f"layers.{len(self.layers) - 1}"
        return self.activations(tokens, [point])[point]


class TransformersDecoder:
    """Reads growing contexts with the model's key-value cache."""

    def __init__(self, adapter: TransformersAdapter, edits: Sequence[Edit] = ()) -> None:
        self.adapter, self.edits, self.context = adapter, tuple(edits), Context(adapter)

    @torch.no_grad()
    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Read tokens (B, T), left-padded where `attention` is False; returns the next token's logits, (B, V) in
        fp32."""
        keywords = self.context.read_on(ids, attention)
        with _all_of(self.adapter._hooked(*self.adapter._parse(edit.point), edit.apply) for edit in self.edits):
            # Only now, since finding out about positions and points may run the model on other tokens.
            self.adapter._shape = (len(ids), ids.shape[1])
            logits: Tensor = self.adapter.model(**keywords).logits[:, -1].float()
        return logits


class _AllFoundError(Exception):
    """Raised to end a forward pass early."""


@contextmanager
def _all_of(managers: Iterator[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for manager in managers:
            stack.enter_context(manager)
        yield


def _split(point: str) -> tuple[int, str]:
    if point == FINAL:
        return -1, FINAL
    _, number, *part = point.split(".")
    return int(number), part[0] if part else ""


def _alike(left: Tensor, right: Tensor) -> bool:
    """Equal but for rounding."""
    return bool((left - right).norm() <= 1e-3 * right.norm())
