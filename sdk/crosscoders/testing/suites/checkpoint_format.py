"""Rules of foreign checkpoint formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from ...crosscoder.module import Crosscoder
from ...plugins.registry import Registry
from .base import Suite


class CheckpointFormatSuite(Suite):
    """Rules of a foreign format. `format_name` is the name of its record; override the fixture `crosscoder`."""

    format_name: ClassVar[str]

    @pytest.fixture
    def crosscoder(self) -> Crosscoder:
        """A crosscoder that the format can represent."""
        raise NotImplementedError("override the fixture `crosscoder`")

    def _format(self, registry: Registry) -> Any:
        spec = registry.checkpoint_formats[self.format_name].spec
        build: Callable[..., Any] = spec.build.load()
        return build(spec.config.load()())

    def test_what_it_writes_it_recognises_and_reads(
        self, registry: Registry, crosscoder: Crosscoder, tmp_path: Path
    ) -> None:
        found = self._format(registry)
        found.write(crosscoder, tmp_path)
        assert found.detect([path.name for path in tmp_path.iterdir()])
        again = found.read(tmp_path, {str(i): site.name for i, site in enumerate(crosscoder.sites)})
        x_BX = torch.randn(16, crosscoder.layout.width, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(again(x_BX), crosscoder(x_BX), rtol=1e-4, atol=1e-5)

    def test_it_does_not_claim_our_own_folders(self, registry: Registry) -> None:
        assert not self._format(registry).detect(["config.json", "model.safetensors", "README.md"])
