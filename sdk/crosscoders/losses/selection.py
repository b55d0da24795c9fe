"""The base of the losses that select latents: an annealed number per token, exact selection over the whole batch, and
the threshold for inference.

BatchTopK is from Bussmann et al. 2024 (arXiv 2412.06410), and its form for crosscoders from Minder et al. 2025 (arXiv
2504.02922, §3.2). The smallest selected score of a batch is called the *cut*. A *budget* is a range of latents that
compete for the same places; each budget has a cut and a threshold of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, in_, le
from torch import Tensor

from ..crosscoder.gates import Gate, ScoreThresholdGate
from ..crosscoder.latents import Latents
from ..crosscoder.module import Crosscoder
from ..crosscoder.sparse_encoder import Candidates, find_candidates, find_candidates_by_bf16
from ..errors import ConfigError
from ..kernels import batch_topk, preselection
from ..processes import Processes
from .auxk import auxk
from .context import StepContext
from .loss import Activation, ComposedLoss, ForwardPass, LossConfig

LEAST_MARGIN, MOST_MARGIN = 0.01, 0.1
"""Bounds on how far below the last cut, relative to it, the next one is looked for. A wrong guess only costs time."""

ABOVE = 1 + 1e-6
"""A score is certainly above a guess if it exceeds it by this factor: dividing the guess by norms rounds the floors."""

SAMPLE_TOKENS = 64
"""While no cut is known, it is guessed from this many tokens."""

_share = and_(ge(0.0), le(1.0))


@frozen(kw_only=True)
class SelectionConfig(LossConfig):
    """Options of losses that keep the largest scores f_i·Σ_s‖d_i^s‖."""

    k: int = field(default=100, validator=ge(1))
    """Number of active latents per token."""
    k_start: int = field(default=0, validator=ge(0))
    """Number of active latents per token at the first step, from which it moves linearly to `k`; 0 starts at `k`."""
    anneal_share: float = field(default=0.1, validator=_share)
    """Share of the run over which the number of active latents moves from `k_start` to `k`."""
    aux_weight: float = field(default=1 / 32, validator=ge(0.0))
    """Weight of the auxiliary term, in which dead latents predict what the others left over; with `reconstruction =
    "mean_l2"` that is relative to the variance of what was left over, as in the published code."""
    aux_k_share: float = field(default=0.5, validator=and_(gt(0.0), le(1.0)))
    """Number of dead latents that AuxK uses per token, as a share of the mean width of a site."""
    decoder_norm: float = field(default=1.0, validator=gt(0.0))
    """Norm of decoder rows at each site when training starts."""

    def k_at(self, step: StepContext, k: int | None = None) -> float:
        """Number of active latents per token at a step, where `k` is the final number (by default the option `k`)."""
        k = k or self.k
        if not self.k_start:
            return float(k)
        # `k_start` belongs to the option `k`; budgets with another final number start in the same proportion.
        return k * (self.k_start / self.k + (1 - self.k_start / self.k) * step.ramp(self.anneal_share))


class SelectionLoss(ComposedLoss):
    """Base of the losses that select latents by score.

    Scores carry no gradient. The selected latents are decoded with their activations f, not with their scores.
    """

    options: SelectionConfig

    def __init__(self, options: SelectionConfig) -> None:
        super().__init__(options)
        self.decoder_norm = options.decoder_norm

    def attach(self, crosscoder: Crosscoder) -> None:
        super().attach(crosscoder)
        starting = self.options.k_start / self.options.k
        for latents, k in self.budgets(crosscoder):
            # More would select every positive latent: a dense autoencoder, without a word.
            count = (latents.stop - latents.start) * crosscoder.processes.num_shards
            for name, wanted in (("k", k), ("k_start", k * starting)):
                if wanted > count:
                    slices = crosscoder.wiring.latent_slices.items()
                    names = ", ".join(n for n, part in slices if latents.start <= part.start < latents.stop)
                    raise ConfigError(f"{name} = {wanted:g} is more than the {count} latents it selects from ({names})")

    def budgets(self, crosscoder: Crosscoder) -> list[tuple[slice, int]]:
        """Which latents compete with each other, and for how many places per token at the end of annealing.

        The ranges of latents must follow each other without gaps.
        """
        return [(slice(0, crosscoder.num_latents), self.options.k)]

    @abstractmethod
    def select(self, crosscoder: Crosscoder, read_BX: Tensor, step: StepContext) -> Latents:
        """Select the latents to keep; called without gradient."""

    def activate(self, crosscoder: Crosscoder, read_BX: Tensor, step: StepContext) -> Activation:
        with torch.no_grad():
            latents = self.select(crosscoder, read_BX, step)
        return Activation(sparse=(latents, crosscoder.values(read_BX, latents)))

    def penalties(self, forward_pass: ForwardPass, step: StepContext) -> Mapping[str, Tensor]:
        if not self.options.aux_weight:
            return {}
        relative = self.options.reconstruction == "mean_l2"
        found = auxk(forward_pass, step, k_share=self.options.aux_k_share, relative=relative)
        return {"auxk": self.options.aux_weight * found}


@frozen(kw_only=True)
class BatchSelectionConfig(SelectionConfig):
    """Options of losses that select over a whole batch and keep a threshold for inference."""

    scope: str = field(default="all", validator=in_(("all", "group")))
    """Which latents compete: with `all`, every latent group for the same B·k places; with `group`, each latent group
    has B·k places of its own."""
    preselect: str = field(default="auto", validator=in_(("auto", "fp32", "bf16")))
    """Precision of the product that finds candidates. `bf16` bounds the rounding error and selects among exact values,
    so it selects the same latents; `auto` takes it on processors with bf16 units, where it is faster, and `fp32`
    elsewhere."""
    threshold_decay: float = field(default=0.999, validator=_share)
    """Decay per step of the moving average of the smallest selected score, which is the threshold for inference. Short
    runs decay faster: see `threshold_window_share`."""
    threshold_window_share: float = field(default=0.02, validator=and_(gt(0.0), le(1.0)))
    """Longest window of the threshold's moving average, as a share of the run. In a short run it shortens the window
    that `threshold_decay` implies, so that the scores of the first steps are forgotten."""


class BatchSelectionLoss(SelectionLoss):
    """Base of the losses that keep the B·k largest scores of the batch, over all latents or within each budget."""

    shardable = True
    options: BatchSelectionConfig
    threshold: Tensor
    cut: Tensor
    averaging: Tensor

    def __init__(self, options: BatchSelectionConfig) -> None:
        super().__init__(options)
        self._budgets: list[tuple[slice, int]] = []
        self._margins = [MOST_MARGIN]
        self.repeats = 0
        """How often a guess of the cut was too high, so that the encoder product had to be repeated."""
        self._read: tuple[int, int, list[float]] = (0, 0, [])
        self._set_buffers(1)

    def attach(self, crosscoder: Crosscoder) -> None:
        super().attach(crosscoder)
        self._budgets = self.budgets(crosscoder)
        if len(self._budgets) != len(self.threshold):
            self._set_buffers(len(self._budgets))

    def budgets(self, crosscoder: Crosscoder) -> list[tuple[slice, int]]:
        if self.options.scope == "all":
            return super().budgets(crosscoder)
        return [(latents, self.options.k) for latents in crosscoder.wiring.latent_slices.values()]

    def select(self, crosscoder: Crosscoder, read_BX: Tensor, step: StepContext) -> Latents:
        if not self._budgets:
            self.attach(crosscoder)
        norm_F = crosscoder.score_norms()
        counts = [round(self.options.k_at(step, k) * step.num_tokens) for _, k in self._budgets]
        guesses = [
            self._guess(crosscoder, read_BX, norm_F, index, count / step.num_tokens, step.processes)
            for index, count in enumerate(counts)
        ]
        above, score_N, lacking = self._candidates(crosscoder, read_BX, norm_F, guesses, counts, step.processes)
        # Fewer candidates than places: a guess was above the cut. Lower it and repeat. A guess of 0 finds every
        # positive pre-activation, so the selection is always exact; a fifth lower at first keeps the candidates few.
        for factor in (0.8, 0.25, 0.0):
            if not any(guess for guess, lacks in zip(guesses, lacking, strict=True) if lacks):
                break
            self.repeats += 1
            guesses = [guess * factor if lacks else guess for guess, lacks in zip(guesses, lacking, strict=True)]
            above, score_N, lacking = self._candidates(crosscoder, read_BX, norm_F, guesses, counts, step.processes)
        keep_N = torch.zeros_like(score_N, dtype=torch.bool)
        for index, ((latents, _), count) in enumerate(zip(self._budgets, counts, strict=True)):
            mine = above.inside(latents)
            keep_N[mine], cut = batch_topk(score_N[mine], count, step.processes)
            if self.training:
                self._remember_cut(index, float(cut), full=not lacking[index])
                self._update_inference_threshold(index, cut, step)
        return above.select(keep_N)

    def _cuts(self) -> list[float]:
        """The buffer `cut`, read from the device only where something else has written into it."""
        if self._read[:2] != (id(self.cut), self.cut._version):
            self._read = (id(self.cut), self.cut._version, self.cut.tolist())
        return self._read[2]

    def _candidates(
        self,
        crosscoder: Crosscoder,
        read_BX: Tensor,
        norm_F: Tensor,
        guesses: list[float],
        counts: list[int],
        processes: Processes,
    ) -> tuple[Candidates, Tensor, list[bool]]:
        """Entries that score above their budget's guess, their scores, and which budgets have too few of them."""
        # f·n > guess is the same as f > guess / n, which can be compared with pre-activations piece by piece.
        floor_F = torch.zeros_like(norm_F)
        for (latents, _), guess in zip(self._budgets, guesses, strict=True):
            floor_F[latents] = guess / norm_F[latents]
        bf16 = preselection(self.options.preselect, read_BX.device) == "bf16"
        above = (find_candidates_by_bf16 if bf16 else find_candidates)(crosscoder, read_BX, floor_F)
        score_N = above.value_N * norm_F[above.latent_N]
        # Count only scores above the guess. The bf16 product also returns some entries below it, but not all of them,
        # so counting those could hide that a larger entry was missed.
        counts_above = [
            (score_N[above.inside(latents)] > guess * ABOVE).count_nonzero()
            for (latents, _), guess in zip(self._budgets, guesses, strict=True)
        ]
        totals = processes.total(torch.stack(counts_above)).tolist()
        return above, score_N, [total < count for total, count in zip(totals, counts, strict=True)]

    def _guess(
        self,
        crosscoder: Crosscoder,
        read_BX: Tensor,
        norm_F: Tensor,
        index: int,
        k: float,
        processes: Processes,
    ) -> float:
        """A lower bound that the cut of a budget probably exceeds, from the last cut or else from a sample of tokens.

        It must be equal on all processes, because each of them drops the entries below it.
        """
        last = self._cuts()[index]
        if last > 0:
            return (1 - self._margins[index]) * last
        sample_BX = read_BX[:: max(1, len(read_BX) // SAMPLE_TOKENS)]
        score_N = (crosscoder.pre_activations(sample_BX).relu_() * norm_F)[:, self._budgets[index][0]].flatten()
        count = max(1, round(k * len(sample_BX)))
        score_N = processes.gather_shards(score_N)
        cut = score_N.topk(count).values[-1] if len(score_N) >= count else score_N.new_zeros(())
        return (1 - MOST_MARGIN) * float(processes.least(cut))

    def start_from(self, gate: Gate) -> None:
        if not isinstance(gate, ScoreThresholdGate):
            return
        for index, (latents, _) in enumerate(self._budgets):
            self.threshold[index] = gate.threshold[latents].amin() if gate.threshold.ndim else gate.threshold

    def gate(self) -> Gate:
        if len(self._budgets) <= 1:
            return ScoreThresholdGate(float(self.threshold))
        gate = ScoreThresholdGate(num_latents=self._budgets[-1][0].stop)
        for (latents, _), threshold in zip(self._budgets, self.threshold, strict=True):
            gate.threshold[latents] = threshold
        return gate

    def _set_buffers(self, count: int) -> None:
        device = self.threshold.device if "threshold" in self._buffers else None
        self._margins = [MOST_MARGIN] * count
        self.register_buffer("threshold", torch.zeros(count, device=device))
        self.register_buffer("cut", torch.zeros(count, device=device))
        self.register_buffer("averaging", torch.zeros(count, dtype=torch.bool, device=device))

    def _remember_cut(self, index: int, cut: float, *, full: bool) -> None:
        """Store the cut of a budget, the smallest selected score, for the next guess."""
        if not cut > 0:  # nothing was selected
            return
        cuts = self._cuts()
        if full and cuts[index] > 0:
            # The steadier the cut, the closer the guess and the fewer the candidates. Three times the last change
            # failed on none of 440 steps of the demo, twice on one in sixty.
            change = abs(cut / cuts[index] - 1)
            self._margins[index] = min(MOST_MARGIN, max(LEAST_MARGIN, 3 * change, 0.9 * self._margins[index]))
        # If fewer latents were positive than there are places, the smallest score says nothing about the next cut.
        cuts[index] = cut if full else 0.0
        self.cut[index] = cuts[index]
        self._read = (id(self.cut), self.cut._version, cuts)

    def _update_inference_threshold(self, index: int, cut: Tensor, step: StepContext) -> None:
        """Update the threshold of a budget, which the inference gate compares scores with, from the cut of this step.

        The threshold is a moving average of the smallest selected score (Minder et al. 2025, §3.2). A step that has
        selected nothing changes nothing.
        """
        last = self.threshold[index]
        new, averaging = cut, self.averaging[index]
        if step.warmed_up:
            window = max(1.0, self.options.threshold_window_share * step.total_steps)
            decay = min(self.options.threshold_decay, 1 - 1 / window)
            # Until warm-up is over, follow the batch: an average from 0 on would let too many latents through.
            new = torch.where(averaging, decay * last + (1 - decay) * cut, cut)
        selected = cut > 0
        self.threshold[index] = torch.where(selected, new, last)
        self.averaging[index] = torch.where(selected, step.warmed_up, averaging)
