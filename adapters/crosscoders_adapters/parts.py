"""Where attention and the MLP add to the residual stream in a layer, found by name and proved on one row of tokens.

Families differ: a norm after the sub-block, a multiplier, a sub-block that returns the stream with its part added.
Which of these a layer does is not looked up but measured: what is offered as attention and MLP adds up to what the
layer does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise, product
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor, nn

ATTENTION = (
    "attention.output.dense",
    "self_attn",
    "attn",
    "self_attention",
    "attention",
    "linear_attn",
    "layer.0.SelfAttention",
)
MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "output.dense", "fc2", "layer.1.DenseReluDense")
MLP_INPUT = (
    "mlp",
    "feed_forward",
    "ffn",
    "block_sparse_moe",
    "moe",
    "intermediate.dense",
    "fc1",
    "layer.1.DenseReluDense",
)
MULTIPLIERS = ("multiplier", "scale", "scaling", "alpha", "beta")


@frozen(eq=False)
class Part:
    """A module whose output, or something simple of it, is added to the residual stream."""

    module: nn.Module
    factor: float = 1.0
    """What the layer multiplies the output with before it adds it."""
    whole: bool = False
    """Whether the module is given the residual stream and returns it with its part added."""

    def added(self, value: Tensor, residual: Tensor | None) -> Tensor:
        """From the module's output to what is added."""
        value = value - residual if residual is not None else value
        return value * self.factor if self.factor != 1.0 else value

    def returned(self, added: Tensor, residual: Tensor | None) -> Tensor:
        """The other way round."""
        value = added / self.factor if self.factor != 1.0 else added
        return value + residual if residual is not None else value


@frozen(eq=False)
class LayerParts:
    """What a layer offers beside the residual stream itself."""

    attention: Part | None = None
    mlp: Part | None = None
    mlp_input: nn.Module | None = None
    residual: bool = True
    """Whether the layer runs once in a forward pass, so that its input and output are points."""
    normed_after: bool = False
    """Whether a norm follows each sum of residual stream and part, as in BERT, rather than stand before the part."""
    reason: str = ""
    """Why something is left out, where it is."""


@frozen(eq=False)
class _Call:
    """One call of a module, its tensors as rows (T, D) in fp32."""

    order: int
    input_TD: Tensor | None
    output_TD: Tensor
    residual_TD: Tensor | None


@frozen(eq=False)
class _Trace:
    calls: dict[nn.Module, _Call] = field(factory=dict)
    counts: Counter[nn.Module] = field(factory=Counter)
    """How often each module was called."""

    def get(self, module: nn.Module | None) -> _Call | None:
        return None if module is None else self.calls.get(module)


def find_parts(layers: Sequence[nn.Module], config: Any, run: Callable[[], Any]) -> list[LayerParts]:
    """The parts of each layer; `run` runs the model on one row of a few tokens."""
    watched = {module for layer in layers for module in [layer, *_candidates(layer), *_norms(layer)]}
    trace = _Trace()
    with ExitStack() as stack:
        for module in watched:
            stack.callback(module.register_forward_hook(_recorder(trace), with_kwargs=True).remove)
        run()
    if not _is_stack(layers, trace):
        reason = "a layer does not read what the one before it gives, so what was found is not a list of layers"
        return [LayerParts(residual=False, reason=reason)] * len(layers)
    return [_of_layer(layer, config, trace) for layer in layers]


def _is_stack(layers: Sequence[nn.Module], trace: _Trace) -> bool:
    """Whether each layer reads what the one before it gives, as far as both run once."""
    for before, after in pairwise(layers):
        first, second = trace.get(before), trace.get(after)
        once = trace.counts[before] == trace.counts[after] == 1
        read_TD = second.input_TD if first and second and once else None
        if first and read_TD is not None and not _close(first.output_TD, read_TD, first.output_TD, 1e-3):
            return False
    return True


def residual_of(args: Any, kwargs: Any) -> Tensor | None:
    """The residual stream, where a module is given it beside its own input."""
    found = kwargs.get("residual", args[1] if len(args) > 1 else None)
    return found if isinstance(found, Tensor) and found.is_floating_point() else None


def named(block: nn.Module, names: Sequence[str]) -> nn.Module | None:
    """The first of some dotted names that a block has a module under."""
    for name in names:
        module: Any = block
        for step in name.split("."):
            module = getattr(module, step, None)
        if isinstance(module, nn.Module):
            return module
    return None


def _candidates(layer: nn.Module) -> list[nn.Module]:
    return [module for names in (ATTENTION, MLP, MLP_INPUT) if (module := named(layer, names)) is not None]


def _norms(layer: nn.Module) -> list[nn.Module]:
    return [module for module in layer.modules() if "norm" in type(module).__name__.lower()]


def _recorder(trace: _Trace) -> Callable[..., None]:
    def record(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        trace.counts[module] += 1
        first = args[0] if args else kwargs.get("hidden_states")
        output = out[0] if isinstance(out, tuple | list) else out
        if isinstance(output, Tensor):
            trace.calls[module] = _Call(len(trace.calls), _rows(first), _rows(output), _rows(residual_of(args, kwargs)))

    return record


def _rows(value: Any) -> Any:
    # Copies, because the model may write into its tensors after this.
    return value.detach().float().clone().flatten(0, -2) if isinstance(value, Tensor) and value.dim() > 1 else None


def _of_layer(layer: nn.Module, config: Any, trace: _Trace) -> LayerParts:
    call, times = trace.get(layer), trace.counts[layer]
    if times != 1:
        # Looped models, and layers that share their weights under one name; or branches that other inputs take.
        reason = f"the layer runs {times} times in one forward pass, and a point once" if times else "it does not run"
        return LayerParts(residual=False, reason=reason)
    if call is None or call.input_TD is None or call.input_TD.shape != call.output_TD.shape:
        return LayerParts(reason="its layers do not take the residual stream and return it")
    reads = named(layer, MLP_INPUT)
    seen = trace.get(reads)
    mlp_input = reads if seen and seen.input_TD is not None and len(seen.input_TD) == len(call.input_TD) else None
    attention = list(_forms(named(layer, ATTENTION), layer, trace, call.input_TD.shape))
    mlp = list(_forms(named(layer, MLP), layer, trace, call.input_TD.shape))
    tolerance = 1e-3 if _dtype(layer) == torch.float32 else 0.1
    for (first, a_TD), (second, m_TD) in product(attention, mlp):
        factors = _factors(call.output_TD - call.input_TD, a_TD, m_TD, _scalars(layer, config), tolerance)
        if factors:
            return LayerParts(_times(first, factors[0]), _times(second, factors[1]), mlp_input)
    norms = [each for module in _norms(layer) if (each := trace.get(module)) and each.input_TD is not None]
    if attention and mlp and _normed_after(call, attention[0][1], mlp[0][1], norms, tolerance):
        return LayerParts(attention[0][0], mlp[0][0], mlp_input, normed_after=True)
    # A layer with only one of the two: between them lies what some norm reads.
    between = [each.input_TD for each in norms if each.input_TD is not None]
    if attention and not mlp:
        fitting = (p for p, a_TD in attention if _any_close(call.input_TD + a_TD, between, a_TD, tolerance))
        return LayerParts(attention=next(fitting, None), mlp_input=mlp_input, reason="its MLP was not found")
    if mlp and not attention:
        fitting = (p for p, m_TD in mlp if _any_close(call.output_TD - m_TD, between, m_TD, tolerance))
        return LayerParts(mlp=next(fitting, None), mlp_input=mlp_input, reason="its attention was not found")
    return LayerParts(
        mlp_input=mlp_input,
        reason="in its layers, what attention and MLP give does not add up to the change of the residual stream",
    )


def _times(part: Part, factor: float) -> Part:
    return Part(part.module, part.factor * factor, part.whole)


def _any_close(left_TD: Tensor, rights: Sequence[Tensor], size_TD: Tensor, tolerance: float) -> bool:
    return any(_close(left_TD, right_TD, size_TD, tolerance) for right_TD in rights)


def _forms(module: nn.Module | None, layer: nn.Module, trace: _Trace, shape: Any) -> Iterator[tuple[Part, Tensor]]:
    """What a sub-block may add: its output, that without the stream it was given, or the output of a norm after it."""
    call = trace.get(module)
    if call is None or call.output_TD.shape != shape:
        return
    assert module is not None
    yield Part(module), call.output_TD
    if call.residual_TD is not None and call.residual_TD.shape == shape:
        yield Part(module, whole=True), call.output_TD - call.residual_TD
    for norm in _norms(layer):
        after = trace.get(norm)
        if after is not None and after.input_TD is not None and torch.equal(after.input_TD, call.output_TD):
            yield Part(norm), after.output_TD


def _factors(
    change_TD: Tensor, a_TD: Tensor, m_TD: Tensor, scalars: Sequence[float], tolerance: float
) -> tuple[float, float] | None:
    """Numbers, 1 or some of the layer or the config, with which two parts add up to the change of the stream."""
    if _close(a_TD + m_TD, change_TD, change_TD, tolerance):
        return 1.0, 1.0
    pair = torch.stack([a_TD.flatten(), m_TD.flatten()], dim=1)
    solution = torch.linalg.lstsq(pair.cpu(), change_TD.flatten()[:, None].cpu()).solution[:, 0].tolist()
    near = [min((1.0, *scalars), key=lambda scalar: abs(scalar - value)) for value in solution]
    added_TD = near[0] * a_TD + near[1] * m_TD
    return (near[0], near[1]) if _close(added_TD, change_TD, change_TD, tolerance) else None


def _normed_after(call: _Call, a_TD: Tensor, m_TD: Tensor, norms: Sequence[_Call], tolerance: float) -> bool:
    """Whether a norm reads input + attention, and the layer's last one reads that norm's output + MLP."""
    assert call.input_TD is not None
    for first, second in product(norms, norms):
        if first.input_TD is None or second.input_TD is None or second.output_TD.shape != call.output_TD.shape:
            continue
        if (
            torch.equal(second.output_TD, call.output_TD)
            and _close(call.input_TD + a_TD, first.input_TD, a_TD, tolerance)
            and _close(first.output_TD + m_TD, second.input_TD, m_TD, tolerance)
        ):
            return True
    return False


def _close(left_TD: Tensor, right_TD: Tensor, size_TD: Tensor, tolerance: float) -> bool:
    """Equal to within a share of `size_TD`, by the median token: the first ones of large models have huge norms."""
    if left_TD.shape != right_TD.shape:
        return False
    error_T = (left_TD - right_TD).norm(dim=-1) / size_TD.norm(dim=-1).clamp_min(1e-30)
    return bool(error_T.median() <= tolerance)


def _scalars(layer: nn.Module, config: Any) -> list[float]:
    attributes = {**vars(config), **{key: value for key, value in vars(layer).items() if not key.startswith("_")}}
    return [
        value
        for key, value in attributes.items()
        if isinstance(value, float) and value and any(word in key for word in MULTIPLIERS)
    ]


def _dtype(layer: nn.Module) -> torch.dtype | None:
    return next((parameter.dtype for parameter in layer.parameters() if parameter.is_floating_point()), None)
