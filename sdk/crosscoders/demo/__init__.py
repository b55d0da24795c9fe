"""The demo: a crosscoder on a base/chat pair, from training to a report."""

from typing import TYPE_CHECKING, Any

from .config import DemoConfig

if TYPE_CHECKING:
    from .run import DemoResult, demo

__all__ = ["DemoConfig", "DemoResult", "demo"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
