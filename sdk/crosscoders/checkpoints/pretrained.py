"""`from_pretrained`: checkpoints of ours and of other libraries, from a folder, the Hub, or the table of releases."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen

from ..crosscoder.module import Crosscoder
from ..errors import CheckpointError
from ..plugins.registry import Registry, get_registry
from ..plugins.specs import ReleaseSpec
from ..processes import ALONE, Processes
from .blueprint import Answers, Blueprint
from .checkpoint import CONFIG, load_crosscoder, save_crosscoder
from .description import checked_config, read_config
from .foreign import Foreign, NothingFitsError, find
from .hub import Publication as Publication  # noqa: PLC0414  `push_to_hub` knows this module alone
from .hub import download, is_folder, push_folder
from .source import Source


@frozen(kw_only=True)
class Place:
    """Where a checkpoint is: what `from_pretrained` was called with."""

    name: str
    subfolder: str = ""
    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False

    def source(self) -> Source:
        """Its files, listed."""
        return Source.of(
            self.name,
            subfolder=self.subfolder,
            revision=self.revision,
            token=self.token,
            cache_dir=self.cache_dir,
            local_files_only=self.local_files_only,
        )

    def own_folder(self, source: Source) -> Path:
        """The folder of files of ours, fetched if need be."""
        if is_folder(self.name):
            return Path(self.name) / self.subfolder
        subfolder = source.root
        folder = download(
            self.name.partition(":")[0],
            revision=self.revision,
            token=self.token,
            subfolder=subfolder,
            cache_dir=self.cache_dir,
            local_files_only=self.local_files_only,
        )
        return folder / subfolder


def load_pretrained(
    place: Place,
    answers: Answers,
    *,
    format: str = "",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    registry: Registry | None = None,
    processes: Processes = ALONE,
) -> Crosscoder:
    """A crosscoder of any known format; see `Crosscoder.from_pretrained`."""
    found, answers = open_pretrained(place, answers, format=format, registry=registry)
    if isinstance(found, Foreign):
        return found.read(answers, registry=registry, device=device, dtype=dtype, processes=processes)
    if answers.sites or answers.others or answers.normalisation not in (None, "estimate"):
        raise CheckpointError(
            f"{place.name} is of this library and says its sites and scales; sites= and the like are for others"
        )
    crosscoder = load_crosscoder(found, registry=registry, device=str(device), processes=processes)
    if crosscoder.info is not None and is_folder(place.name):
        crosscoder.info = evolve(crosscoder.info, folder=found)
    return crosscoder if dtype == torch.float32 else _narrowed(crosscoder, dtype)


def inspect_pretrained(
    name: str | Path,
    *,
    format: str = "",
    revision: str | None = None,
    subfolder: str = "",
    sites: Mapping[str, str] | Sequence[str] = (),
    normalisation: str | Mapping[str, float] | None = None,
    answers: Mapping[str, Any] | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    registry: Registry | None = None,
) -> Blueprint:
    """What another library's checkpoint holds and what it does not say, from headers alone.

    Options are those of `Crosscoder.from_pretrained`.
    """
    place = Place(
        name=str(name),
        subfolder=subfolder,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    given = make_answers(sites, normalisation, answers)
    found, given = open_pretrained(place, given, format=format, registry=registry)
    if not isinstance(found, Foreign):
        raise CheckpointError(f"{name} is a crosscoder of this library; `crosscoders info` says what it is")
    return found.inspect(given)


def open_pretrained(
    place: Place, answers: Answers | None = None, *, format: str = "", registry: Registry | None = None
) -> tuple[Path | Foreign, Answers]:
    """The folder of a checkpoint of ours, or a foreign one of a known format; and the answers, a release's included."""
    place, answers, format = _from_release(place, answers or Answers(), format, registry)
    source = place.source()
    if not format and _is_own(source):
        return place.own_folder(source), answers
    return _foreign(place, source, format, registry), answers


def describe_pretrained(place: Place, *, registry: Registry | None = None) -> tuple[dict[str, Any] | Foreign, Answers]:
    """`config.json` of a checkpoint of ours, of which no other file is fetched, or a foreign one and the answers."""
    place, answers, format = _from_release(place, Answers(), "", registry)
    source = place.source()
    if format or not _is_own(source):
        return _foreign(place, source, format, registry), answers
    if is_folder(place.name):
        return read_config(place.own_folder(source)), answers
    return checked_config(source.json(CONFIG), source.name), answers


def _is_own(source: Source) -> bool:
    try:
        return CONFIG in source and source.json(CONFIG).get("library") == "crosscoders"
    except CheckpointError:
        return False


def _foreign(place: Place, source: Source, format: str, registry: Registry | None) -> Foreign:
    try:
        return find(source, format=format, registry=registry)
    except CheckpointError as fault:
        _as_our_own(place, fault)
        raise


def push_pretrained(
    crosscoder: Crosscoder, repo_id: str, publication: Publication, *, token: str | bool | None = None
) -> str:
    """Save a crosscoder and upload it; see `Crosscoder.push_to_hub`."""
    with tempfile.TemporaryDirectory() as scratch:
        return push_folder(save_crosscoder(crosscoder, Path(scratch) / "crosscoder"), repo_id, publication, token=token)


def _as_our_own(place: Place, fault: CheckpointError) -> None:
    """Where no format claims a folder, say also why it is none of ours."""
    folder = Path(place.name) / place.subfolder
    if not is_folder(folder):
        return
    try:
        read_config(folder)
    except CheckpointError as error:
        if isinstance(fault, NothingFitsError):
            raise CheckpointError(f"{error}; {fault}") from fault
        if "cannot be read" in str(error):
            raise error from fault


def make_answers(
    sites: Mapping[str, str] | Sequence[str] = (),
    normalisation: str | Mapping[str, float] | None = None,
    others: Mapping[str, Any] | None = None,
) -> Answers:
    """Answers as users give them; a sequence of sites is in the order of slots."""
    named = dict(sites) if isinstance(sites, Mapping) else {str(i): site for i, site in enumerate(sites)}
    scales = dict(normalisation) if isinstance(normalisation, Mapping) else normalisation
    return Answers(sites=named, normalisation=scales, others=dict(others or {}))


def pretrained(search: str = "", *, registry: Registry | None = None) -> list[ReleaseSpec]:
    """Known public releases with these words in a model, family, format or name: plugins' data, offline."""
    words = search.lower().split()
    releases = [offer.spec for offer in (registry or get_registry()).releases.offers]
    return [r for r in releases if all(any(word in text for text in r.searched) for word in words)]


def _from_release(place: Place, answers: Answers, format: str, registry: Registry | None) -> tuple[Place, Answers, str]:
    """What a short name of the table of releases stands for; everything else as it is."""
    if "/" in place.name or Path(place.name).exists():
        return place, answers, format
    catalog = (registry or get_registry()).releases
    if place.name not in catalog:
        return place, answers, format
    release = catalog[place.name].spec
    # What `…` stands for is given by the user; without it the error lists the folders that there are.
    fixed = release.subfolder.partition("…")[0].strip("/")
    subfolder = "/".join(part for part in (fixed, place.subfolder.strip("/")) if part)
    place = evolve(
        place, name=release.repository, subfolder=subfolder, revision=place.revision or release.revision or None
    )
    return place, evolve(answers, sites={**release.sites, **answers.sites}), format or release.format


def _narrowed(crosscoder: Crosscoder, dtype: torch.dtype) -> Crosscoder:
    """Weights in `dtype`; scales and thresholds stay as they are."""
    for parameter in crosscoder.parameters():
        parameter.data = parameter.data.to(dtype)
    return crosscoder
