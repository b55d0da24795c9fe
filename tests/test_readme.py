"""The README's Python example runs as it stands, and its links point to something."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(example.strip().splitlines()) <= 17
    # As it stands, but on fewer tokens: what it says of the models is not looked at here.
    for whole, less in (("100_000", "10_000"), ('["decoder_norms"])', '["decoder_norms"], num_tokens=4096)')):
        assert whole in example
        example = example.replace(whole, less)
    exec(compile(example, "README.md", "exec"), {})
    assert "Latents by class" in capsys.readouterr().out
    assert (tmp_path / "my-crosscoder" / "README.md").is_file()


def test_links_point_to_files():
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_the_config_in_the_documentation_is_valid():
    import tomllib

    from crosscoders import RunConfig

    (example,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/howto/train.md").read_text(), re.DOTALL)
    config = RunConfig.from_dict(tomllib.loads(example))
    assert config.loss.options.k == 100 and len(config.tokens.options.sources) == 2


def test_no_page_names_this_machine_or_a_registry():
    pattern = re.compile(r"/(?:wor[k]|roo[t]|hom[e])/|pyp[i][.]org|pythonhoste[d]|npmj[s]|debia[n][.]org")
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/**/*.md")]:
        if ".venv" not in path.parts:
            assert not pattern.search(path.read_text()), path
