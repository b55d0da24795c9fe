"""The peak memory of a training step, as a formula.

For P parameters, B tokens in a micro-batch, X columns read, Y columns written, K active latents per token, and an
encoder product in pieces of R latents, memory in bytes is:

.. code-block:: text

    held always       12 P                          weights and Adam's two moments, in fp32
    selection         8 B X + the larger of         the batch, raw and normalised;
                      5 R B + 28 B K, 90 B K        a piece and its candidates; sorting the candidates
      in bf16         12 B X + the larger of        the batch, also rounded;
                      3 R B + 2 R X + 32 B K, 120 B K    a piece with its rounded rows; sorting
    backward pass     4 P + 8 B X + 4 B Y + 48 B K
      several groups  4 P + 8 B X + 12 B Y + 88 B K

    peak = 12 P + the larger of selection and backward pass; with accumulation, 16 P + the larger without its 4 P

The first steps find about twice as many candidates, because the smallest selected score is guessed less closely.
"""

from __future__ import annotations

import torch
from attrs import frozen

from ..crosscoder.sparse_encoder import piece_latents
from ..crosscoder.wiring import Wiring
from ..kernels import preselection


@frozen(kw_only=True)
class StepMemory:
    """The memory of a training step on one process, in bytes."""

    parameters: int
    optimizer: int
    gradients: int
    selection: int
    """Memory that is needed only while latents are selected."""
    accumulation: int
    """Number of micro-batches. After the first one, weight gradients are held all the time."""
    backward: int
    """Memory of activations, their gradients and sparse latents in the backward pass, without weight gradients."""

    @property
    def peak(self) -> int:
        """The peak memory of the step."""
        held = self.parameters + self.optimizer
        if self.accumulation > 1:
            return held + self.gradients + max(self.selection, self.backward)
        return held + max(self.selection, self.gradients + self.backward)


def step_memory(
    wiring: Wiring,
    *,
    batch_size: int,
    active: float,
    preselect: str = "auto",
    device: str = "cpu",
    optimizer_bytes: float = 8.0,
    accumulation: int = 1,
) -> StepMemory:
    """The memory of a BatchTopK step on micro-batches of `batch_size` tokens with `active` latents per token.

    AuxK's dead latents are not included. `optimizer_bytes` is the optimizer state per parameter: 8 for Adam, about 2
    for `adam_8bit`. For a run with n shards, pass `wiring.shard(n)`.
    """
    weights = wiring.num_weights
    count = weights + wiring.num_latents + wiring.written.width
    piece = min(wiring.num_latents, piece_latents(batch_size, device))
    batch = batch_size * wiring.layout.width
    written = batch_size * wiring.written.width
    entries = batch_size * active
    if preselection(preselect, torch.device(device)) == "bf16":
        widest = max(wiring.layout.subset(group.reads).width for group in wiring.groups)
        selection = 12 * batch + max(piece * (3 * batch_size + 2 * widest) + 32 * entries, 120 * entries)
    else:
        selection = 8 * batch + max(5 * piece * batch_size + 28 * entries, 90 * entries)
    backward = 8 * batch + 4 * written + 48 * entries
    if len(wiring.groups) > 1:
        backward += 8 * written + 40 * entries
    return StepMemory(
        parameters=4 * count,
        optimizer=round(optimizer_bytes * count),
        gradients=4 * count,
        accumulation=accumulation,
        selection=round(selection),
        backward=round(backward),
    )
