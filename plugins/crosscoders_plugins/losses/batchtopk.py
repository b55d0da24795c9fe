"""BatchTopK: keep the B·k largest scores f_i·Σ_s‖d_i^s‖ of a batch, and decode the unscaled f.

It is from Bussmann et al. 2024 (arXiv 2412.06410) for SAEs, and Minder et al. 2025 (arXiv 2504.02922, §3.2) for
crosscoders. The selection and the inference threshold are in the host, in `crosscoders.losses.selection`.
"""

from __future__ import annotations

from attrs import frozen

from crosscoders.authoring import BatchSelectionConfig, BatchSelectionLoss


@frozen(kw_only=True)
class BatchTopKConfig(BatchSelectionConfig):
    """Options of a loss that keeps the largest activations of a batch."""


class BatchTopK(BatchSelectionLoss):
    """Loss `batchtopk`."""
