"""Sharing on the Hugging Face Hub, with its own client: `HF_ENDPOINT`, `HF_TOKEN` and the cache work as usual."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha1
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from ..processes import ALONE, Processes
from .checkpoint import CARD, CONFIG, WEIGHTS, load_crosscoder, save_crosscoder
from .local import path_strings

if TYPE_CHECKING:
    from ..crosscoder.module import Crosscoder
    from ..plugins.registry import Registry

FILES = (CONFIG, f"{WEIGHTS}*.safetensors", f"{WEIGHTS}.safetensors.index.json", CARD, "figures/*", "report.html")


def load_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    device: str = "cpu",
    registry: Registry | None = None,
    processes: Processes = ALONE,
) -> Crosscoder:
    """Load a crosscoder from a local folder or from the Hub; see `Crosscoder.from_pretrained`."""
    folder = Path(name) / subfolder
    if not is_folder(name):
        folder = download(str(name), revision=revision, token=token, subfolder=subfolder) / subfolder
    return load_crosscoder(folder, registry=registry, device=device, processes=processes)


def is_folder(name: str | Path) -> bool:
    """Whether there is a folder called so here; names that no file system takes are none."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


@contextmanager
def _client(doing: str) -> Iterator[None]:
    """The Hub's client raises anything from bare RuntimeErrors to its transport's own kinds: all are one of ours."""
    try:
        yield
    except Exception as error:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckpointError(f"{doing}: {text}") from error


def download(
    repo_id: str, *, revision: str | None = None, token: str | bool | None = None, subfolder: str = ""
) -> Path:
    """Fetch a repository's crosscoder files into the Hub cache and check them; returns the folder."""
    from huggingface_hub import snapshot_download

    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    where = f"'{repo_id}'" + (f" at revision '{revision}'" if revision else "")
    with _client(f"{where} is not a folder here and could not be fetched from the Hub"):
        folder = Path(
            snapshot_download(
                repo_id, revision=revision, token=token, allow_patterns=[f"{prefix}{pattern}" for pattern in FILES]
            )
        )
        damaged = [path for path in sorted((folder / subfolder).rglob("*")) if path.is_file() and not _is_whole(path)]
        for path in damaged:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
    if damaged:
        raise CheckpointError(
            f"{damaged[0].name} of '{repo_id}' was damaged in transit (its sha256 or sha1 differs from the one the Hub "
            "names); it was removed from the cache, so loading again will download it again"
        )
    return folder


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


def push_to_hub(
    crosscoder: Crosscoder,
    repo_id: str,
    *,
    private: bool = False,
    tag: str = "",
    commit_message: str = "Upload crosscoder",
    token: str | bool | None = None,
) -> str:
    """Create the repository if it is missing and upload everything in one commit; returns the commit's URL.

    A commit is atomic, and the tag is set after it, so an interrupted upload leaves the repository unchanged.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_crosscoder(crosscoder, Path(scratch) / "crosscoder")
        return push_folder(folder, repo_id, private=private, tag=tag, commit_message=commit_message, token=token)


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    tag: str = "",
    commit_message: str = "Upload crosscoder",
    token: str | bool | None = None,
) -> str:
    """Upload the folder of a saved crosscoder; see `push_to_hub`."""
    from huggingface_hub import HfApi

    from .checkpoint import read_config

    config = read_config(folder)  # never publish a folder that could not be loaded
    paths = path_strings({key: config.get(key) for key in ("recipe", "models")})
    if paths:
        raise CheckpointError(
            f"{folder} names paths of this machine, such as {paths[0]}; load the crosscoder and save it again, which "
            "leaves them out"
        )
    api = HfApi(token=token)
    with _client(f"could not push to '{repo_id}'"):
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message, allow_patterns=list(FILES)
        )
        if tag:
            api.create_tag(repo_id, tag=tag, revision=commit.oid, exist_ok=False)
    return str(commit.commit_url)
