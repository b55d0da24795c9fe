"""Everything a user can cause is a `CrosscodersError`, so one `except` clause catches it all.

CrosscodersError
├── ConfigError       a config file or option that cannot be meant
├── PluginError       a plugin that is missing, broken, or ambiguous
├── SiteError         a site that no model has, or activations that do not fit the sites
├── CheckpointError   a saved crosscoder or run that cannot be read as what it says it is
│   └── UnansweredError   another library's checkpoint that does not say something, which nobody answered
├── TrainingError     a run that cannot go on, such as infinite activations
└── AnalysisError     an analysis that cannot be made of what it was given
"""

from __future__ import annotations


class CrosscodersError(Exception):
    """Base of all errors that this package raises for its users."""


class ConfigError(CrosscodersError, ValueError):
    """A config value is missing, unknown, of the wrong type, or out of range."""


class PluginError(CrosscodersError, LookupError):
    """A component was asked for that no plugin provides, or that several do."""


class SiteError(CrosscodersError, ValueError):
    """A site does not exist in its model, or a tensor does not fit its sites."""


class CheckpointError(CrosscodersError, ValueError):
    """A checkpoint is damaged, incomplete, of another format, or not made by the plugins at hand."""


class UnansweredError(CheckpointError):
    """A checkpoint of another library does not say something, such as its sites, and nobody answered it."""


class TrainingError(CrosscodersError, RuntimeError):
    """A run met something it must not train on."""


class CacheError(CrosscodersError, ValueError):
    """A cache of activations is missing, damaged, unfinished, too small, or made from another config."""


class AnalysisError(CrosscodersError, ValueError):
    """An analysis was asked of models or crosscoders it is not defined for."""
