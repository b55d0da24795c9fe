"""Train, share, load and analyse sparse crosscoders, through plugins.

Names are imported on first use, so `import crosscoders` (and listing plugins) does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import CheckpointInfo
    from .configs import (
        AnalysisChoice,
        ArchitectureChoice,
        LossChoice,
        LossTermChoice,
        ModelChoice,
        ObserverChoice,
        TokenSourceChoice,
    )
    from .crosscoder import Crosscoder
    from .documents import Chat, Document, Message, Text, TokenIds
    from .errors import (
        AnalysisError,
        CacheError,
        CheckpointError,
        ConfigError,
        CrosscodersError,
        PluginError,
        SiteError,
        TrainingError,
    )
    from .gates import Gate, JumpReluGate, ReluGate, ScoreThresholdGate, TopKGate
    from .hookspecs import hookimpl
    from .initialise import InitialisationConfig
    from .latents import Latents
    from .losses import Activation, ComposedLoss, ForwardPass, Loss, LossConfig, LossOutput, LossTerm, StepContext
    from .plugins import Registry, get_registry
    from .protocols import Analysis, Edit, ModelAdapter, Observer, TokenBatch, Tokenized, TokenSource
    from .records import (
        AnalysisSpec,
        ArchitectureSpec,
        CheckpointFormatSpec,
        Lazy,
        LossSpec,
        LossTermSpec,
        ModelAdapterSpec,
        NoOptions,
        ObserverSpec,
        TokenSourceSpec,
    )
    from .reports import Examples, Figure, Note, Report, Table
    from .sites import Site, SiteLayout
    from .study import Study, analyse
    from .training import RunConfig, Runner, TrainingConfig, evaluate, fit, train
    from .wiring import LatentGroup, Wiring

_HOMES = {
    "checkpoint": ("CheckpointInfo",),
    "configs": (
        "AnalysisChoice",
        "ArchitectureChoice",
        "LossChoice",
        "LossTermChoice",
        "ModelChoice",
        "ObserverChoice",
        "TokenSourceChoice",
    ),
    "crosscoder": ("Crosscoder",),
    "documents": ("Chat", "Document", "Message", "Text", "TokenIds"),
    "errors": (
        "AnalysisError",
        "CacheError",
        "CheckpointError",
        "ConfigError",
        "CrosscodersError",
        "PluginError",
        "SiteError",
        "TrainingError",
    ),
    "gates": ("Gate", "JumpReluGate", "ReluGate", "ScoreThresholdGate", "TopKGate"),
    "hookspecs": ("hookimpl",),
    "latents": ("Latents",),
    "initialise": ("InitialisationConfig",),
    "losses": (
        "Activation",
        "ComposedLoss",
        "ForwardPass",
        "Loss",
        "LossConfig",
        "LossOutput",
        "LossTerm",
        "StepContext",
    ),
    "plugins": ("Registry", "get_registry"),
    "protocols": ("Analysis", "Edit", "ModelAdapter", "Observer", "TokenBatch", "TokenSource", "Tokenized"),
    "records": (
        "AnalysisSpec",
        "ArchitectureSpec",
        "CheckpointFormatSpec",
        "Lazy",
        "LossSpec",
        "LossTermSpec",
        "ModelAdapterSpec",
        "NoOptions",
        "ObserverSpec",
        "TokenSourceSpec",
    ),
    "reports": ("Examples", "Figure", "Note", "Report", "Table"),
    "sites": ("Site", "SiteLayout"),
    "study": ("Study", "analyse"),
    "training": ("RunConfig", "Runner", "TrainingConfig", "evaluate", "fit", "train"),
    "wiring": ("LatentGroup", "Wiring"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Activation",
    "Analysis",
    "AnalysisChoice",
    "AnalysisError",
    "AnalysisSpec",
    "ArchitectureChoice",
    "ArchitectureSpec",
    "CacheError",
    "Chat",
    "CheckpointError",
    "CheckpointFormatSpec",
    "CheckpointInfo",
    "ComposedLoss",
    "ConfigError",
    "Crosscoder",
    "CrosscodersError",
    "Document",
    "Edit",
    "Examples",
    "Figure",
    "ForwardPass",
    "Gate",
    "InitialisationConfig",
    "JumpReluGate",
    "LatentGroup",
    "Latents",
    "Lazy",
    "Loss",
    "LossChoice",
    "LossConfig",
    "LossOutput",
    "LossSpec",
    "LossTerm",
    "LossTermChoice",
    "LossTermSpec",
    "Message",
    "ModelAdapter",
    "ModelAdapterSpec",
    "ModelChoice",
    "NoOptions",
    "Note",
    "Observer",
    "ObserverChoice",
    "ObserverSpec",
    "PluginError",
    "Registry",
    "ReluGate",
    "Report",
    "RunConfig",
    "Runner",
    "ScoreThresholdGate",
    "Site",
    "SiteError",
    "SiteLayout",
    "StepContext",
    "Study",
    "Table",
    "Text",
    "TokenBatch",
    "TokenIds",
    "TokenSource",
    "TokenSourceChoice",
    "TokenSourceSpec",
    "Tokenized",
    "TopKGate",
    "TrainingConfig",
    "TrainingError",
    "Wiring",
    "analyse",
    "evaluate",
    "fit",
    "get_registry",
    "hookimpl",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("crosscoders")
    if name in _MODULE_OF:
        value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'crosscoders' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
