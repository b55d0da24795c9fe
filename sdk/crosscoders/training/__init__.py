"""Training: the config of a run, the loop, checkpoints of unfinished runs, evaluation."""

from .config import RunConfig, TrainingConfig
from .evaluate import Metrics, evaluate
from .progress import RunView, StepReport
from .runner import Runner, harvest, train
from .sweep import sweep, sweep_configs
from .trainer import Trainer, fit

__all__ = [
    "Metrics",
    "RunConfig",
    "RunView",
    "Runner",
    "StepReport",
    "Trainer",
    "TrainingConfig",
    "evaluate",
    "fit",
    "harvest",
    "sweep",
    "sweep_configs",
    "train",
]
