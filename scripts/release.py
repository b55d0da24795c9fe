"""Check that a release is consistent: `python scripts/release.py [TAG]`.

The version in `pyproject.toml`, the newest dated heading of `CHANGELOG.md`, the version in `CITATION.cff` and the tag
must agree, nothing may be left under "Unreleased", and the working tree must be clean. Without TAG, the tag that would
be set is printed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADING = re.compile(r"^## (?P<version>\d+\.\d+\.\d+\S*) - (?P<date>\S+)$", re.MULTILINE)
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def problems(root: Path, tag: str | None = None) -> list[str]:
    """What keeps the checkout in `root` from being released as `tag`, one sentence for each problem."""
    found = []
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    changelog = (root / "CHANGELOG.md").read_text()
    newest = HEADING.search(changelog)
    if newest is None:
        found.append("CHANGELOG.md has no heading such as '## 1.2.3 - 2026-01-31'")
    else:
        if newest["version"] != version:
            found.append(f"CHANGELOG.md is at {newest['version']}, but pyproject.toml is at {version}")
        if not DATE.fullmatch(newest["date"]):
            found.append(f"the heading of {newest['version']} in CHANGELOG.md has no date, but '{newest['date']}'")
        before = changelog[: newest.start()].partition("## Unreleased")[2]
        if before.strip():
            found.append("CHANGELOG.md has entries under 'Unreleased'; move them under the new version")
    cited = re.search(r"^version: (\S+)$", (root / "CITATION.cff").read_text(), re.MULTILINE)
    if cited is None or cited[1] != version:
        found.append(f"CITATION.cff should have 'version: {version}'")
    if tag is not None and tag != f"v{version}":
        found.append(f"the tag should be v{version}, not {tag}")
    if _git(root, "status", "--porcelain"):
        found.append("the working tree is not clean")
    if tag is None and _git(root, "tag", "--list", f"v{version}"):
        found.append(f"the tag v{version} exists already; raise the version")
    return found


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    """Print the problems, or the tag to set; the exit code is 1 if there are problems."""
    found = problems(ROOT, sys.argv[1] if len(sys.argv) > 1 else None)
    for problem in found:
        print(f"not ready: {problem}", file=sys.stderr)
    if not found:
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        print(f"ready: v{version}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
