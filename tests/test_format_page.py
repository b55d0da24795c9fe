"""The page for authors of formats, followed word by word: a distribution of its own that passes its suite."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_format_of_the_page_passes_its_suite(tmp_path):
    page = (ROOT / "docs" / "howto" / "write-a-format.md").read_text()
    record, reader, case, suite = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (entry,) = re.findall(r"\[project.entry-points.crosscoders\]\n(.*?)\n```", page, re.DOTALL)
    # Laid out as an installer leaves it, since tests have no network to install from.
    files = {
        "my_plugin/__init__.py": record,
        "my_plugin/theirs.py": reader,
        "my_plugin-0.1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: my-plugin\nVersion: 0.1.0\n",
        "my_plugin-0.1.0.dist-info/entry_points.txt": "[crosscoders]\n" + entry.replace('"', "") + "\n",
        "tests/make_case.py": case,
        "tests/test_theirs.py": suite,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def run(*command):
        path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONPATH": path}
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    run(sys.executable, "tests/make_case.py")
    options = ("-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "tests")
    assert "passed" in run(sys.executable, "-m", "pytest", *options)
    said = run(sys.executable, "-m", "crosscoders", "inspect", "tests/data/case")
    assert "sparse autoencoder, format theirs" in said
    assert "next: crosscoders convert tests/data/case FOLDER --site 0=model/layers.0" in said
