"""Rules of foreign checkpoint formats."""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from ...checkpoints.blueprint import Answers
from ...checkpoints.foreign import Foreign, export, find
from ...checkpoints.source import Source
from ...crosscoder.module import Crosscoder
from ...errors import CheckpointError
from ...plugins.registry import Registry
from .base import Suite


class _Payload:
    """A pickle of this calls `Path.touch` when it is read as code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


class CheckpointFormatSuite(Suite):
    """Rules of a foreign format.

    Give `goldens`, folders that the library itself has written; for each `expected` returns what its code makes of
    them. Override the fixture `crosscoder` if the format is written too.
    """

    format_name: ClassVar[str]
    """The record's name."""
    goldens: ClassVar[Sequence[Path]] = ()
    """Folders of files that can be read."""
    refused: ClassVar[Mapping[Path, str]] = {}
    """Folders that are of the format and that no crosscoder of ours can hold, with a part of the reason."""
    bad: ClassVar[Mapping[Path, str]] = {}
    """Damaged folders, with a part of the message."""
    tolerance: ClassVar[float] = 1e-5
    """Of f and x̂, relative to the largest value."""

    @pytest.fixture
    def crosscoder(self) -> Crosscoder | None:
        """A crosscoder that the format can hold; None if the format is only read."""
        return None

    def answers(self, folder: Path) -> Answers:
        """What a user of these files would answer; sites that nobody names get the keys of their slots."""
        return Answers(normalisation="none")

    def expected(self, folder: Path) -> tuple[Mapping[str, Tensor], Tensor, Mapping[str, Tensor]]:
        """Inputs by site, latents (B, F) and reconstructions by site, as the library's own code computes them."""
        raise NotImplementedError("override `expected` for the folders in `goldens`")

    num_saved: ClassVar[int] = 1
    """How many of `goldens` are saved as ours and read again, which takes longest."""

    # -- rules

    def test_it_knows_its_files(self, registry: Registry) -> None:
        for folder in (*self.goldens, *self.refused):
            assert find(Source.of(folder), registry=registry).format.name == self.format_name, folder

    def test_what_is_inspected_says_family_slots_and_size(self, registry: Registry) -> None:
        for folder in self.goldens:
            found, answers = self._opened(folder, registry)
            plan = found.inspect(answers)
            assert plan.format == self.format_name
            assert plan.family
            assert plan.slots
            assert plan.size > 0
            assert not plan.refused, folder

    def test_it_gives_the_librarys_numbers(self, registry: Registry) -> None:
        for folder in self.goldens:
            made = self._read(folder, registry)
            x, f_BF, x_hat = self.expected(folder)
            latents = made.encode(x)
            _assert_near(latents.dense(), f_BF, self.tolerance, f"f of {folder}")
            given = {**{s.name: torch.zeros(len(f_BF), s.width) for s in made.sites}, **x}
            for site, value in made.split(made.decode(latents, given)).items():
                _assert_near(value, x_hat[site], self.tolerance, f"x̂ at {site} of {folder}")

    def test_saved_as_ours_it_stays_bit_equal_and_says_its_origin(self, registry: Registry, tmp_path: Path) -> None:
        for number, folder in enumerate(self.goldens[: self.num_saved]):
            made = self._read(folder, registry)
            made.save_pretrained(tmp_path / str(number))
            again = Crosscoder.from_pretrained(tmp_path / str(number), registry=registry)
            x_BX = torch.randn(16, made.layout.width, generator=torch.Generator().manual_seed(0))
            assert torch.equal(again.encode(x_BX).dense(), made.encode(x_BX).dense()), folder
            assert torch.equal(again(x_BX), made(x_BX)), folder
            assert again.info is not None
            origin = again.info.origin
            assert origin["format"] == self.format_name
            assert all(len(digest) == 64 for digest in origin["sha256"].values())

    def test_what_cannot_be_held_is_refused_with_the_reason(self, registry: Registry) -> None:
        for folder, reason in self.refused.items():
            with pytest.raises(CheckpointError, match=reason):
                self._read(folder, registry)

    def test_damaged_files_are_refused_with_the_fault(self, registry: Registry) -> None:
        for folder, fault in self.bad.items():
            with pytest.raises(CheckpointError, match=fault):
                self._read(folder, registry)

    def test_no_pickle_is_run(self, registry: Registry, tmp_path: Path) -> None:
        for number, folder in enumerate(self.goldens):
            copy = tmp_path / str(number)
            shutil.copytree(folder, copy)
            mark = tmp_path / f"ran-{number}"
            weights = [path for path in copy.rglob("*") if path.suffix in (".pt", ".pth", ".npz", ".safetensors")]
            for path in weights:
                path.chmod(0o644)
                path.write_bytes(pickle.dumps({"W_enc": _Payload(mark)}))
            with pytest.raises(CheckpointError):
                self._read(copy, registry)
            for path in weights:
                torch.save({"W_enc": _Payload(mark)}, path)
            with pytest.raises(CheckpointError):
                self._read(copy, registry)
            assert not mark.exists()

    def test_it_does_not_claim_our_own_folders(self, registry: Registry, crosscoder: Crosscoder | None) -> None:
        found = Foreign(Source.of(Path(__file__).parent), _format(registry, self.format_name))
        assert not found.format.detect(found.source)

    def test_what_it_writes_it_recognises_and_reads(
        self, registry: Registry, crosscoder: Crosscoder | None, tmp_path: Path
    ) -> None:
        if crosscoder is None:
            with pytest.raises(CheckpointError, match="only read"):
                _format(registry, self.format_name).check(_any_crosscoder())
            return
        export(crosscoder, tmp_path / "written", self.format_name, registry=registry)
        again = self._read(tmp_path / "written", registry)
        x_BX = torch.randn(16, crosscoder.layout.width, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(again(x_BX), crosscoder(x_BX), rtol=1e-4, atol=1e-5)
        ours, theirs = crosscoder.encode(x_BX).dense(), again.encode(x_BX).dense()
        assert torch.equal(ours > 0, theirs > 0)

    # -- private

    def _opened(self, folder: Path, registry: Registry) -> tuple[Foreign, Answers]:
        found = find(Source.of(folder), format="", registry=registry)
        answers = self.answers(folder)
        plan = found.inspect(answers)
        named = {slot.key: "model/" + slot.key.replace(" ", "-") for slot in plan.unnamed}
        return found, Answers(
            sites={**named, **answers.sites}, normalisation=answers.normalisation, others=answers.others
        )

    def _read(self, folder: Path, registry: Registry) -> Crosscoder:
        found, answers = self._opened(folder, registry)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return found.read(answers, registry=registry)


def _format(registry: Registry, name: str) -> Any:
    spec = registry.checkpoint_formats[name].spec
    return spec.build.load()(spec.config.load()())


def _any_crosscoder() -> Crosscoder:
    from ...crosscoder.sites import Site
    from ...crosscoder.wiring import LatentGroup, Wiring

    site = Site("m/a", 4)
    return Crosscoder(Wiring(sites=(site,), groups=(LatentGroup("all", 4, ("m/a",), ("m/a",)),)))


def _assert_near(value: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    worst = float((value.detach() - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    assert worst <= tolerance, f"{what} differs by {worst:.1e}"
