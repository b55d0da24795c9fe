"""The README's Python example runs as it stands, and its links point to something."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(example.strip().splitlines()) <= 17
    exec(compile(example, "README.md", "exec"), {})
    assert "Latents by class" in capsys.readouterr().out
    assert (tmp_path / "my-crosscoder" / "README.md").is_file()


def test_links_point_to_files():
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target
