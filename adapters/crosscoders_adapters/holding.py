"""Attention patterns and norms' denominators of a transformers model, held while it runs.

A pattern depends on queries and keys alone, so the library's own attention function, given detached ones, has exactly
the gradient of a held pattern, and given those of another run it has that run's pattern. It is taken from the library's
table of attention functions, as each layer asks for it: fused kernels stay usable and the config is not touched.
A norm is affine once its denominator is held; which form a norm has is found by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from threading import RLock
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor, nn

from crosscoders import ConfigError

_TABLE = RLock()
"""The library has one table for all models."""

Change = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From an attention module's queries and keys to those it is to use."""


@frozen(eq=False)
class NormForm:
    """A norm as gain·(x or x − mean)·scale + bias, where only the scale of a token depends on x otherwise."""

    gain_D: Tensor
    bias_D: Tensor
    centred: bool

    @classmethod
    @torch.no_grad()
    def of(cls, name: str, norm: Any, like: Tensor) -> NormForm:
        """The form that gives what the norm gives on random input; `ConfigError` names a norm of no such form."""
        weight = getattr(norm, "weight", None)
        # Norms of queries and keys may have a gain for each head.
        shape = like.shape[-1:] if weight is None else weight.shape
        generator = torch.Generator().manual_seed(0)
        probe_BD = (torch.randn(8, *shape, generator=generator) + 0.5).to(like)
        gains = [torch.ones(shape, device=like.device)] if weight is None else [weight.float(), 1.0 + weight.float()]
        fitting: list[tuple[float, NormForm]] = []
        try:
            bias_D = norm.forward(torch.zeros_like(probe_BD))[0].float()
            out_BD = norm.forward(probe_BD).float()
            for gain_D, centred in product(gains, (False, True)):
                form = cls(gain_D, bias_D, centred)
                error_BD = form.apply(probe_BD, form.scale(probe_BD, out_BD)) - out_BD
                fitting.append((float(error_BD.norm() / out_BD.norm().clamp_min(1e-30)), form))
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            pass  # takes something else than activations alone
        error, found = min(fitting, key=lambda pair: pair[0], default=(float("inf"), None))
        if found is None or not error < (1e-4 if like.dtype == torch.float32 else 2e-2):
            raise ConfigError(
                f"the norm '{name}' ({type(norm).__name__}) is not a multiple of its input, centred or not, plus a "
                "bias, so its denominator cannot be held"
            )
        return found

    def scale(self, x: Tensor, out: Tensor) -> Tensor:
        """1 / denominator of each token, (…, 1), from a norm's input and output."""
        plain = self._plain(x)
        numerator = ((out.float() - self.bias_D) * plain).sum(dim=-1, keepdim=True)
        return numerator / plain.square().sum(dim=-1, keepdim=True).clamp_min(1e-30)

    def apply(self, x: Tensor, scale: Tensor) -> Tensor:
        """The norm's output with the denominator held, in fp32."""
        # Gain and scale first: going back through a norm is one product then.
        return self._rest(x) * (self.gain_D * scale) + self.bias_D

    def _plain(self, x: Tensor) -> Tensor:
        return self.gain_D * self._rest(x)

    def _rest(self, x: Tensor) -> Tensor:
        x = x.float()
        return x - x.mean(dim=-1, keepdim=True) if self.centred else x


@frozen(eq=False)
class Kept:
    """What one run of a model left to hold: by module, one entry for each call."""

    attention: dict[nn.Module, list[tuple[Tensor, Tensor]]] = field(factory=dict)
    """Queries and keys, after positions are rotated in."""
    scales: dict[nn.Module, list[Tensor]] = field(factory=dict)


class Holder:
    """Holds a model's attention and norms."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._norms = {module: name for name, module in model.named_modules() if _is_norm(module)}
        self._forms: dict[nn.Module, NormForm] = {}

    @contextmanager
    def keeping(self) -> Iterator[Kept]:
        """Values are the model's own; gradients see patterns and denominators as constants. Yields what to hold."""
        kept = Kept()

        def detached(module: nn.Module, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
            pair = query.detach(), key.detach()
            kept.attention.setdefault(module, []).append(pair)
            return pair

        def linear(norm: nn.Module, args: Any, out: Tensor) -> Tensor:
            x, form = args[0], self._form(norm, args[0])
            scale = form.scale(x.detach(), out.detach())
            kept.scales.setdefault(norm, []).append(scale)
            held = form.apply(x, scale)
            return out.detach() + (held - held.detach()).to(out.dtype)

        with self._changed(detached, linear):
            yield kept

    @contextmanager
    def using(self, kept: Kept, *, attention: bool = True, norms: bool = True) -> Iterator[None]:
        """Patterns and denominators are those kept."""
        calls: dict[nn.Module, int] = {}

        def turn(module: nn.Module) -> int:
            calls[module] = calls.get(module, -1) + 1
            return calls[module]

        def kept_pair(module: nn.Module, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
            old_query, old_key = kept.attention[module][turn(module)]
            return old_query.expand_as(query), old_key.expand_as(key)

        def kept_scale(norm: nn.Module, args: Any, out: Tensor) -> Tensor:
            return self._form(norm, args[0]).apply(args[0], kept.scales[norm][turn(norm)]).to(out.dtype)

        with self._changed(kept_pair if attention else None, kept_scale if norms else None):
            yield

    def _form(self, norm: nn.Module, x: Tensor) -> NormForm:
        if norm not in self._forms:
            self._forms[norm] = NormForm.of(self._norms[norm], norm, x.detach())
        return self._forms[norm]

    @contextmanager
    def _changed(self, attention: Change | None, norm: Callable[..., Tensor] | None) -> Iterator[None]:
        with ExitStack() as stack:
            if attention is not None:
                stack.enter_context(_attention(self.model, attention))
            if norm is not None:
                for module in self._norms:
                    # First of all hooks: a point may be a norm's output, and what is made of it is not the norm's.
                    stack.callback(module.register_forward_hook(norm, prepend=True).remove)
            yield


@contextmanager
def _attention(model: nn.Module, change: Change) -> Iterator[None]:
    """Let the attention functions of the library's table, as this model asks for them, work on changed queries and
    keys."""
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    table: Any = ALL_ATTENTION_FUNCTIONS
    if not hasattr(AttentionInterface, "get_interface"):
        raise ConfigError("this version of transformers has no table that attention functions are asked of; update it")
    own = set(model.modules())

    def get_interface(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        function = AttentionInterface.get_interface(table, name, default)

        def held(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
            if module in own:
                query, key = change(module, query, key)
            return function(module, query, key, *args, **kwargs)

        return held

    with _TABLE:
        table.get_interface = get_interface
        try:
            yield
        finally:
            del table.get_interface


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("Norm")
