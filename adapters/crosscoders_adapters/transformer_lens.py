"""Models run by TransformerLens: its hook names are the points, `blocks.3.hook_resid_post` or `blocks.3.attn.hook_z`.

The values of a hook that has heads of its own are taken as one vector a token, head after head.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar, Self

import torch
from attrs import frozen
from torch import Tensor

from crosscoders import ConfigError, Edit, TokenBatch

from .by_name import ByName, Change, by_token, shape_of
from .foreign import foreign_errors
from .loading import Loaded, TransformersConfig, load

VERSIONS = "transformer-lens>=4,<5"


@frozen(kw_only=True)
class TransformerLensConfig(TransformersConfig):
    """A model of the transformers library, run by TransformerLens."""

    canonical_point: ClassVar[Callable[[str], str] | None] = None
    changes_model: ClassVar[bool] = True  # it puts modules of its own into the model
    compatibility_mode: bool = False
    """Change weights as TransformerLens once did for every model (norms folded in, writing weights and unembedding
    centred): the activations are other numbers, and a crosscoder of the one does not fit the other."""


class TransformerLensAdapter(ByName):
    """Model adapter `transformer_lens`."""

    kind = "transformer_lens"

    def __init__(self, options: TransformerLensConfig | TransformersConfig, loaded: Loaded | None = None) -> None:
        library = transformer_lens_library()
        super().__init__(options, loaded or load(options))
        self._check_causal()
        with foreign_errors(f"the model '{options.model}' into TransformerLens"):
            # Without the tokenizer, which it would change; the text is read here.
            self.bridge = library.build_bridge_from_module(
                self.model, type(self.model).__name__, hf_config=self.model.config, model_name=options.model
            )
            if getattr(options, "compatibility_mode", False):
                self.bridge.enable_compatibility_mode(disable_warnings=True)
        self.bridge.eval()

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "compatibility_mode": bool(self.bridge.compatibility_mode),
            "transformer_lens": _version(),
        }

    def to(self, device: torch.device) -> Self:
        self.bridge.to(device, print_details=False)
        return self

    def decoder(self, edits: Sequence[Edit] = ()) -> TransformerLensDecoder:
        return TransformerLensDecoder(self, edits)

    def _seen(self, keywords: Mapping[str, Any]) -> list[tuple[str, Any]]:
        seen: list[tuple[str, Any]] = []

        def keep(name: str) -> Any:
            return lambda value, **_: seen.append((name, value.detach()))

        places: dict[int, list[str]] = {}
        for name, place in self.bridge.hook_dict.items():
            places.setdefault(id(place), []).append(name)
        names = [_known(names, self.bridge.hook_dict[names[0]].name) for names in places.values()]
        hooks = [(name, keep(name)) for name in names if self.bridge._gated_hook_reason(name) is None]
        with self.bridge.hooks(fwd_hooks=hooks):
            self._logits(keywords)
        return seen

    def _pass(self, keywords: Mapping[str, Any], changes: Mapping[str, Change], *, ends: bool = False) -> Tensor:
        last = list(changes)[-1] if changes else None

        def hook(name: str, change: Change) -> Any:
            def apply(value: Tensor, hook: Any) -> Tensor | None:
                new = change(value)
                if ends and name == last:
                    raise _EndedError
                return None if new is value else new

            return apply

        hooks = [(name, hook(name, change)) for name, change in changes.items()]
        with warnings.catch_warnings(), self.bridge.hooks(fwd_hooks=hooks):
            # It says that a norm with a hook rounds otherwise.
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
            try:
                return self._logits(keywords)
            except _EndedError:
                return torch.empty(0)

    def _logits(self, keywords: Mapping[str, Any]) -> Tensor:
        keywords = dict(keywords)
        logits: Tensor = self.bridge(keywords.pop("input_ids"), return_type="logits", **keywords)
        return logits


class TransformerLensDecoder:
    """Reads growing contexts anew each time: a key-value cache of transformers stays empty in TransformerLens."""

    def __init__(self, adapter: TransformerLensAdapter, edits: Sequence[Edit] = ()) -> None:
        self.adapter = adapter
        self._kept: dict[int, Tensor] = {}
        self._changes = adapter._ordered([(e.point, self._of_new(n, e.apply)) for n, e in enumerate(edits)])
        self._new = 0
        self._read: TokenBatch | None = None

    @torch.no_grad()
    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Read tokens (B, T), left-padded where `attention` is False; returns the next token's logits, (B, V) in
        fp32."""
        self._new = ids.shape[1]
        if self._read is not None:
            ids = torch.cat([self._read.ids.to(ids.device), ids], dim=1)
            attention = torch.cat([self._read.attention.to(ids.device), attention], dim=1)
        none = torch.zeros_like(attention)
        self._read = TokenBatch(ids, attention, none, none)
        keywords = self.adapter._keywords(self._read)
        return self.adapter._pass(keywords, by_token(self._changes, shape_of(ids)))[:, -1].float()

    def _of_new(self, number: int, change: Change) -> Change:
        """The change of the tokens that are read at the moment; those before stay as they were changed then."""

        def apply(activation: Tensor) -> Tensor:
            new = change(activation[:, -self._new :])
            before = self._kept.get(number, new[:, :0])
            self._kept[number] = torch.cat([before, new], dim=1)
            return self._kept[number]

        return apply


def _known(names: Sequence[str], own: str | None) -> str:
    """Of a place's names the one that people know: `blocks.0.hook_resid_post` rather than `blocks.0.hook_out`."""
    known = [name for name in names if name != own] or names
    return min(known, key=lambda name: (name.count("."), len(name)))


class _EndedError(Exception):
    """Raised to end a forward pass early."""


def transformer_lens_library() -> ModuleType:
    """The TransformerLens library; `ConfigError` names the extra where it is not installed or of another version."""
    try:
        import transformer_lens.model_bridge.sources
    except ImportError as error:
        raise ConfigError(
            "the model adapter 'transformer_lens' needs the extra crosscoders[transformer-lens]: "
            "pip install 'crosscoders[transformer-lens]'"
        ) from error
    if not _version().startswith("4."):
        raise ConfigError(f"the model adapter 'transformer_lens' is for {VERSIONS}, and {_version()} is here")
    found: ModuleType = transformer_lens.model_bridge.sources
    return found


def _version() -> str:
    from importlib.metadata import version

    return version("transformer-lens")
