"""Run the quick tests with the newest version of every dependency: `python scripts/newest.py`, once a month.

A new virtual environment is made in a temporary folder (or in `--folder`, where it stays), torch is installed first and
alone, then the package with the extras of the tests and of other libraries, without the constraints of everyday work.
Printed are the dependencies that are others here than there, those whose newest version did not fit, and what the tests
say. The exit code is that of the tests, or of pip.

    python scripts/newest.py --torch torch==2.13.0      where the newest torch cannot be had
    python scripts/newest.py --pre                      release candidates too
    python scripts/newest.py -- -k adapters             what comes after `--` is for pytest
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("test", "lora", "nnsight", "transformer-lens")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the environment, say what is newer in it, and test."""
    parser = argparse.ArgumentParser(description="Run the quick tests with the newest version of every dependency.")
    parser.add_argument("--torch", default="torch", help="what pip is asked for as torch")
    parser.add_argument("--pre", action="store_true", help="take release candidates too")
    parser.add_argument("--folder", type=Path, help="where the environment is made, and stays")
    parser.add_argument("--workers", default="2", help="processes of the tests")
    parser.add_argument("pytest", nargs="*", help="further arguments for pytest")
    options = parser.parse_args(arguments)
    if options.folder is not None:
        return _run(options.folder, options)
    with tempfile.TemporaryDirectory(prefix="crosscoders-newest-") as folder:
        return _run(Path(folder), options)


def _run(folder: Path, options: argparse.Namespace) -> int:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    pip = [python, "-m", "pip", "install", "-q", "--upgrade", *(["--pre"] if options.pre else [])]
    for wanted in (["pip"], [options.torch], [options.torch, "-e", f"{ROOT}[{','.join(EXTRAS)}]"]):
        code = subprocess.run([*pip, *wanted], check=False).returncode
        if code:
            print(f"pip cannot install {' '.join(wanted)}", file=sys.stderr)
            return code
    names = direct_dependencies(ROOT / "pyproject.toml")
    there = {item["name"]: item["version"] for item in _listed(python)}
    here = {each.name: each.version for each in distributions()}
    print(*changes(here, there, names), sep="\n")
    print(*held_back(_listed(python, "--outdated"), names), sep="\n")
    tests = [python, "-m", "pytest", "-q", "-n", options.workers, "--dist", "worksteal", "-m", "not slow"]
    environment = {**os.environ, "PYTHONPATH": ""}
    return subprocess.run([*tests, *options.pytest], cwd=ROOT, env=environment, check=False).returncode


def direct_dependencies(pyproject: Path) -> set[str]:
    """Names of what the package and its extras ask for, in lower case with dashes."""
    project = tomllib.loads(pyproject.read_text())["project"]
    asked = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    return {_plain(found[0]) for each in asked if (found := NAME.match(each))} - {project["name"]}


def changes(here: Mapping[str, str], there: Mapping[str, str], names: set[str]) -> list[str]:
    """A line for each of the named dependencies that has another version there than here."""
    before = {_plain(name): version for name, version in here.items()}
    after = {_plain(name): version for name, version in there.items()}
    found = [name for name in sorted(names & after.keys()) if before.get(name) != after[name]]
    lines = [f"  {name} {before.get(name, '(not installed here)')} -> {after[name]}" for name in found]
    return ["versions that differ from those of this environment:", *lines] if lines else ["all versions as here"]


def held_back(outdated: Sequence[Mapping[str, str]], names: set[str]) -> list[str]:
    """A line for each of the named dependencies of which there is a newer version that did not fit."""
    lines = [
        f"  {each['name']} {each['version']}, newest {each['latest_version']}"
        for each in outdated
        if _plain(each["name"]) in names
    ]
    return ["held back by others, or by what was asked for:", *lines] if lines else ["none is held back"]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _listed(python: str, *more: str) -> list[dict[str, str]]:
    command = [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check", *more]
    found: list[dict[str, str]] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
