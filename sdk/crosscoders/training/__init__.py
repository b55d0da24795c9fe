"""Training: the config of a run, the training loop, checkpoints of unfinished runs, and evaluation."""

from .config import RunConfig, TrainingConfig
from .evaluate import Metrics, evaluate
from .harvesting import harvest
from .memory import StepMemory, step_memory
from .metric import EvaluationBatch, Metric
from .observers import Observer, RunView
from .progress import StepReport
from .runner import Runner, train
from .sweep import sweep, sweep_configs
from .trainer import Trainer, fit

__all__ = [
    "EvaluationBatch",
    "Metric",
    "Metrics",
    "Observer",
    "RunConfig",
    "RunView",
    "Runner",
    "StepMemory",
    "StepReport",
    "Trainer",
    "TrainingConfig",
    "evaluate",
    "fit",
    "harvest",
    "step_memory",
    "sweep",
    "sweep_configs",
    "train",
]
