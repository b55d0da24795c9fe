"""The release check finds each inconsistency, and only those."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
release = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release)

READY = {
    "pyproject.toml": '[project]\nversion = "1.2.3"\n',
    "CHANGELOG.md": "# Changelog\n\n## Unreleased\n\n## 1.2.3 - 2026-12-24\n\n- New.\n\n## 1.2.2 - 2026-11-01\n",
    "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.3\n",
}


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    def make(**changes):
        for name, text in {**READY, **changes}.items():
            (tmp_path / name).write_text(text)
        git(tmp_path, "init", "-q")
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-qm", "Release")
        return tmp_path

    return make


def test_a_consistent_checkout_is_ready(checkout):
    assert release.problems(checkout()) == []


def test_the_tag_must_be_that_of_the_version(checkout):
    folder = checkout()
    assert release.problems(folder, "v1.2.3") == []
    assert release.problems(folder, "v1.2.4") == ["the tag should be v1.2.3, not v1.2.4"]


def test_a_version_is_not_released_twice(checkout):
    folder = checkout()
    git(folder, "tag", "v1.2.3")
    assert "exists already" in release.problems(folder)[0]


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("pyproject.toml", "1.2.3", "1.3.0", "CHANGELOG.md is at 1.2.3"),
        ("CHANGELOG.md", "2026-12-24", "unreleased", "has no date"),
        ("CHANGELOG.md", "## Unreleased\n", "## Unreleased\n\n- More.\n", "entries under 'Unreleased'"),
        ("CHANGELOG.md", "## ", "# ", "no heading"),
        ("CITATION.cff", "1.2.3", "1.2.2", "CITATION.cff should have"),
    ],
)
def test_each_inconsistency_is_named(checkout, name, old, new, problem):
    found = release.problems(checkout(**{name: READY[name].replace(old, new)}))
    assert any(problem in sentence for sentence in found), found


def test_a_dirty_tree_is_not_released(checkout):
    folder = checkout()
    (folder / "new.txt").write_text("")
    assert release.problems(folder) == ["the working tree is not clean"]


def test_our_own_changelog_has_the_version_of_the_package():
    """Whatever else is open between releases, these agree."""
    assert not [p for p in release.problems(ROOT) if "is at" in p or "CITATION" in p or "no heading" in p]
