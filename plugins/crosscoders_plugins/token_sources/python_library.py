"""English text that every Python installation contains: the help topics and the docstrings of the standard library.

Files are parsed, never imported, so reading is safe and takes about three seconds for the standard library.
"""

from __future__ import annotations

import ast
import random
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from attrs import field, frozen
from attrs.validators import and_, deep_iterable, ge, instance_of, le, min_len

from crosscoders import Chat, ConfigError, Document, Text

from .planted_chats import PlantedChats

SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tests", "turtledemo"}
)


@frozen
class LibraryEntry:
    """One docstring and the name of what it documents."""

    name: str
    kind: str  # "module", "class" or "function"
    docstring: str


@frozen(kw_only=True)
class PythonLibraryConfig:
    """Help topics, docstrings and question/answer chats made from them."""

    packages: tuple[str, ...] = field(default=("stdlib",), validator=and_(min_len(1), deep_iterable(instance_of(str))))
    """Installed packages whose docstrings are read; `stdlib` is the standard library with the help topics."""
    chat_share: float = field(default=0.5, validator=and_(ge(0.0), le(1.0)))
    """Share of the characters that come from conversations; the rest is running text."""
    rare_rate: float = field(default=0.01, validator=and_(ge(0.0), le(1.0)))
    """Share of ordinary answers that open with the planted rare phrase."""
    seed: int = 0
    """Seed of the order of the documents and of the conversations."""

    def local_reads(self) -> list[str]:
        """Packages beside the standard library: what is installed may be nobody else's business."""
        return [f"the docstrings of the package {name}" for name in self.packages if name != "stdlib"]


@frozen
class PythonLibrary:
    """Token source `python_library`. It is endless: each pass over the library has a new order and new chats."""

    config: PythonLibraryConfig

    def documents(self, *, skip: int = 0) -> Iterator[Document]:
        """Yield documents without end, from number `skip` on."""
        share = self.config.chat_share
        number, texts, chats = 0, 0, 0
        for epoch in range(2**62):
            text_stream = texts_of(self.config.packages, seed=self.config.seed + epoch)
            chat_stream = PlantedChats(
                entries_of(self.config.packages), rare_rate=self.config.rare_rate, seed=self.config.seed + epoch
            ).conversations()
            while True:
                is_chat = chats * (1 - share) < texts * share or share == 1.0
                document: Document | None = next(chat_stream, None) if is_chat else next(text_stream, None)
                if document is None:
                    break
                chats += _length(document) if is_chat else 0
                texts += 0 if is_chat else _length(document)
                if number >= skip:
                    yield document
                number += 1


def _length(document: Document) -> int:
    if isinstance(document, Text):
        return len(document.text)
    return sum(len(m.content) for m in document.messages) if isinstance(document, Chat) else 0


@lru_cache(maxsize=4)
def entries_of(packages: Sequence[str]) -> tuple[LibraryEntry, ...]:
    """All docstrings of `packages`, in file order."""
    return tuple(entry for package in packages for entry in _read_package(package))


@lru_cache(maxsize=4)
def _paragraph_texts(packages: Sequence[str]) -> tuple[str, ...]:
    texts = [f"{entry.name}\n\n{entry.docstring}" for entry in entries_of(packages) if len(entry.docstring) > 80]
    if "stdlib" in packages:
        from pydoc_data.topics import topics

        for topic in topics.values():
            # A topic can be as long as a chapter, so cut it into pieces of a few paragraphs, which mix better.
            pieces = topic.split("\n\n")
            texts += ["\n\n".join(pieces[i : i + 6]) for i in range(0, len(pieces), 6)]
    return tuple(texts)


def texts_of(packages: Sequence[str], *, seed: int) -> Iterator[Text]:
    """One pass over the running text of `packages` in an order drawn from `seed`."""
    texts = list(_paragraph_texts(tuple(packages)))
    random.Random(f"texts {seed}").shuffle(texts)
    return map(Text, texts)


def _read_package(package: str) -> Iterator[LibraryEntry]:
    if package == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
    else:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"no package '{package}' is installed here to read docstrings from")
        root = Path(spec.submodule_search_locations[0])
    prefix = "" if package == "stdlib" else package + "."
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if SKIPPED_FOLDERS.isdisjoint(parts):
            yield from _read_module(path, prefix + ".".join(parts).removesuffix(".__init__"))


def _read_module(path: Path, module: str) -> Iterator[LibraryEntry]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's files
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return  # some libraries contain files that are broken on purpose; they have no text for us
    yield from _walk(tree, module, "module")


def _walk(node: ast.AST, name: str, kind: str) -> Iterator[LibraryEntry]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        if docstring:
            yield LibraryEntry(name, kind, docstring)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _walk(child, f"{name}.{child.name}", "class")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, f"{name}.{child.name}", "function")
        elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
            yield from _added_docstring(child.value)


def _added_docstring(call: ast.Call) -> Iterator[LibraryEntry]:
    """torch documents its C functions by `add_docstr(torch.abs, "...")` calls; read those like docstrings."""
    if len(call.args) < 2 or "docstr" not in ast.unparse(call.func):
        return
    for constant in ast.walk(call.args[1]):
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str) and len(constant.value) > 80:
            target = call.args[0]
            name = target.value if isinstance(target, ast.Constant) else ast.unparse(target)
            yield LibraryEntry(str(name), "function", constant.value.strip())
            return
