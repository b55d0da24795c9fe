"""Sharing on the Hugging Face Hub, with its own client: `HF_ENDPOINT`, `HF_TOKEN` and the cache work as usual."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from hashlib import file_digest, sha1
from pathlib import Path
from typing import Any

from attrs import field, frozen
from attrs.converters import optional

from ..converters import as_tuple
from ..crosscoder.explanations import EXPLANATIONS
from ..errors import CheckpointError, shown
from ..privacy.local import path_strings
from .card import with_metadata, with_section
from .checkpoint import CARD, CONFIG, WEIGHTS, checked_folder
from .dashboard import FOLDER, Dashboard

FILES = (
    CONFIG,
    f"{WEIGHTS}*.safetensors",
    f"{WEIGHTS}.safetensors.index.json",
    CARD,
    EXPLANATIONS,
    "figures/*",
    "report.html",
)


def is_folder(name: str | Path) -> bool:
    """Whether there is a folder called so here; names that no file system takes are none."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


@contextmanager
def hub_client(doing: str) -> Iterator[None]:
    """The Hub's client raises anything from bare RuntimeErrors to its transport's own kinds: all are one of ours."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckpointError(f"{doing}: {text}") from error


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    subfolder: str = "",
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Fetch a repository's crosscoder files into the Hub cache and check them; returns the folder."""
    from huggingface_hub import snapshot_download

    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    where = f"'{repo_id}'" + (f" at revision '{revision}'" if revision else "")
    with hub_client(f"{where} is not a folder here and could not be fetched from the Hub"):
        folder = Path(
            snapshot_download(
                repo_id,
                revision=revision if local_files_only else _resolved(repo_id, revision, token, cache_dir),
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=[f"{prefix}{pattern}" for pattern in FILES],
            )
        )
        files = [path for path in sorted((folder / subfolder).rglob("*")) if path.is_file()]
    check_digest(repo_id, *files)
    return folder


def _resolved(repo_id: str, revision: str | None, token: str | bool | None, cache_dir: str | Path | None) -> str:
    """The revision with its commit, looked at first: the client names files of its cache by what the Hub says it is."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    if hasattr(api, "resolve_revision"):  # since 2.4; it still knows the name that was asked for
        found = api.resolve_revision(repo_id, revision=revision, cache_dir=cache_dir)
        check_commit(repo_id, found.resolved)
        return found
    return check_commit(repo_id, api.model_info(repo_id, revision=revision).sha)


def check_commit(repo_id: str, commit: object) -> str:
    """`commit` where it is the name of one; `CheckpointError` for what could lead out of the cache."""
    if not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40}", commit):
        raise CheckpointError(f"the Hub's answer about '{repo_id}' is damaged: {shown(commit)} is not a commit")
    return commit


def check_digest(repo_id: str, *fetched: Path) -> None:
    """Remove fetched files from the cache that are not what the Hub names; `CheckpointError` says so of the first."""
    damaged = [path for path in fetched if not _is_whole(path)]
    for path in damaged:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
    if damaged:
        raise CheckpointError(
            f"{damaged[0].name} of '{repo_id}' was damaged in transit (its sha256 or sha1 differs from the one the Hub "
            "names); it was removed from the cache, so loading again will download it again"
        )


def _is_whole(path: Path) -> bool:
    """Compare a file with its digest; over plain HTTP the Hub's client checks sizes only.

    The client's cache names a large file by its sha256 and a small one by the sha1 that git gives it, so this needs no
    network. Names of another form say nothing.
    """
    blob = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        with blob.open("rb") as file:
            return file_digest(file, "sha256").hexdigest() == blob.name
    if re.fullmatch("[0-9a-f]{40}", blob.name):
        content = blob.read_bytes()
        # Git puts a header before the content; servers that are not the Hub may leave it out.
        names = [sha1(head + content, usedforsecurity=False).hexdigest() for head in (b"blob %d\0" % len(content), b"")]
        return blob.name in names
    return True


@frozen(kw_only=True)
class Publication:
    """How a crosscoder is published: where in the repository, and what the head of its card says."""

    private: bool = False
    """Of a repository that is made."""
    tag: str = ""
    branch: str = ""
    """Made if it is missing; empty for the main one."""
    create_pr: bool = False
    """Open a pull request instead of committing."""
    licence: str = ""
    datasets: tuple[str, ...] = field(default=(), converter=as_tuple)
    base_models: tuple[str, ...] = field(default=(), converter=as_tuple)
    commit_message: str = "Upload crosscoder"
    dashboard: Path | None = field(default=None, converter=optional(Path))
    """The folder of a dashboard, to be put into the repository or into a Space."""
    dashboard_space: str = ""
    """`owner/name` of a static Space, made if it is missing; empty for the folder `dashboard` of the repository."""

    def __attrs_post_init__(self) -> None:
        if self.dashboard_space and self.dashboard is None:
            raise CheckpointError("dashboard_space= says where a dashboard goes: pass dashboard= with its folder")


def push_folder(
    folder: Path, repo_id: str, publication: Publication | None = None, *, token: str | bool | None = None
) -> str:
    """Upload the folder of a saved crosscoder in one commit, creating the repository if it is missing.

    Returns the commit's URL. A commit is atomic, and the tag is set after it, so an interrupted upload leaves the
    repository unchanged.
    """
    from huggingface_hub import HfApi

    from .checkpoint import read_config

    config = read_config(folder)  # never publish a folder that could not be loaded
    paths = path_strings({key: config.get(key) for key in ("recipe", "models")})
    if paths:
        raise CheckpointError(
            f"{folder} names paths of this machine, such as {paths[0]}; load the crosscoder and save it again, which "
            "leaves them out"
        )
    how = publication or Publication()
    if how.create_pr and (how.tag or how.branch):
        raise CheckpointError("a pull request has no branch or tag of its own: leave out branch= and tag=")
    dashboard = None if how.dashboard is None else Dashboard.read(how.dashboard)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        where = f"{api.endpoint}/"
        section = "" if dashboard is None else dashboard.section(where, repo_id, how.branch, how.dashboard_space)
        published = _publishable(folder, Path(scratch), how, section)
        if dashboard is not None and how.dashboard_space:
            with hub_client(f"could not push the dashboard to the Space '{how.dashboard_space}'"):
                dashboard.push_to_space(api, how.dashboard_space, repo_id, private=how.private)
        with hub_client(f"could not push to '{repo_id}'"):
            api.create_repo(repo_id, private=how.private, exist_ok=True)
            if how.branch:
                api.create_branch(repo_id, branch=how.branch, exist_ok=True)
            if dashboard is not None and not how.dashboard_space:
                published += dashboard.operations(api, repo_id, "model", f"{FOLDER}/", revision=how.branch or None)
            commit = api.create_commit(
                repo_id,
                operations=published,
                commit_message=how.commit_message,
                revision=how.branch or None,
                create_pr=how.create_pr,
            )
            if how.tag:
                api.create_tag(repo_id, tag=how.tag, revision=commit.oid, exist_ok=False)
    return str(commit.pr_url if how.create_pr else commit.commit_url)


def _publishable(folder: Path, scratch: Path, how: Publication, section: str) -> list[Any]:
    """What a commit adds: the files, the card with what is said here, weights in the Hub's ordinary form."""
    from huggingface_hub import CommitOperationAdd

    from .tensors import is_in_parts
    from .whole_files import write_whole

    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(fnmatch(path.relative_to(folder).as_posix(), pattern) for pattern in FILES)
    }
    if is_in_parts(folder, WEIGHTS):
        files = {name: path for name, path in files.items() if not name.startswith(f"{WEIGHTS}")}
        write_whole(*checked_folder(folder), scratch)
        files |= {path.name: path for path in scratch.iterdir()}
    text = said = (folder / CARD).read_text(encoding="utf-8") if CARD in files else ""
    if how.licence or how.datasets or how.base_models:
        text = with_metadata(text, how.licence, how.datasets, how.base_models)
    if section:
        text = with_section(text, section)
    if text != said:
        card = scratch / "card.md"
        card.write_text(text, encoding="utf-8")
        files[CARD] = card
    return [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in files.items()]
