"""What a run is: everything that decides its result, in one frozen object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen
from attrs.validators import and_, ge, gt, in_, instance_of, le, min_len

from ..activations import ActivationConfig, HarvestConfig
from ..converters import as_tuple
from ..crosscoder.initialise import InitialisationConfig
from ..errors import ConfigError
from ..plugins.choices import (
    ArchitectureChoice,
    LossChoice,
    ModelChoice,
    ObserverChoice,
    TokenSourceChoice,
    read_toml,
    structure,
    unstructure,
)
from ..plugins.registry import Registry

_share = and_(ge(0.0), le(1.0))


@frozen(kw_only=True)
class TrainingConfig:
    """Optimisation, evaluation and checkpoints."""

    num_tokens: int = field(default=100_000_000, validator=gt(0))
    """Tokens to train on; the number of steps is this over `batch_size`, rounded up."""
    batch_size: int = field(default=2048, validator=gt(0))
    """Tokens of one global batch, over all processes and micro-batches."""
    accumulation: int = field(default=1, validator=ge(1))
    """Micro-batches that a batch is computed in; BatchTopK selects within each micro-batch."""
    shards: int = field(default=1, validator=ge(1))
    """Processes that share the latents of one crosscoder, for dictionaries that do not fit on one device; all
    processes over this is the number of replicas, which train on different tokens."""
    optimizer: str = field(default="adam", validator=in_(("adam", "adafactor", "adam_8bit")))
    """`adam` holds 8 bytes for each parameter, `adam_8bit` (bitsandbytes') about 2, `adafactor` (torch's, with factored
    second moments and no first ones) next to none."""
    lr: float = field(default=1e-4, validator=gt(0.0))
    """Peak learning rate. Adafactor's is relative to the size of each parameter: use about ten to a hundred times
    Adam's."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates."""
    warmup_share: float = field(default=0.05, validator=_share)
    """Share of the run in which the learning rate rises from 0."""
    decay_share: float = field(default=0.2, validator=_share)
    """Share of the run, at its end, in which the learning rate falls to 0."""
    grad_clip: float = field(default=1.0, validator=ge(0.0))
    """Largest norm of the whole gradient; 0 does not clip."""
    mixed_precision: str = field(default="no", validator=in_(("no", "bf16")))
    """`bf16` runs the models and the encoder product under autocast; weights stay in fp32."""
    float32_precision: str = field(default="highest", validator=in_(("highest", "high")))
    """`high` lets NVIDIA GPUs do products of fp32 numbers in TF32 (10 bits): several times faster, as precise as
    activations in fp16 would be."""
    dead_after_tokens: int = field(default=10_000_000, validator=gt(0))
    """Tokens without selection after which a latent is dead, where that is no more than `dead_after_share` of the
    run."""
    dead_after_share: float = field(default=0.05, validator=_share)
    """Share of the run without selection after which a latent is dead, where that is fewer tokens than
    `dead_after_tokens`."""
    evaluate_every: int = field(default=0, validator=ge(0))
    """Steps between evaluations on held-out tokens; 0 evaluates at the end only."""
    evaluation_tokens: int = field(default=16_384, validator=gt(0))
    """Held-out tokens of one evaluation."""
    save_every: int = field(default=0, validator=ge(0))
    """Steps between checkpoints to resume from; 0 writes none."""
    keep_checkpoints: int = field(default=2, validator=ge(1))
    """Newest checkpoints that are kept."""
    log_every: int = field(default=10, validator=ge(1))
    """Steps between lines to the trackers."""
    seed: int = field(default=0, validator=ge(0))
    """Decides the initial weights and the order of the data."""

    def __attrs_post_init__(self) -> None:
        if self.batch_size % self.accumulation:
            raise ConfigError(f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}")
        if self.shards > 1 and self.optimizer != "adam":
            raise ConfigError(f"shards = {self.shards} needs the optimizer 'adam', not '{self.optimizer}'")

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run."""
        return math.ceil(self.num_tokens / self.batch_size)

    @property
    def warmup_steps(self) -> int:
        """Steps until the learning rate is at its peak."""
        return math.ceil(self.warmup_share * self.num_steps)

    @property
    def dead_after(self) -> int:
        """Tokens without selection after which a latent counts as dead."""
        return max(1, min(self.dead_after_tokens, math.ceil(self.dead_after_share * self.num_tokens)))

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, constant, linear decay. Never 0 at the first step."""
        rising = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        decay_steps = max(1, round(self.decay_share * self.num_steps))
        falling = (self.num_steps - step) / decay_steps
        return self.lr * min(1.0, rising, falling)


@frozen(kw_only=True)
class RunConfig:
    """A training run: which models at which sites, on which tokens, with which architecture and loss."""

    models: Mapping[str, ModelChoice] = field(validator=min_len(1))
    """Models by the key that site names begin with."""
    sites: tuple[str, ...] = field(converter=as_tuple, validator=min_len(1))
    """`model/point` names, in order; for a diff the model before comes first."""
    tokens: TokenSourceChoice
    """Where documents come from."""
    architecture: ArchitectureChoice
    """Which latents read and write which sites."""
    loss: LossChoice
    """The sparsity objective."""
    activations: ActivationConfig = field(factory=ActivationConfig)
    """How activations are harvested."""
    initialisation: InitialisationConfig = field(factory=InitialisationConfig)
    """How the weights start."""
    training: TrainingConfig = field(factory=TrainingConfig)
    """Optimisation."""
    tokenizer: str = field(default="", validator=instance_of(str))
    """Key of the model whose tokenizer is used; empty takes the first one with a chat template, else the first."""
    trackers: tuple[str, ...] = ()
    """accelerate's trackers by name: `tensorboard`, `wandb`, `trackio`, ..."""
    observers: tuple[ObserverChoice, ...] = ()
    """Observers to call during the run."""
    device: str = field(default="auto", validator=in_(("auto", "cpu")))
    """`auto` takes what accelerate finds."""
    models_device: str = field(default="", validator=instance_of(str))
    """Where the models run, such as "cuda:1"; empty: on the device of the crosscoder."""
    cache: Path | None = field(default=None, converter=attrs.converters.optional(Path))
    """Folder with activations that `crosscoders harvest` has written for this config; without, the models run."""
    output: Path = field(default=Path("runs/crosscoder"), converter=Path)
    """Folder for checkpoints and the trained crosscoder."""

    @property
    def harvest(self) -> HarvestConfig:
        """The part that decides which activations the run trains on."""
        return HarvestConfig(
            models=self.models,
            sites=self.sites,
            tokens=self.tokens,
            tokenizer=self.tokenizer,
            activations=self.activations,
            mixed_precision=self.training.mixed_precision,
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, registry: Registry | None = None) -> RunConfig:
        """From plain data; `ConfigError` lists every problem with its path."""
        return structure(data, cls, registry=registry)

    @classmethod
    def from_toml(
        cls, path: str | Path, *, settings: Mapping[str, Any] | None = None, registry: Registry | None = None
    ) -> RunConfig:
        """From a TOML file, with `settings` (values by dotted key, such as `loss.k`) in the place of what it says."""
        return read_toml(Path(path), cls, settings=settings, registry=registry)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data that `from_dict` reads back."""
        data: dict[str, Any] = unstructure(self)
        return data
