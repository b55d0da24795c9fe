"""What losses that select have in common: how many latents per token, annealed; and where the cut is at inference."""

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
from ..kernels import batch_topk
from ..processes import Processes
from .auxk import auxk
from .context import StepContext
from .loss import Activation, ComposedLoss, ForwardPass, LossConfig

LEAST_MARGIN, MOST_MARGIN = 0.01, 0.1
"""The next cut is expected no further below the present one than this share; a wrong guess only costs time."""

ABOVE = 1 + 1e-6
"""A score is above a guess for certain where it is by this factor: the floors of values are rounded."""

SAMPLE_TOKENS = 64
"""Where no cut is known yet, it is guessed from this many tokens."""

_share = and_(ge(0.0), le(1.0))


@frozen(kw_only=True)
class SelectionConfig(LossConfig):
    """Sparsity by keeping the largest f_i·Σ_s‖d_i^s‖."""

    k: int = field(default=100, validator=ge(1))
    """Active latents per token."""
    k_start: int = field(default=0, validator=ge(0))
    """k at the first step, from which it moves linearly to `k`; 0 starts at `k`."""
    anneal_share: float = field(default=0.1, validator=_share)
    """Share of the run over which k moves."""
    aux_weight: float = field(default=1 / 32, validator=ge(0.0))
    """Weight of the auxiliary term, in which dead latents predict what the others left over; with `reconstruction =
    "mean_l2"` that is relative to the variance of what was left over, as in the published code."""
    aux_k_share: float = field(default=0.5, validator=and_(gt(0.0), le(1.0)))
    """Dead latents used per token, as a share of the mean width of a site."""
    decoder_norm: float = field(default=1.0, validator=gt(0.0))
    """Norm of decoder rows at each site when training starts."""

    def k_at(self, step: StepContext, k: int | None = None) -> float:
        """Active latents per token at a step, for the final value `k`."""
        k = k or self.k
        if not self.k_start:
            return float(k)
        # `k_start` is for `k`; other final values, of groups with their own, start in proportion.
        return k * (self.k_start / self.k + (1 - self.k_start / self.k) * step.ramp(self.anneal_share))


class SelectionLoss(ComposedLoss):
    """Base of the losses that select; scores carry no gradient, decoding takes the unscaled f."""

    options: SelectionConfig

    def __init__(self, options: SelectionConfig) -> None:
        super().__init__(options)
        self.decoder_norm = options.decoder_norm

    @abstractmethod
    def select(self, crosscoder: Crosscoder, read_BX: Tensor, step: StepContext) -> Latents:
        """Which latents to keep."""

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
    """Selection over a whole batch, and a threshold for inference."""

    scope: str = field(default="all", validator=in_(("all", "group")))
    """`all` latent groups compete for B·k places, or each `group` has B·k places of its own."""
    preselect: str = field(default="fp32", validator=in_(("fp32", "bf16")))
    """`bf16`: find candidates by a product in bf16, whose error is bounded, and select among their exact values. The
    same latents, by a cheaper product where the processor has bf16."""
    threshold_decay: float = field(default=0.999, validator=_share)
    """Decay per step of the moving average of the smallest selected score; a run with a shorter window, by
    `threshold_window_share`, forgets faster."""
    threshold_window_share: float = field(default=0.02, validator=and_(gt(0.0), le(1.0)))
    """Largest window of that average, as a share of the run."""


class BatchSelectionLoss(SelectionLoss):
    """Keeps the B·k largest scores of the batch, over all groups or in each."""

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
        """How often a guess of the cut was too high and the encoder product was made again."""
        self._set_buffers(1)

    def attach(self, crosscoder: Crosscoder) -> None:
        super().attach(crosscoder)
        self._budgets = self.budgets(crosscoder)
        if len(self._budgets) != len(self.threshold):
            self._set_buffers(len(self._budgets))

    def budgets(self, crosscoder: Crosscoder) -> list[tuple[slice, int]]:
        """Ranges of latents, one after the other without gaps, and the final k that the latents of each compete for."""
        if self.options.scope == "all":
            return [(slice(0, crosscoder.num_latents), self.options.k)]
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
            if self.training and cut > 0:
                self._remember_cut(index, cut, full=not lacking[index])
                self._update_inference_threshold(index, cut, step)
        return above.select(keep_N)

    def _candidates(
        self,
        crosscoder: Crosscoder,
        read_BX: Tensor,
        norm_F: Tensor,
        guesses: list[float],
        counts: list[int],
        processes: Processes,
    ) -> tuple[Candidates, Tensor, list[bool]]:
        """Entries that score above the guess for their budget, the scores, and which budgets have too few of them."""
        floor_F = torch.zeros_like(norm_F)
        for (latents, _), guess in zip(self._budgets, guesses, strict=True):
            floor_F[latents] = guess / norm_F[latents]
        bf16 = self.options.preselect == "bf16"
        above = (find_candidates_by_bf16 if bf16 else find_candidates)(crosscoder, read_BX, floor_F)
        score_N = above.value_N * norm_F[above.latent_N]
        # The bf16 product lets some of those through that are below the floor, and those are not all.
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
        """A score that the cut of a budget is probably above: a share of the last cut, or one from a sample of tokens.

        Equal on all processes, since each leaves out what is below it.
        """
        if float(self.cut[index]) > 0:
            return (1 - self._margins[index]) * float(self.cut[index])
        sample_BX = read_BX[:: max(1, len(read_BX) // SAMPLE_TOKENS)]
        score_N = (crosscoder.pre_activations(sample_BX).relu_() * norm_F)[:, self._budgets[index][0]].flatten()
        count = max(1, round(k * len(sample_BX)))
        score_N = processes.gather_shards(score_N)
        cut = score_N.topk(count).values[-1] if len(score_N) >= count else score_N.new_zeros(())
        return (1 - MOST_MARGIN) * float(processes.least(cut))

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

    def _remember_cut(self, index: int, cut: Tensor, *, full: bool) -> None:
        """Keep the cut of a budget, the smallest selected score, for the next guess."""
        if full and self.cut[index] > 0:
            # Cuts that stay where they are can be guessed closely, which leaves fewer candidates.
            change = abs(float(cut / self.cut[index]) - 1)
            self._margins[index] = min(MOST_MARGIN, max(LEAST_MARGIN, 3 * change, 0.9 * self._margins[index]))
        # Where fewer latents were positive than there are places, there is no cut to guess from.
        self.cut[index] = cut if full else 0.0

    def _update_inference_threshold(self, index: int, cut: Tensor, step: StepContext) -> None:
        """Let the threshold of a budget, which the inference gate compares scores with, follow the cut of training."""
        if step.warmed_up and bool(self.averaging[index]):
            window = max(1.0, self.options.threshold_window_share * step.total_steps)
            decay = min(self.options.threshold_decay, 1 - 1 / window)
            self.threshold[index] = decay * self.threshold[index] + (1 - decay) * cut
        else:
            # Before the average begins, follow the batch, so that an early evaluation is never dense.
            self.threshold[index] = cut
            self.averaging[index] = step.warmed_up
