"""The config of a run: everything that decides its result, in one frozen object."""

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
from ..models.names import canonical_site
from ..plugins.choices import (
    ArchitectureChoice,
    LossChoice,
    MetricChoice,
    ModelChoice,
    ObserverChoice,
    TokenSourceChoice,
    set_value,
    structure,
    unstructure,
)
from ..plugins.registry import Registry
from ..plugins.requirements import check_requirements
from ..reading import read_toml_table

OPTIONS = "crosscoders components run"
"""The command that lists the options of a run."""
_share = and_(ge(0.0), le(1.0))


@frozen(kw_only=True)
class TrainingConfig:
    """Options of optimisation, evaluation and checkpoints."""

    num_tokens: int = field(default=100_000_000, validator=gt(0))
    """Number of tokens to train on; the number of steps is this divided by `batch_size`, rounded up."""
    batch_size: int = field(default=2048, validator=gt(0))
    """Number of tokens in a global batch, over all processes and micro-batches."""
    accumulation: int = field(default=1, validator=ge(1))
    """Number of micro-batches that a batch is computed in. BatchTopK selects within each micro-batch."""
    shards: int = field(default=1, validator=ge(1))
    """Number of processes that shard the latents of one crosscoder, for dictionaries that do not fit on one device. The
    number of processes divided by `shards` is the number of replicas, which train on different tokens."""
    optimizer: str = field(default="adam", validator=in_(("adam", "adafactor", "adam_8bit")))
    """The optimizer. Its state takes 8 bytes per parameter for `adam`, about 2 for `adam_8bit` (of bitsandbytes), and
    almost none for `adafactor` (torch's, with factored second moments and no first ones)."""
    lr: float = field(default=1e-4, validator=gt(0.0))
    """Peak learning rate. Adafactor's is relative to the size of each parameter: use ten to a hundred times Adam's."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's moving averages."""
    warmup_share: float = field(default=0.05, validator=_share)
    """Share of the run in which the learning rate rises from 0."""
    decay_share: float = field(default=0.2, validator=_share)
    """Share of the run, at its end, over which the learning rate falls to 0."""
    grad_clip: float = field(default=1.0, validator=ge(0.0))
    """Norm to which the whole gradient is clipped; 0 disables clipping."""
    mixed_precision: str = field(default="no", validator=in_(("no", "bf16")))
    """Precision of the products: `bf16` runs the models and the encoder product under autocast, while weights stay in
    fp32; `no` runs everything in fp32."""
    float32_precision: str = field(default="highest", validator=in_(("highest", "high")))
    """Precision of fp32 matrix products on NVIDIA GPUs: `high` allows TF32 (10 bits), which is several times faster and
    about as precise as fp16 activations."""
    dead_after_tokens: int = field(default=10_000_000, validator=gt(0))
    """Number of tokens after which a latent that was not selected counts as dead. In a short run `dead_after_share` is
    the smaller limit and applies instead."""
    dead_after_share: float = field(default=0.05, validator=_share)
    """Share of the run after which a latent that was not selected counts as dead. In a long run `dead_after_tokens` is
    the smaller limit and applies instead."""
    evaluate_every: int = field(default=0, validator=ge(0))
    """Number of steps between evaluations on held-out tokens; 0 evaluates only at the end."""
    evaluation_tokens: int = field(default=16_384, validator=gt(0))
    """Number of held-out tokens in an evaluation. Their documents are drawn from four times as much text as it takes to
    find them, or from the whole source if that is less."""
    fidelity_tokens: int = field(default=2_048, validator=ge(0))
    """Held-out tokens on which the last evaluation also splices the reconstruction into the running models
    (cross-entropy and KL recovered); 0 does not. Left out where activations come from a cache or processes share the
    latents."""
    save_every: int = field(default=0, validator=ge(0))
    """Number of steps between checkpoints to resume from; 0 writes none."""
    keep_checkpoints: int = field(default=2, validator=ge(1))
    """Number of checkpoints to keep; older ones are deleted."""
    log_every: int = field(default=10, validator=ge(1))
    """Number of steps between reports to the trackers."""
    seed: int = field(default=0, validator=ge(0))
    """Seed of the initial weights and of the order of the data."""

    def __attrs_post_init__(self) -> None:
        if self.batch_size % self.accumulation:
            raise ConfigError(f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}")
        if self.shards > 1 and self.optimizer != "adam":
            raise ConfigError(f"shards = {self.shards} needs the optimizer 'adam', not '{self.optimizer}'")

    @property
    def num_steps(self) -> int:
        """The number of optimizer steps of the run."""
        return math.ceil(self.num_tokens / self.batch_size)

    @property
    def warmup_steps(self) -> int:
        """The number of steps until the learning rate reaches its peak."""
        return math.ceil(self.warmup_share * self.num_steps)

    @property
    def dead_after(self) -> int:
        """The number of tokens after which a latent that was not selected counts as dead."""
        return max(1, min(self.dead_after_tokens, math.ceil(self.dead_after_share * self.num_tokens)))

    def lr_at(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, constant, linear decay. It is not 0 at the first step."""
        rising = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        decay_steps = max(1, round(self.decay_share * self.num_steps))
        falling = (self.num_steps - step) / decay_steps
        return self.lr * min(1.0, rising, falling)


@frozen(kw_only=True)
class RunConfig:
    """A training run: which models at which sites, on which tokens, with which architecture and loss."""

    models: Mapping[str, ModelChoice] = field(factory=dict)
    """Models by key; a site name begins with the key of its model. Those that `train(..., models=)` gets as adapters
    are left out."""
    sites: tuple[str, ...] = field(converter=as_tuple, validator=min_len(1))
    """Site names, `model/point`, in order. In a model diff, list the model before fine-tuning first."""
    tokens: TokenSourceChoice
    """Where documents come from."""
    architecture: ArchitectureChoice
    """The architecture, which decides which latents read and write which sites."""
    loss: LossChoice
    """The sparsity objective."""
    activations: ActivationConfig = field(factory=ActivationConfig)
    """How activations are harvested, masked and shuffled."""
    initialisation: InitialisationConfig = field(factory=InitialisationConfig)
    """How the weights are initialised."""
    training: TrainingConfig = field(factory=TrainingConfig)
    """Options of optimisation, evaluation and checkpoints."""
    requires: tuple[str, ...] = ()
    """Distributions of plugins that must be installed, as pip writes them: `["my-plugin>=1"]`. Checked before anything
    else, and recorded."""
    tokenizer: str = field(default="", validator=instance_of(str))
    """Key of the model whose tokenizer is used. Empty takes the first model with a chat template, or else the first."""
    trackers: tuple[str, ...] = ()
    """Trackers of accelerate, by name: `tensorboard`, `wandb`, `trackio`, ..."""
    observers: tuple[ObserverChoice, ...] = ()
    """Observers that are called during the run."""
    metrics: tuple[MetricChoice, ...] = ()
    """Further metrics of each evaluation, which plugins offer."""
    device: str = field(default="auto", validator=in_(("auto", "cpu")))
    """Device of the crosscoder: `cpu`, or `auto` for the one that accelerate chooses."""
    models_device: str = field(default="", validator=instance_of(str))
    """Device of the models, such as "cuda:1"; empty uses the device of the crosscoder."""
    cache: Path | None = field(default=None, converter=attrs.converters.optional(Path))
    """Folder of activations that `crosscoders harvest` wrote for this config. Without it, the models run."""
    output: Path = field(default=Path("runs/crosscoder"), converter=Path)
    """Folder for the checkpoints and the trained crosscoder."""

    def __attrs_post_init__(self) -> None:
        # One name for each point, so that a run and its cache are the same however their sites were called.
        options = {key: choice.options for key, choice in self.models.items()}
        object.__setattr__(self, "sites", tuple(canonical_site(name, options) for name in self.sites))
        if self.metrics and self.training.shards > 1:
            raise ConfigError("metrics need all latents in one process: set training.shards to 1, or leave them out")

    @property
    def harvest(self) -> HarvestConfig:
        """The part of the config that decides which activations the run trains on."""
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
        """Read a config from plain data; `ConfigError` lists every problem with its path."""
        return cls._of(data, registry)

    @classmethod
    def from_toml(
        cls, path: str | Path, *, settings: Mapping[str, Any] | None = None, registry: Registry | None = None
    ) -> RunConfig:
        """Read a config from a TOML file; `settings`, values by dotted key such as `loss.k`, override what it says.

        `ConfigError` lists every problem with its path.
        """
        data = read_toml_table(Path(path), ConfigError)
        for key, value in (settings or {}).items():
            set_value(data, key, value)
        return cls._of(data, registry, where=str(path))

    @classmethod
    def _of(cls, data: Mapping[str, Any], registry: Registry | None, where: str = "") -> RunConfig:
        # Before components are looked up by name: what is said of one that is missing would be less clear.
        requires = data.get("requires", ()) if isinstance(data, Mapping) else ()
        if isinstance(requires, list | tuple):
            check_requirements(requires, registry)
        return structure(data, cls, registry=registry, where=where, see=OPTIONS)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data that `from_dict` reads back."""
        data: dict[str, Any] = unstructure(self)
        return data
