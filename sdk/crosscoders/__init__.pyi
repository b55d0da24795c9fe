# The public names, in one place: `__init__.py` reads them from here and imports each on first use.

from .activations.config import ActivationConfig as ActivationConfig
from .activations.masks import MaskConfig as MaskConfig
from .analysis.act import Steered as Steered
from .analysis.compare import Match as Match
from .analysis.compare import match as match
from .analysis.effects import Effect as Effect
from .analysis.look import TokenLatents as TokenLatents
from .analysis.passes import StudyBatch as StudyBatch
from .analysis.running import Analysis as Analysis
from .analysis.running import analyse as analyse
from .analysis.study import Study as Study
from .checkpoints.foreign import check_export as check_export
from .checkpoints.foreign import export as export
from .checkpoints.formats import CheckpointFormat as CheckpointFormat
from .checkpoints.pretrained import inspect_pretrained as inspect_pretrained
from .checkpoints.pretrained import pretrained as pretrained
from .circuits.attribution import attribution_graph as attribution_graph
from .circuits.compare import ComparedGraphs as ComparedGraphs
from .circuits.compare import compare_graphs as compare_graphs
from .circuits.effects_page import write_effects as write_effects
from .circuits.features import write_features as write_features
from .circuits.generation import generate_intervened as generate_intervened
from .circuits.graph import AttributionGraph as AttributionGraph
from .circuits.graph_fidelity import GraphFidelity as GraphFidelity
from .circuits.graph_fidelity import graph_fidelity as graph_fidelity
from .circuits.graph_files import save_graph as save_graph
from .circuits.graph_json import read_graph_json as read_graph_json
from .circuits.graph_json import write_graph_json as write_graph_json
from .circuits.groups import Group as Group
from .circuits.groups import GroupEffect as GroupEffect
from .circuits.groups import intervene_on_group as intervene_on_group
from .circuits.groups import read_groups as read_groups
from .circuits.interventions import Intervention as Intervention
from .circuits.interventions import intervene as intervene
from .circuits.loading import replacement_model as replacement_model
from .circuits.pair_page import save_pair as save_pair
from .circuits.replacement import ReplacementModel as ReplacementModel
from .circuits.targets import Difference as Difference
from .circuits.targets import Direction as Direction
from .circuits.upload import upload_graph as upload_graph
from .crosscoder.build import build_crosscoder as build_crosscoder
from .crosscoder.gates import (
    Gate as Gate,
)
from .crosscoder.gates import (
    JumpReluGate as JumpReluGate,
)
from .crosscoder.gates import (
    ReluGate as ReluGate,
)
from .crosscoder.gates import (
    ScoreThresholdGate as ScoreThresholdGate,
)
from .crosscoder.gates import (
    TopKGate as TopKGate,
)
from .crosscoder.info import CheckpointInfo as CheckpointInfo
from .crosscoder.initialise import InitialisationConfig as InitialisationConfig
from .crosscoder.latents import Latents as Latents
from .crosscoder.module import Crosscoder as Crosscoder
from .crosscoder.sites import Site as Site
from .crosscoder.sites import SiteLayout as SiteLayout
from .crosscoder.wiring import LatentGroup as LatentGroup
from .crosscoder.wiring import Wiring as Wiring
from .errors import (
    AnalysisError as AnalysisError,
)
from .errors import (
    CacheError as CacheError,
)
from .errors import (
    CheckpointError as CheckpointError,
)
from .errors import (
    ConfigError as ConfigError,
)
from .errors import (
    CrosscodersError as CrosscodersError,
)
from .errors import (
    DiskError as DiskError,
)
from .errors import (
    DocumentError as DocumentError,
)
from .errors import (
    LatentError as LatentError,
)
from .errors import (
    NotEnoughMemoryError as NotEnoughMemoryError,
)
from .errors import (
    PluginError as PluginError,
)
from .errors import (
    SiteError as SiteError,
)
from .errors import (
    TrainingError as TrainingError,
)
from .errors import (
    TrainingStopped as TrainingStopped,
)
from .errors import (
    UnansweredError as UnansweredError,
)
from .explorer.choosing import LatentDetail as LatentDetail
from .explorer.dashboard import write_dashboard as write_dashboard
from .explorer.neuronpedia.checking import check_neuronpedia as check_neuronpedia
from .explorer.neuronpedia.checking import neuronpedia_problems as neuronpedia_problems
from .explorer.neuronpedia.exporting import export_features as export_features
from .explorer.neuronpedia.listing import NeuronpediaListing as NeuronpediaListing
from .explorer.notebook import LatentView as LatentView
from .explorer.notebook import LatentViews as LatentViews
from .explorer.notebook import view_latent as view_latent
from .explorer.notebook import view_latents as view_latents
from .explorer.serve import serve as serve
from .losses.context import StepContext as StepContext
from .losses.loss import (
    Activation as Activation,
)
from .losses.loss import (
    ComposedLoss as ComposedLoss,
)
from .losses.loss import (
    ForwardPass as ForwardPass,
)
from .losses.loss import (
    Loss as Loss,
)
from .losses.loss import (
    LossConfig as LossConfig,
)
from .losses.loss import (
    LossOutput as LossOutput,
)
from .losses.loss import (
    LossTerm as LossTerm,
)
from .models.adapter import Decoder as Decoder
from .models.adapter import Edit as Edit
from .models.adapter import Generates as Generates
from .models.adapter import GivesLogits as GivesLogits
from .models.adapter import LanguageModel as LanguageModel
from .models.adapter import MarksRoles as MarksRoles
from .models.adapter import ModelAdapter as ModelAdapter
from .models.adapter import ReadsOut as ReadsOut
from .models.adapter import ReadsText as ReadsText
from .models.adapter import ScalesAdapter as ScalesAdapter
from .models.documents import (
    BadRow as BadRow,
)
from .models.documents import (
    Chat as Chat,
)
from .models.documents import (
    Document as Document,
)
from .models.documents import (
    Message as Message,
)
from .models.documents import (
    Origin as Origin,
)
from .models.documents import (
    Text as Text,
)
from .models.documents import (
    TokenIds as TokenIds,
)
from .models.documents import (
    is_held_out as is_held_out,
)
from .models.linear import Held as Held
from .models.linear import Linear as Linear
from .models.linear import Linearisable as Linearisable
from .models.linear import Readout as Readout
from .models.packing import (
    documents_are_apart as documents_are_apart,
)
from .models.tokens import (
    Partner as Partner,
)
from .models.tokens import (
    TokenBatch as TokenBatch,
)
from .models.tokens import (
    Tokenized as Tokenized,
)
from .models.tokens import (
    TokenSource as TokenSource,
)
from .plugins.choices import (
    AnalysisChoice as AnalysisChoice,
)
from .plugins.choices import (
    ArchitectureChoice as ArchitectureChoice,
)
from .plugins.choices import (
    GateChoice as GateChoice,
)
from .plugins.choices import (
    LossChoice as LossChoice,
)
from .plugins.choices import (
    LossTermChoice as LossTermChoice,
)
from .plugins.choices import (
    MetricChoice as MetricChoice,
)
from .plugins.choices import (
    ModelChoice as ModelChoice,
)
from .plugins.choices import (
    ObserverChoice as ObserverChoice,
)
from .plugins.choices import (
    TokenSourceChoice as TokenSourceChoice,
)
from .plugins.hookspecs import hookimpl as hookimpl
from .plugins.registry import Registry as Registry
from .plugins.registry import get_registry as get_registry
from .plugins.specs import (
    AnalysisSpec as AnalysisSpec,
)
from .plugins.specs import (
    ArchitectureSpec as ArchitectureSpec,
)
from .plugins.specs import (
    CheckpointFormatSpec as CheckpointFormatSpec,
)
from .plugins.specs import (
    CommandSpec as CommandSpec,
)
from .plugins.specs import (
    GateSpec as GateSpec,
)
from .plugins.specs import (
    Lazy as Lazy,
)
from .plugins.specs import (
    LossSpec as LossSpec,
)
from .plugins.specs import (
    LossTermSpec as LossTermSpec,
)
from .plugins.specs import (
    MetricSpec as MetricSpec,
)
from .plugins.specs import (
    ModelAdapterSpec as ModelAdapterSpec,
)
from .plugins.specs import (
    NoOptions as NoOptions,
)
from .plugins.specs import (
    ObserverSpec as ObserverSpec,
)
from .plugins.specs import (
    ReleaseSpec as ReleaseSpec,
)
from .plugins.specs import (
    TokenSourceSpec as TokenSourceSpec,
)
from .reports.parts import (
    Context as Context,
)
from .reports.parts import (
    Entries as Entries,
)
from .reports.parts import (
    Entry as Entry,
)
from .reports.parts import (
    Example as Example,
)
from .reports.parts import (
    Examples as Examples,
)
from .reports.parts import (
    Figure as Figure,
)
from .reports.parts import (
    Note as Note,
)
from .reports.parts import (
    Part as Part,
)
from .reports.parts import (
    Table as Table,
)
from .reports.report import Report as Report
from .training.config import RunConfig as RunConfig
from .training.config import TrainingConfig as TrainingConfig
from .training.evaluate import Metrics as Metrics
from .training.evaluate import evaluate as evaluate
from .training.harvesting import harvest as harvest
from .training.metric import EvaluationBatch as EvaluationBatch
from .training.metric import Metric as Metric
from .training.observers import Observer as Observer
from .training.observers import RunView as RunView
from .training.progress import StepReport as StepReport
from .training.runner import Runner as Runner
from .training.runner import train as train
from .training.sweep import sweep as sweep
from .training.trainer import fit as fit

__version__: str
