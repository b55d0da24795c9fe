"""A dashboard on the Hub: in the repository of its crosscoder, or as a static Space, which shows it in a browser.

What is pushed is a finished dashboard and nothing else that may lie in its folder, and names no path of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from ..errors import CheckpointError
from ..pages import put_value, unpacked
from ..privacy.local import path_strings
from ..reading import read_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FOLDER = "dashboard"
"""Its folder in the repository of a crosscoder."""
PAGE, FACTS = "index.html", "data/facts.js"
NEEDED = ("columns", "search", "vocabulary")
_OURS = re.compile(r"index\.html|assets/[\w.-]+|data/[\w.-]+\.js|graphs/[^/\\]+\.html")
"""Files that belong to a dashboard."""
_SPACE = """\
---
title: {title}
sdk: static
app_file: index.html
models:
- {repo}
tags:
- crosscoders
- interpretability
---

Every latent of the crosscoder [{repo}]({where}{repo}), to look at. The files also open from a disk: download them and
open `index.html`.
"""


@frozen(kw_only=True)
class Dashboard:
    """A finished dashboard."""

    title: str
    files: Mapping[str, Path] = field(repr=False)
    """By name in its folder."""

    @classmethod
    def read(cls, folder: Path) -> Dashboard:
        """The dashboard in a folder; `CheckpointError` where it is not finished, or names paths of this machine."""
        facts = finished_facts(folder)
        files: dict[str, Path] = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if not path.is_dir() and _OURS.fullmatch(name):
                if not path.resolve().is_relative_to(folder.resolve()):
                    raise CheckpointError(f"{path} leads out of the dashboard's folder, so it is not pushed")
                files[name] = path
        paths = path_strings({key: value for key, value in facts.items() if key != "columns"})
        if paths:
            raise CheckpointError(
                f"the dashboard {folder} names paths of this machine, such as {paths[0]}; write it again, which leaves "
                "them out"
            )
        home = str(Path.home())
        for name, path in files.items() if len(home) > 1 else ():
            if _says(path, f"{home}/"):
                raise CheckpointError(f"{name} of the dashboard {folder} names your home folder, {home}")
        return cls(title=str(facts.get("title") or folder.name), files=files)

    def section(self, where: str, repo_id: str, branch: str, space: str) -> str:
        """What the card says of it."""
        if space:
            return f"## Dashboard\n\n[Every latent of this crosscoder, to look at]({where}spaces/{space}).\n"
        return (
            f"## Dashboard\n\nThe folder [`{FOLDER}`]({where}{repo_id}/tree/{branch or 'main'}/{FOLDER}) shows every "
            f"latent of this crosscoder. Download it and open its `{PAGE}`:\n\n"
            f'```\nhf download {repo_id} --include "{FOLDER}/*" --local-dir .\n```\n'
        )

    def operations(
        self, api: HfApi, repo_id: str, repo_type: str, prefix: str, *, revision: str | None = None
    ) -> list[Any]:
        """What a commit adds under `prefix`, and deletes of a dashboard that was there before."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        there = api.list_repo_files(repo_id, repo_type=repo_type, revision=revision)
        old = {name for name in there if name.startswith(prefix) and _OURS.fullmatch(name.removeprefix(prefix))} - {
            f"{prefix}{name}" for name in self.files
        }
        adds = [
            CommitOperationAdd(path_in_repo=f"{prefix}{name}", path_or_fileobj=str(path))
            for name, path in self.files.items()
        ]
        return [*adds, *(CommitOperationDelete(path_in_repo=name) for name in sorted(old))]

    def push_to_space(self, api: HfApi, space: str, repo_id: str, *, private: bool) -> None:
        """Put it into a static Space in one commit, made if it is missing; `CheckpointError` where it is of another
        kind."""
        from huggingface_hub import CommitOperationAdd

        api.create_repo(space, repo_type="space", space_sdk="static", private=private, exist_ok=True)
        sdk = api.space_info(space).sdk
        if sdk not in (None, "static"):
            raise CheckpointError(f"the Space '{space}' runs {sdk}; name another, or a new one, for the dashboard")
        title = re.sub(r"[^\w .,/()-]+", " ", self.title)[:80].strip() or "Crosscoder"
        readme = _SPACE.format(title=f'"{title}"', repo=repo_id, where=f"{api.endpoint}/")
        operations = [
            CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=readme.encode()),
            *self.operations(api, space, "space", ""),
        ]
        api.create_commit(space, operations=operations, repo_type="space", commit_message="Upload dashboard")


def finished_facts(folder: Path) -> dict[str, Any]:
    """What a finished dashboard says of itself; `CheckpointError` where the folder is not one."""
    hint = "`crosscoders dashboard` writes one"
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder} with a dashboard; {hint}")
    missing = [name for name in (PAGE, FACTS) if not (folder / name).is_file()]
    if missing or (folder / "progress.json").exists():
        reason = f"it has no {missing[0]}" if missing else "writing it has not ended: the same command goes on"
        raise CheckpointError(f"{folder} is not a finished dashboard: {reason}; {hint}")
    facts = put_value(read_text(folder / FACTS, CheckpointError), "facts", CheckpointError)
    if not isinstance(facts, dict):
        raise CheckpointError(f"{folder / FACTS} should be a table")
    absent = [name for name in _promised(facts) if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(f"{folder} is not a finished dashboard: it has no {absent[0]}; {hint}")
    return facts


def _promised(facts: Mapping[str, Any]) -> list[str]:
    """The files that facts say are there."""
    chunk, count, latents = (facts.get(key) for key in ("chunk", "num_latents", "latents"))
    if not (isinstance(chunk, int) and isinstance(count, int) and chunk > 0 and 0 <= count < 2**40):
        raise CheckpointError("the facts of the dashboard do not say how many latents there are")
    if isinstance(latents, list) and all(isinstance(j, int) for j in latents):
        chunks = sorted({j // chunk for j in latents})
    else:
        chunks = list(range(min(-(-count // chunk), 2**20)))
    corpus, graphs, views = (facts.get(key) for key in ("corpus_files", "graphs", "views"))
    found = [f"data/{name}.js" for name in NEEDED]
    found += [f"data/latents-{number:04d}.js" for number in chunks]
    found += [f"data/corpus-{number:03d}.js" for number in range(min(corpus if isinstance(corpus, int) else 0, 2**20))]
    found += [f"data/{view}.js" for view in (views if isinstance(views, list) else [])]
    return found + [str(graph["file"]) for graph in (graphs or []) if isinstance(graph, dict) and "file" in graph]


def _says(path: Path, words: str) -> bool:
    """Whether a page, or what is packed in a script of data, has these words."""
    text = read_text(path, CheckpointError)
    return words in text or (path.suffix == ".js" and words.encode() in unpacked(text))
