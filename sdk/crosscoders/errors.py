"""Everything a user can cause is a `CrosscodersError`, so one `except` clause catches it all.

CrosscodersError
├── ConfigError       a config file or option that is invalid
│   └── DocumentError     a document that a model cannot read
├── PluginError       a plugin that is missing, broken, or ambiguous
├── SiteError         a site that no model has, or activations that do not fit the sites
├── CheckpointError   a saved crosscoder or run that is damaged, incomplete, or in an unknown format
│   └── UnansweredError   another library's checkpoint that does not say something, and nobody answered
├── CacheError        an activation cache that is damaged, unfinished, or made from another config
├── TrainingError     a run that cannot continue, for example because activations are not finite
└── AnalysisError     an analysis that is not defined for its models or crosscoder
"""

from __future__ import annotations


class CrosscodersError(Exception):
    """Base of all errors that this package raises for its users."""


class ConfigError(CrosscodersError, ValueError):
    """A config value is missing, unknown, of the wrong type, or out of range."""


class DocumentError(ConfigError):
    """A document cannot be read by a model, such as a chat that its template refuses; others can."""


class PluginError(CrosscodersError, LookupError):
    """A requested component is provided by no plugin, or by several."""


class SiteError(CrosscodersError, ValueError):
    """A site does not exist in its model, or a tensor does not fit its sites."""


class CheckpointError(CrosscodersError, ValueError):
    """A checkpoint is damaged, incomplete, in an unknown format, or needs a plugin that is not installed."""


class UnansweredError(CheckpointError):
    """A checkpoint of another library does not say something, such as its sites, and nobody answered it."""


class TrainingError(CrosscodersError, RuntimeError):
    """A run cannot continue, for example because activations or gradients are not finite."""


class CacheError(CrosscodersError, ValueError):
    """An activation cache is missing, damaged, unfinished, too small, or made from another config."""


class AnalysisError(CrosscodersError, ValueError):
    """An analysis is not defined for the given models or crosscoder."""
