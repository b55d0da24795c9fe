"""Models run by nnsight: every module that gives a value for each token is a point, called by its path.

So sites are not only layers: `model.layers.3.self_attn.q_proj`, an expert block, `model.vision_tower.…`,
`backbone.layers.2.mixer`. The output of a module is its point, the first item where it returns several.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar, Self

import torch
from attrs import frozen
from torch import Tensor

from crosscoders import ConfigError, Edit

from .by_name import ByName, Change, by_token, shape_of
from .loading import Loaded, TransformersConfig, load
from .placement import is_spread
from .reads import Context

VERSIONS = "nnsight>=0.8,<0.9"
"""Each minor version of it has changed what it is called with."""


@frozen(kw_only=True)
class NnsightConfig(TransformersConfig):
    """A model of the transformers library, run by nnsight."""

    canonical_point: ClassVar[Callable[[str], str] | None] = None


class NnsightAdapter(ByName):
    """Model adapter `nnsight`."""

    kind = "nnsight"

    def __init__(self, options: TransformersConfig, loaded: Loaded | None = None) -> None:
        library = nnsight_library()
        super().__init__(options, loaded or load(options))
        with warnings.catch_warnings():
            # It says that modules called `output` have another name there; here they keep theirs.
            warnings.filterwarnings("ignore", message=r"Module '.*' has a submodule named")
            self.traced = library.NNsight(self.model)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "nnsight": nnsight_library().__version__}

    def to(self, device: torch.device) -> Self:
        if not is_spread(self.model):
            self.model.to(device)
        return self

    def decoder(self, edits: Sequence[Edit] = ()) -> NnsightDecoder:
        self._check_causal()
        return NnsightDecoder(self, edits)

    @cached_property
    def _places(self) -> dict[str, Any]:
        """nnsight's own objects by module path."""
        by_module = {envoy._module: envoy for envoy in self.traced.modules()}
        return {name: by_module[module] for name, module in self.model.named_modules() if name and module in by_module}

    def _seen(self, keywords: Mapping[str, Any]) -> list[tuple[str, Any]]:
        seen: list[tuple[str, Any]] = []
        # By plain hooks, since in a trace places have to be named in the order in which they come.
        handles = [
            module.register_forward_hook(lambda _, __, out, name=name: seen.append((name, first(out))))
            for name, module in self.model.named_modules()
            if name in self._places
        ]
        try:
            self.model(**keywords)
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def _pass(self, keywords: Mapping[str, Any], changes: Mapping[str, Change], *, ends: bool = False) -> Tensor:
        places = [(self._places[name], change) for name, change in changes.items()]
        given: list[Any] = []
        with self.traced.trace(**keywords) as tracer:
            for place, change in places:
                out = place.output
                new = change(first(out))
                if new is not first(out):
                    place.output = with_first(out, new)
            if ends:
                tracer.stop()
            else:
                given.append(self.traced.output)
        if ends:
            return torch.empty(0)
        logits: Tensor = given[0].logits if self.causal else given[0][0]
        return logits


class NnsightDecoder:
    """Reads growing contexts with the model's key-value cache."""

    def __init__(self, adapter: NnsightAdapter, edits: Sequence[Edit] = ()) -> None:
        self.adapter, self.context = adapter, Context(adapter)
        self.changes = adapter._ordered([(edit.point, edit.apply) for edit in edits])

    @torch.no_grad()
    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Read tokens (B, T), left-padded where `attention` is False; returns the next token's logits, (B, V) in
        fp32."""
        keywords = self.context.read_on(ids, attention)
        return self.adapter._pass(keywords, by_token(self.changes, shape_of(ids)))[:, -1].float()


def nnsight_library() -> ModuleType:
    """The nnsight library; `ConfigError` names the extra where it is not installed or of another version."""
    try:
        import nnsight
    except ImportError as error:
        raise ConfigError(
            "the model adapter 'nnsight' needs the extra crosscoders[nnsight]: pip install 'crosscoders[nnsight]'"
        ) from error
    if not str(nnsight.__version__).startswith("0.8."):
        raise ConfigError(f"the model adapter 'nnsight' is for {VERSIONS}, and nnsight {nnsight.__version__} is here")
    found: ModuleType = nnsight
    return found


def first(out: Any) -> Any:
    """What a module gives, or the first of several things."""
    return out[0] if isinstance(out, tuple | list) and out else out


def with_first(out: Any, new: Tensor) -> Any:
    """The same with another first thing."""
    if isinstance(out, list):
        return [new, *out[1:]]
    return (new, *out[1:]) if isinstance(out, tuple) else new
