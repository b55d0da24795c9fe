"""Everything a user can cause is a `CrosscodersError`, so one `except` clause catches it all.

CrosscodersError
├── ConfigError       a config file or option that cannot be meant
├── PluginError       a plugin that is missing, broken, or ambiguous
├── SiteError         a site that no model has, or activations that do not fit the sites
├── CheckpointError   a saved crosscoder or run that cannot be read as what it says it is
├── TrainingError     a run that cannot go on, such as infinite activations
├── CacheError        a cache of activations that cannot be read, or does not fit
├── AnalysisError     an analysis that cannot be made of what it was given
├── DiskError         a file or folder that the disk does not take: it is full, or nobody may write there
└── TrainingStopped   a run that was asked to stop and has saved where it is; also a `KeyboardInterrupt`
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


class TrainingError(CrosscodersError, RuntimeError):
    """A run met something it must not train on."""


class CacheError(CrosscodersError, ValueError):
    """A cache of activations is missing, damaged, unfinished, too small, or made from another config."""


class AnalysisError(CrosscodersError, ValueError):
    """An analysis was asked of models or crosscoders it is not defined for."""


class DiskError(CrosscodersError, OSError):
    """A file or folder cannot be written: the disk is full, or read-only, or belongs to somebody else."""


class TrainingStopped(CrosscodersError, KeyboardInterrupt):  # noqa: N818
    """A run was asked to stop, by SIGINT or SIGTERM, and has written a checkpoint to go on from."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"stopped at step {step}; the same command goes on from there")
        self.step = step
        self.exit_code = 128 + signal_number
