"""Sharing on the Hugging Face Hub, with its own client: `HF_ENDPOINT`, `HF_TOKEN` and the cache work as usual."""

from __future__ import annotations

import tempfile
from hashlib import file_digest
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
    if not Path(name).is_dir():
        folder = download(str(name), revision=revision, token=token, subfolder=subfolder) / subfolder
    return load_crosscoder(folder, registry=registry, device=device, processes=processes)


def download(
    repo_id: str, *, revision: str | None = None, token: str | bool | None = None, subfolder: str = ""
) -> Path:
    """Fetch a repository's crosscoder files into the Hub cache and check them; returns the folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    try:
        folder = Path(
            snapshot_download(
                repo_id, revision=revision, token=token, allow_patterns=[f"{prefix}{pattern}" for pattern in FILES]
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        where = f"'{repo_id}'" + (f" at revision '{revision}'" if revision else "")
        raise CheckpointError(f"{where} is not a folder here and could not be fetched from the Hub: {error}") from error
    for path in sorted((folder / subfolder).glob(f"{WEIGHTS}*.safetensors")):
        _check_digest(repo_id, path)
    return folder


def _check_digest(repo_id: str, path: Path) -> None:
    """Compare the weights with their digest, because over plain HTTP the Hub's client checks only sizes.

    The client's cache names a large file by its sha256, so this needs no network. Small files, named by a shorter
    digest, are part of the repository's own history.
    """
    blob = path.resolve()
    if not path.is_file() or len(blob.name) != 64:
        return
    with blob.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    if digest != blob.name:
        blob.unlink()
        path.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path.name} of '{repo_id}' was damaged in transit (its sha256 differs from the one the Hub names); it "
            "was removed from the cache, so loading again will download it again"
        )


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
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message, allow_patterns=list(FILES)
        )
        if tag:
            api.create_tag(repo_id, tag=tag, revision=commit.oid, exist_ok=False)
    except Exception as error:  # the client raises anything from bare RuntimeErrors to its transport's own kinds
        raise CheckpointError(f"could not push to '{repo_id}': {error}") from error
    return str(commit.commit_url)
