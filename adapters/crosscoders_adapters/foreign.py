"""Where the files of models are, and what foreign libraries raise while they read them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import frozen
from huggingface_hub import hf_hub_download

from crosscoders import ConfigError, CrosscodersError

TINY_PAIR = Path(__file__).parent / "tiny_pair"
"""The base/chat pair that this package ships: `tiny-pair/base` and `tiny-pair/chat`."""

JSON_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
"""Files of a model that hold a JSON table each."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@frozen
class Place:
    """Where the library looks for a model's files."""

    source: str
    """A folder of this machine or a Hub id."""
    is_folder: bool
    revision: str
    subfolder: str
    gguf_file: str = ""
    """The one file that holds config, weights and tokenizer; empty: each has its own."""

    @property
    def keywords(self) -> dict[str, Any]:
        """What every `from_pretrained` is told."""
        where = {} if self.is_folder else {"revision": self.revision}
        # By its whole path: the library would take a file of that name in the current folder first.
        gguf = {"gguf_file": str(Path(self.source, self.gguf_file).resolve())} if self.gguf_file else {}
        return {**where, **gguf, "subfolder": self.subfolder, "trust_remote_code": False}

    def here(self) -> Place:
        """The same place on this machine, for a GGUF file, which is fetched if it is on the Hub."""
        if self.is_folder or not self.gguf_file:
            return self
        path = Path(hf_hub_download(self.source, self.gguf_file, revision=self.revision))
        return Place(str(path.parent), True, self.revision, "", path.name)

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the repository; None where it has none, or none that can be read."""
        with suppress(Exception):
            path = (
                Path(self.source, self.subfolder, name)
                if self.is_folder
                else Path(hf_hub_download(self.source, name, revision=self.revision, subfolder=self.subfolder or None))
            )
            found = json.loads(path.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else None
        return None

    def spoiled(self) -> str | None:
        """What is wrong with the first JSON file of a local model that is not a table; the Hub compares checksums."""
        for name in JSON_FILES if self.is_folder else ():
            if Path(self.source, self.subfolder, name).exists() and self.json(name) is None:
                return f"its file {name} is damaged or cut off: it is not a JSON table"
        return None


def locate(model: str, *, revision: str = "main", subfolder: str = "", gguf_file: str = "") -> Place:
    """A shipped model, a folder of this machine or a Hub id; `ConfigError` for what can be none of them."""
    if model.startswith("tiny-pair/"):
        folder = TINY_PAIR / model.removeprefix("tiny-pair/")
        if not (folder / "model.safetensors").is_file():
            raise ConfigError(f"the shipped pair has 'tiny-pair/base' and 'tiny-pair/chat', not '{model}'")
        return Place(str(folder), True, revision, "")
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / subfolder).is_dir():
            raise ConfigError(f"the folder '{model}' has no folder '{subfolder}'")
        _check_gguf(folder / subfolder, gguf_file)
        if gguf_file:
            # The library looks for the tokenizer of such a file above the subfolder.
            return Place(str(folder / subfolder), True, revision, "", gguf_file)
        return Place(str(folder), True, revision, subfolder)
    if folder.is_file():
        gguf = f" by `model` and '{folder.name}' by `gguf_file`" if folder.suffix == ".gguf" else ""
        raise ConfigError(f"'{model}' is a file; name the folder that it is in{gguf}")
    # The Hub must never be asked for what was meant as a folder: somebody could have taken that name there.
    if not HUB_ID.fullmatch(model):
        raise ConfigError(f"there is no folder '{model}' on this machine, and it cannot be a Hub id")
    if gguf_file:
        return Place(model, False, revision, "", f"{subfolder}/{gguf_file}".lstrip("/"))
    return Place(model, False, revision, subfolder)


def _check_gguf(folder: Path, gguf_file: str) -> None:
    """A folder of GGUF files holds the same model several times, so that one of them has to be named."""
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if gguf_file and gguf_file not in files:
        raise ConfigError(f"the folder '{folder}' has no file '{gguf_file}'; it has {', '.join(files) or 'no .gguf'}")
    if files and not gguf_file and not (folder / "config.json").is_file():
        raise ConfigError(f"the folder '{folder}' holds GGUF files: name one by `gguf_file`: {', '.join(files[:9])}")


def library() -> Any:
    """The transformers library; `ConfigError` names the extra where it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise ConfigError("the model adapter 'transformers' needs the extra crosscoders[transformers]") from error
    return transformers


@contextmanager
def silence() -> Iterator[None]:
    """Within, the transformers library shows no bar over weights and warns of nothing: what matters is refused here.

    Bars of downloads, which can take long, stay.
    """
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    downloads = not hub.are_progress_bars_disabled()  # type: ignore[attr-defined]
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # those of downloads too
    if downloads:
        hub.enable_progress_bars()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if not downloads:
            hub.disable_progress_bars()  # type: ignore[attr-defined]


@contextmanager
def without(module: str) -> Iterator[None]:
    """Within, a module cannot be imported: by `kernels`, bitsandbytes would fetch code from the Hub and run it."""
    found = sys.modules.get(module)
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if found is None:
            del sys.modules[module]
        else:
            sys.modules[module] = found


@contextmanager
def foreign_errors(what: str, place: Place | None = None) -> Iterator[None]:
    """Turn whatever a foreign library raises while it loads `what`, from `place`, into one sentence of ours."""
    try:
        yield
    except CrosscodersError:
        raise
    # Files of strangers reach every corner of the library, so that a list of its exceptions would never be complete.
    except Exception as error:
        reason = (place.spoiled() if place else None) or _reason(error)
        raise ConfigError(f"cannot load {what}: {reason}") from error


def _reason(error: Exception) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    text = text if len(text) <= 300 else text[:300] + " …"
    if "trust_remote_code" in str(error):
        return (
            "it needs Python code of its own repository, which is never run here; if you trust that code, load the "
            "model yourself in Python and pass it to TransformersAdapter.wrap"
        )
    if isinstance(error, ImportError):
        return f"it needs a library that is not installed: {text}"
    damaged = ("SafetensorError", "UnpicklingError", "EOFError", "BadZipFile")
    if type(error).__name__ in damaged or "PytorchStreamReader" in text:
        return f"a file of its weights is damaged or cut off ({text})"
    return text or type(error).__name__
