"""A transformers model as the affine map that it is on one row of tokens, once patterns and denominators are held."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from math import isnan
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crosscoders import ConfigError, Edit, Readout, TokenBatch

from .holding import Holder, Kept
from .placement import has_offloaded, input_device

if TYPE_CHECKING:
    from .transformers import TransformersAdapter

EMBEDDING, FINAL = "layers.0.input", "final"


class Linearises:
    """The part of `TransformersAdapter` that makes it `Linearisable`."""

    @cached_property
    def _linearising(self) -> Linearising:
        return Linearising(self)  # type: ignore[arg-type]

    def linearise(
        self, tokens: TokenBatch, *, cuts: Mapping[str, Mapping[str, Tensor]], reads: Sequence[str] = ()
    ) -> LinearisedModel:
        """The model as an affine map on one row of tokens; see `crosscoders.models.linear.Linearisable`."""
        return self._linearising.linearise(tokens, cuts, reads)

    def hold(self, tokens: TokenBatch) -> HeldModel:
        """The model with attention patterns and norms held at those of one row of tokens."""
        return self._linearising.hold(tokens)

    def readout(self) -> Readout:
        """How logits come from the point `final`."""
        return self._linearising.readout()


class Linearising:
    """Linearises the model of an adapter; proves on first use that it can."""

    def __init__(self, adapter: TransformersAdapter) -> None:
        self.adapter, self.holder = adapter, Holder(adapter.model)
        self._proved = False
        self._readout: Readout | None = None

    def linearise(
        self, tokens: TokenBatch, cuts: Mapping[str, Mapping[str, Tensor]], reads: Sequence[str]
    ) -> LinearisedModel:
        """See `Linearisable.linearise`."""
        self._prove()
        with torch.enable_grad():
            return self._linearise(tokens, cuts, reads)

    def hold(self, tokens: TokenBatch) -> HeldModel:
        """See `Linearisable.hold`."""
        self._prove()
        with torch.no_grad():
            return self._linearise(tokens, {}, ()).held

    def readout(self) -> Readout:
        """See `Linearisable.readout`."""
        self._refuse_offloaded()
        if self._readout is None:
            self._readout = self._find_readout()
        return self._readout

    def _linearise(
        self, tokens: TokenBatch, cuts: Mapping[str, Mapping[str, Tensor]], reads: Sequence[str]
    ) -> LinearisedModel:
        adapter = self.adapter
        if not adapter.causal:
            raise ConfigError(f"model '{adapter.options.model}' is an encoder and gives no next-token logits")
        if len(tokens.ids) != 1 or not bool(tokens.attention.all()) or tokens.is_packed:
            raise ConfigError("a model is linearised on one row of tokens without padding, of one document")
        values: dict[str, Tensor] = {}
        order = list(adapter.points())
        skips_read = [point for maps in cuts.values() for point in maps]
        wanted = {EMBEDDING, FINAL, *cuts, *reads, *skips_read}
        for point in wanted:
            adapter.width(point)
        for point, maps in cuts.items():
            late = [read for read in maps if order.index(read) >= order.index(point)]
            if late:
                raise ConfigError(f"a skip map cannot lead from '{late[0]}' back to '{point}'")
        sources: dict[str, Tensor] = {}

        def change(point: str) -> Callable[[Tensor], Tensor | None]:
            def at_point(activation: Tensor) -> Tensor | None:
                values[point] = activation
                if point == EMBEDDING:
                    sources[point] = activation.detach().requires_grad_(torch.is_grad_enabled())
                    values[point] = sources[point]
                elif point in cuts:
                    sources[point] = _cut(activation, [(values[read], W) for read, W in cuts[point].items()])
                else:
                    return None
                # A copy, because the model may write into what it is given.
                return sources[point].clone()

            return at_point

        keywords = adapter._keywords(tokens)
        with ExitStack() as stack:
            for point in sorted(wanted, key=order.index):
                stack.enter_context(adapter._hooked(*adapter._parse(point), change(point)))
            kept = stack.enter_context(self.holder.keeping())
            logits = adapter._run(tokens, keywords).logits.detach()
        held = HeldModel(self, tokens, kept)
        return LinearisedModel(values, sources, logits[0].float(), held, order)

    def _find_readout(self) -> Readout:
        """The scale and the cap of the logits, measured on a row."""
        adapter, model = self.adapter, self.adapter.model
        head: Any = model.get_output_embeddings()
        weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
        row = adapter._row()
        final_TD = adapter.activations(row, [FINAL])[FINAL][0]
        logits_TV = adapter.logits(row)[0]
        if isinstance(weight, Tensor) and weight.shape == (logits_TV.shape[1], final_TD.shape[1]):
            raw_TV = final_TD.float() @ weight.float().T + (0 if bias is None else bias.float())
            cap = getattr(getattr(model.config, "text_config", model.config), "final_logit_softcapping", None)
            tolerance = 1e-3 if weight.dtype == torch.float32 else 3e-2
            fitting: list[tuple[float, Readout]] = []
            for bound in {None, cap}:
                if bound is not None and not bool((logits_TV.abs() < bound).all()):
                    continue
                uncapped_TV = logits_TV if bound is None else bound * torch.atanh(logits_TV / bound)
                scale = float((uncapped_TV * raw_TV).sum() / raw_TV.square().sum())
                error = float((uncapped_TV - scale * raw_TV).norm() / uncapped_TV.norm())
                scale = 1.0 if abs(scale - 1.0) < tolerance else scale
                fitting.append((error, Readout(weight, bias, scale, bound)))
            error, found = min(fitting, key=lambda pair: pair[0])
            if error <= tolerance:
                return found
        raise ConfigError(
            f"the logits of model '{adapter.options.model}' ({type(model).__name__}) are not its output embedding "
            "times the activations before it, scaled and soft-capped at most, so their directions are not known"
        )

    def _prove(self) -> None:
        """Refuse, once and by name, a model that is not what linearising takes it for.

        All attention has to ask the library's table, values must not change, and the map must be affine: the held
        model, moved by random amounts at its beginning and at all MLPs, gives what the derivatives say.
        """
        if self._proved:
            return
        self._refuse_offloaded()
        self._refuse_quantised()
        adapter, name = self.adapter, self.adapter.options.model
        kind, row = type(adapter.model).__name__, adapter._row()
        mlps = [f"layers.{i}.mlp" for i in range(len(adapter.layers))]
        with torch.enable_grad():
            linear = self._linearise(row, {point: {} for point in mlps}, self._read_points())
        called = set(linear.held.kept.attention)
        bypassing = [i for i, layer in enumerate(adapter.layers) if not called & set(layer.modules())]
        if bypassing:
            raise ConfigError(
                f"model '{name}' ({kind}) cannot be linearised: layers.{bypassing[0]} does not ask the library's table "
                "for its attention function, so its patterns cannot be held"
            )
        plain_TV = adapter.logits(row)[0]
        if not torch.equal(plain_TV, linear.logits.to(plain_TV.device)):
            raise ConfigError(f"model '{name}' ({kind}) cannot be linearised: its logits change when norms are held")
        error, point = self._error_of_moves(linear, [EMBEDDING, *mlps])
        if not error < (1e-3 if adapter.model.dtype == torch.float32 else 0.1):
            raise ConfigError(
                f"model '{name}' ({kind}) cannot be linearised: with attention patterns and norms held and MLPs cut, "
                f"its activations at '{point}' are not affine (off by {error:.2g} of a move)"
            )
        self._proved = True

    def _refuse_offloaded(self) -> None:
        if has_offloaded(self.adapter.model):
            raise ConfigError(
                f"model '{self.adapter.options.model}' cannot be linearised while parts of it are offloaded, since its "
                "weights have to be there between forward passes; give all of it to devices, none of it to 'disk', nor "
                "to 'cpu' beside a GPU"
            )

    def _refuse_quantised(self) -> None:
        """Eight bits round activations too, and four have derivatives on GPUs alone: on CPUs they are silently 0."""
        options, device = self.adapter.options, input_device(self.adapter.model)
        if options.quantisation == "int8" or (options.quantisation and device.type == "cpu"):
            raise ConfigError(
                f"model '{options.model}' cannot be linearised with quantisation = '{options.quantisation}', which has "
                f"no derivatives to go by{'' if options.quantisation == 'int8' else ' on CPUs'}; load it without"
            )

    def _read_points(self) -> list[str]:
        return [point for point in self.adapter.points() if point.endswith(".mlp_input")]

    def _error_of_moves(self, linear: LinearisedModel, moved: Sequence[str]) -> tuple[float, str]:
        """The largest error, as a share, of what derivatives say about random moves, and where it is made."""
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(input_device(self.adapter.model))

        moves = {p: random(*linear.values[p].shape) * linear.values[p].float().std() for p in moved}
        reads = [*self._read_points(), FINAL]
        edits = [Edit.replace(p, linear.values[p] + move) for p, move in moves.items()]
        clean, seen = linear.held.activations(reads), linear.held.activations(reads, edits)
        last = len(linear.logits) - 1
        worst = (0.0, FINAL)
        for point in reads:
            step_TD = (seen[point] - clean[point]).float()
            vector_RD, position_R = random(2, step_TD.shape[1]), torch.tensor([last, last // 2])
            found_R = (vector_RD * step_TD[position_R]).sum(dim=1)
            pulled = linear.pull(point, vector_RD, position_R)
            said_R = sum(torch.einsum("rtd,td->r", back, moves[p]) for p, back in pulled.items())
            size = float(step_TD[position_R].norm(dim=1).mean())
            error = float((found_R - said_R).abs().max()) / max(size, 1e-30)
            worst = max(worst, (float("inf") if isnan(error) else error, point))
        return worst


class HeldModel:
    """See `crosscoders.models.linear.Held`."""

    def __init__(self, owner: Linearising, tokens: TokenBatch, kept: Kept) -> None:
        self.owner, self.tokens, self.kept = owner, tokens, kept

    def activations(self, points: Sequence[str], edits: Sequence[Edit] = ()) -> dict[str, Tensor]:
        """Activations (T, D) at `points`, everything held, after `edits`."""
        found: dict[str, Tensor] = {}

        def record(point: str) -> Callable[[Tensor], Tensor]:
            return lambda activation: found.setdefault(point, activation[0].clone())[None]

        self.logits([*edits, *(Edit(point, record(point)) for point in points)])
        return found

    @torch.no_grad()
    def logits(self, edits: Sequence[Edit] = (), *, attention: bool = True, norms: bool = True) -> Tensor:
        """Logits (1, T, V) with `edits`."""
        with ExitStack() as stack:
            adapter = self.owner.adapter
            keywords = adapter._keywords(self.tokens)
            # Hooks that are set later run earlier: edits of one point run in the order in which they are given.
            for edit in reversed(edits):
                stack.enter_context(adapter._hooked(*adapter._parse(edit.point), edit.apply))
            stack.enter_context(self.owner.holder.using(self.kept, attention=attention, norms=norms))
            logits: Tensor = adapter._run(self.tokens, keywords).logits
        return logits.float()


class LinearisedModel:
    """See `crosscoders.models.linear.Linear`."""

    def __init__(
        self,
        values: Mapping[str, Tensor],
        sources: Mapping[str, Tensor],
        logits: Tensor,
        held: HeldModel,
        order: Sequence[str],
    ) -> None:
        self._live = {point: value.reshape(value.shape[-2:]) for point, value in values.items()}
        self._sources = dict(sources)
        self.values: Mapping[str, Tensor] = {point: value.detach() for point, value in self._live.items()}
        self.logits, self.held = logits, held
        self._place = {point: place for place, point in enumerate(order)}

    def pull(self, point: str, vector_RD: Tensor, position_R: Tensor) -> dict[str, Tensor]:
        """Derivatives (R, T, D) of ⟨vector, activation at `point` and position⟩ at all sources before `point`."""
        if point not in self._live:
            raise ConfigError(f"'{point}' is not among the points that were asked for: {', '.join(self._live)}")
        value_TD = self._live[point]
        before = [p for p in self._sources if self._place[p] < self._place[point]]
        seed_RTD = value_TD.new_zeros(len(vector_RD), *value_TD.shape)
        rows = torch.arange(len(vector_RD), device=value_TD.device)
        seed_RTD[rows, position_R.to(value_TD.device)] = vector_RD.to(value_TD)
        if not before or not value_TD.requires_grad:
            return {}
        found = torch.autograd.grad(
            value_TD,
            [self._sources[p] for p in before],
            seed_RTD,
            retain_graph=True,
            is_grads_batched=True,
            allow_unused=True,
        )
        return {p: grad[:, 0].float() for p, grad in zip(before, found, strict=True) if grad is not None}


def _cut(activation: Tensor, skips: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The activation with nothing behind it but skip maps of what lies before."""
    if not skips:
        return activation.detach().requires_grad_(torch.is_grad_enabled())
    through: Tensor = sum(read.float() @ W.to(read.device).float().T for read, W in skips)  # type: ignore[assignment]
    return activation.detach() + (through - through.detach()).to(activation.dtype)
