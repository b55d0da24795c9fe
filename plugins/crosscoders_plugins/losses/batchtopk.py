"""BatchTopK: of a whole batch keep the B·k largest f_i·Σ_s‖d_i^s‖, decode the unscaled f.

Bussmann et al. 2024 (arXiv 2412.06410) for SAEs; Minder et al. 2025 (arXiv 2504.02922, §3.2) for crosscoders.
"""

from __future__ import annotations

from attrs import frozen

from crosscoders.authoring import BatchSelectionConfig, BatchSelectionLoss


@frozen(kw_only=True)
class BatchTopKConfig(BatchSelectionConfig):
    """Sparsity by keeping the largest activations of the batch."""


class BatchTopK(BatchSelectionLoss):
    """Loss `batchtopk`."""
