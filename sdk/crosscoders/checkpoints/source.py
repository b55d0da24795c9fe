"""Where foreign checkpoint files are: a folder or a Hub repository, listed at once, fetched file by file."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from hashlib import file_digest
from pathlib import Path
from typing import Any

import yaml

from ..errors import CheckpointError
from ..reading import parse_json, read_text
from .file_bytes import Bytes
from .npz_file import npz_file
from .pickled_file import pickled_file
from .safetensors_file import safetensors_file
from .stored import TensorFile

LARGEST_TEXT = 20_000_000
READERS: dict[str, Callable[[Bytes], TensorFile]] = {
    ".safetensors": safetensors_file,
    ".pt": pickled_file,
    ".pth": pickled_file,
    ".npz": npz_file,
}


class _Yaml(yaml.SafeLoader):  # type: ignore[misc]
    """Plain data, and tuples as Python writes them."""


_Yaml.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node)))


def is_file(name: str | Path) -> bool:
    """Whether there is a file called so here; names that no file system takes are none."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


class Source:
    """Files under one root. Texts and headers are read once and kept; what was used is remembered, for the record."""

    def __init__(self, store: Store, root: str = "") -> None:
        self._store, self.root = store, root.strip("/")
        prefix = f"{self.root}/" if self.root else ""
        self.files = tuple(sorted(name.removeprefix(prefix) for name in store.files if name.startswith(prefix)))
        self._kept = store.kept

    @classmethod
    def of(
        cls,
        name: str | Path,
        *,
        subfolder: str = "",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Source:
        """A folder, a file in one, a Hub repository `owner/name`, or a folder in it, `owner/name:folder`."""
        from .hub import is_folder

        store: Store
        path = Path(name)
        if is_folder(name):
            store = FolderStore(path)
        elif is_file(name):
            store = FolderStore(path.parent, only=path.name)
        else:
            repository, _, inside = str(name).partition(":")
            subfolder = "/".join(part for part in (inside.strip("/"), subfolder.strip("/")) if part)
            store = HubStore(repository, revision, token, cache_dir, local_files_only)
        found = cls(store, subfolder)
        if subfolder and not found.files:
            if subfolder.strip("/") in store.files:
                parent, _, file = subfolder.strip("/").rpartition("/")
                found = cls(store, parent)
                found.files = tuple(n for n in found.files if n == file or Path(n).suffix not in READERS)
                return found
            raise CheckpointError(f"{store.name} has no files in '{subfolder}'; {found.folders_text()}")
        return found

    @property
    def name(self) -> str:
        """What it is called, for messages and records."""
        return f"{self._store.name}:{self.root}" if self.root else self._store.name

    @property
    def folder(self) -> str:
        """The name of the folder that the root is."""
        return re.split(r"[/:]", self.name.rstrip("/"))[-1]

    @property
    def record(self) -> dict[str, Any]:
        """Where it is, as the record of a checkpoint keeps it."""
        return {**self._store.record, **({"subfolder": self.root} if self.root else {})}

    def __contains__(self, path: str) -> bool:
        return path in self.files

    def matching(self, pattern: str) -> list[str]:
        """The files whose path matches a pattern such as `*.pt` (`*` does not cross folders)."""
        depth = pattern.count("/")
        return [name for name in self.files if name.count("/") == depth and fnmatch(name, pattern)]

    def folders(self) -> list[str]:
        """The folders right below the root that have files."""
        return list(dict.fromkeys(name.partition("/")[0] for name in self.files if "/" in name))

    def folders_text(self, most: int = 12) -> str:
        """Those folders, for messages."""
        prefix = f"{self.root}/" if self.root else ""
        names = list(dict.fromkeys(n.rpartition("/")[0] for n in self._store.files if Path(n).suffix in READERS))
        names = [name for name in names if name and name.startswith(prefix)]
        if not names:
            return "it has no files of weights in any folder"
        more = f" and {len(names) - most} more" if len(names) > most else ""
        return f"folders with weights: {', '.join(names[:most])}{more}"

    def inside(self, folder: str) -> Source:
        """The same files seen from a folder."""
        return Source(self._store, f"{self.root}/{folder}".strip("/"))

    @property
    def notes(self) -> list[str]:
        """What was unwrapped or stripped in the files of tensors that were opened."""
        return [note for kept in self._kept.values() if isinstance(kept, TensorFile) for note in kept.notes]

    # -- reading

    def text(self, path: str) -> str:
        """A small text file."""
        return str(self._keep("text", path, self._text))

    def json(self, path: str) -> dict[str, Any]:
        """A JSON file that holds a table."""
        return dict(self._keep("json", path, self._json))

    def yaml(self, path: str) -> dict[str, Any]:
        """A YAML file of plain data; a tag that would make an object is refused by name."""
        return dict(self._keep("yaml", path, self._yaml))

    def tensors(self, path: str) -> TensorFile:
        """The tensors of a safetensors, `.pt` or `.npz` file."""
        found = self._keep(
            "tensors", path, lambda one: READERS[Path(one).suffix](_Stored(self._store, self._full(one)))
        )
        assert isinstance(found, TensorFile)
        return found

    def digests(self) -> dict[str, str]:
        """The sha256 of each file that was used."""
        digests = {}
        for path in self.files:
            if self._full(path) in self._store.used:
                with self._store.path(self._full(path)).open("rb") as file:
                    digests[path] = file_digest(file, "sha256").hexdigest()
        return digests

    def _keep(self, kind: str, path: str, read: Callable[[str], Any]) -> Any:
        if path not in self.files:
            raise CheckpointError(f"{self.name} has no {path}")
        key = f"{kind}:{self._full(path)}"
        if key not in self._kept:
            try:
                self._kept[key] = read(path)
            except CheckpointError as error:
                self._kept[key] = error
        if isinstance(self._kept[key], CheckpointError):
            raise self._kept[key]
        self._store.used.add(self._full(path))
        return self._kept[key]

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}" if self.root else path

    def _text(self, path: str) -> str:
        try:
            return read_text(self._store.path(self._full(path)), CheckpointError, limit=LARGEST_TEXT)
        except OSError as error:
            raise CheckpointError(f"{path} of {self.name} cannot be read: {error}") from error

    def _json(self, path: str) -> dict[str, Any]:
        return _table(parse_json(self.text(path), f"{path} of {self.name}", CheckpointError), path, self.name)

    def _yaml(self, path: str) -> dict[str, Any]:
        try:
            content = yaml.load(self.text(path), Loader=_Yaml)  # noqa: S506 - a safe loader with one more tag
        except yaml.constructor.ConstructorError as error:
            raise CheckpointError(
                f"{path} of {self.name} asks for an object, which is never made: {error.problem}"
            ) from error
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise CheckpointError(f"{path} of {self.name} is not valid YAML: {error}") from error
        return _table(content, path, self.name)


def _table(content: Any, path: str, name: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} of {name} holds a {type(content).__name__}, not a table")
    return content


class Store:
    """The files of a folder or a repository."""

    name: str
    files: tuple[str, ...]
    record: dict[str, Any]

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.used: set[str] = set()

    @abstractmethod
    def path(self, name: str) -> Path:
        """The file on this machine."""

    def piece(self, name: str, start: int, length: int) -> bytes | None:
        """Some bytes of a file that is not here, if they can be had alone."""
        return None


class _Stored(Bytes):
    def __init__(self, store: Store, name: str) -> None:
        self._store, self.name = store, name

    def path(self) -> Path:
        return self._store.path(self.name)

    def piece(self, start: int, length: int) -> bytes | None:
        return self._store.piece(self.name, start, length)


class FolderStore(Store):
    """A folder on this machine."""

    def __init__(self, folder: Path, *, only: str = "") -> None:
        super().__init__()
        self._folder, self._only, self.name = folder, only, str(folder / only)
        self.record = {"folder": folder.resolve().name}
        self.files = tuple(sorted(self._walk(only)))

    def path(self, name: str) -> Path:
        path, home = self._folder / name, self._folder.resolve()
        # A snapshot in the Hub's cache is links to the files beside it.
        homes = (home, home.parents[1] / "blobs") if home.parent.name == "snapshots" else (home,)
        if name != self._only and not any(path.resolve().is_relative_to(one) for one in homes):
            raise CheckpointError(f"{name} of {self.name} is a link that leads out of the folder; copy the file there")
        return path

    def _walk(self, only: str) -> Iterator[str]:
        for path in self._folder.rglob("*"):
            name = path.relative_to(self._folder).as_posix()
            hidden = any(part.startswith(".") for part in Path(name).parts)
            if path.is_file() and not hidden and (not only or name == only or path.suffix not in READERS):
                yield name


class HubStore(Store):
    """A repository on the Hub, by its own client; nothing is fetched that is not asked for."""

    def __init__(
        self,
        repository: str,
        revision: str | None,
        token: str | bool | None,
        cache_dir: str | Path | None,
        local_files_only: bool,
    ) -> None:
        from huggingface_hub import HfApi, snapshot_download

        from .hub import check_commit, hub_client

        super().__init__()
        self.name, self.repository, self._token, self._cache = repository, repository, token, cache_dir
        self._local: Path | None = None
        self._asked = revision
        self._fetched: dict[str, Path] = {}
        where = f"'{repository}'" + (f" at revision '{revision}'" if revision else "")
        with hub_client(f"{where} is not a folder here and could not be fetched from the Hub"):
            if local_files_only:
                self._local = Path(
                    snapshot_download(repository, revision=revision, cache_dir=cache_dir, local_files_only=True)
                )
                self.revision = self._local.name
                self.files = FolderStore(self._local).files
            else:
                info = HfApi(token=token).model_info(repository, revision=revision)
                self.revision = check_commit(repository, info.sha)
                self.files = tuple(sorted(sibling.rfilename for sibling in info.siblings or ()))
        self.record = {"repository": repository, "revision": self.revision}

    def path(self, name: str) -> Path:
        if self._local is not None:
            return self._local / name
        if name not in self._fetched:
            from huggingface_hub import hf_hub_download

            from .hub import check_digest, hub_client

            with hub_client(f"{name} of '{self.repository}' could not be fetched"):
                path = Path(
                    hf_hub_download(
                        self.repository,
                        name,
                        # The first by the name that was asked for, so that the cache knows it without a network.
                        revision=self.revision if self._fetched else self._asked,
                        token=self._token,
                        cache_dir=self._cache,
                    )
                )
            check_digest(self.repository, path)
            self._fetched[name] = path
        return self._fetched[name]

    def piece(self, name: str, start: int, length: int) -> bytes | None:
        if self._local is not None or name in self._fetched:
            return None
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]

        wanted = {"Range": f"bytes={start}-{start + length - 1}", **build_hf_headers(token=self._token)}
        try:
            url = hf_hub_url(self.repository, name, revision=self.revision)
            with get_session().stream("GET", url, headers=wanted, follow_redirects=True) as answer:
                # A server without ranges would send the whole file; then it is better fetched into the cache.
                return answer.read() if answer.status_code == 206 else None
        except Exception:  # whatever the transport raises: fetching the file says what is wrong
            return None
