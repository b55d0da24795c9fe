"""The examples of the README and of the tutorial on layers run, and links point to something."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(example.strip().splitlines()) <= 19
    # As it stands, but on fewer tokens: what it says of the models is not looked at here.
    smaller = {
        "100_000": "2_048",
        '["decoder_norms"])': '["decoder_norms"], num_tokens=1024)',
        '"lr": 2e-3}': '"lr": 2e-3, "evaluation_tokens": 512, "fidelity_tokens": 128}',
        '"training":': '"activations": {"block_tokens": 2048, "calibration_tokens": 1024},\n        "training":',
    }
    for whole, less in smaller.items():
        assert whole in example
        example = example.replace(whole, less)
    exec(compile(example, "README.md", "exec"), {})
    assert "Latents by class" in capsys.readouterr().out
    assert (tmp_path / "my-crosscoder" / "README.md").is_file()


def test_links_point_to_files():
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_the_tutorial_on_layers_runs(tmp_path, monkeypatch, capsys):
    """Every block, in order and with fewer tokens: configs are written or checked, commands and Python run."""
    import tomllib

    from crosscoders import RunConfig
    from crosscoders.cli import main

    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/tutorial/layers.md").read_text()
    small = {
        "num_tokens = 400_000": "num_tokens = 6_144",
        "num_latents = 2048": "num_latents = 256",
        "evaluation_tokens = 32_768": "evaluation_tokens = 512\nfidelity_tokens = 128",
        "num_tokens=32_768": "num_tokens=1_024",
        "with_tokens(8_192)": "with_tokens(512)",
        'output = "runs/layers"': """output = "runs/layers"
activations = { block_tokens = 4_096, calibration_tokens = 4_096 }""",
    }
    for full, reduced in small.items():
        assert text.count(full) == 1, full
        text = text.replace(full, reduced)
    ours, from_the_hub = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "layers.toml").write_text(ours)
    assert RunConfig.from_dict(tomllib.loads(from_the_hub)).loss.options.k == 64
    names = {}
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(compile(block, "layers.md", "exec"), names)
        elif not language:
            (command,) = block.strip().splitlines()
            main(command.removeprefix("crosscoders ").split(), standalone_mode=False)
    out = capsys.readouterr().out
    assert "explained variance  base/layers.3" in out and "Latents by class" in out and "nats per token" in out
    totals = {name: total / names["totals"]["tokens"] for name, total in names["totals"].items()}
    assert totals["model"] < totals["base/layers.3"] and totals["model"] < totals["zeros at layers.2"]
    assert (tmp_path / "runs/layers/norms/report.html").is_file()


def test_the_config_in_the_documentation_is_valid():
    import tomllib

    from crosscoders import RunConfig

    example = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/howto/train.md").read_text(), re.DOTALL)[0]
    config = RunConfig.from_dict(tomllib.loads(example))
    assert config.loss.options.k == 100 and len(config.tokens.options.sources) == 2


def test_code_fits_the_pages():
    """88 columns, as far as a page shows without scrolling; what a command says may be longer."""
    wide = []
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for block in re.findall(r"^```(?:python|toml)\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE):
            wide += [f"{path.name}: {line}" for line in block.splitlines() if len(line) > 88]
    assert wide == []


def test_no_page_names_this_machine_or_a_registry():
    pattern = re.compile(r"/(?:wor[k]|roo[t]|hom[e])/|pyp[i][.]org|pythonhoste[d]|npmj[s]|debia[n][.]org")
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/**/*.md")]:
        if ".venv" not in path.parts:
            assert not pattern.search(path.read_text()), path


def test_the_page_for_authors_shows_the_code_that_is_tested():
    page = (ROOT / "docs" / "howto" / "write-a-plugin.md").read_text()
    # Lines are shorter on a page, so blanks and breaks are not compared.
    plugin = ROOT / "examples" / "crosscoders-example-plugin" / "src" / "crosscoders_example"
    code = "".join("".join(path.read_text().split()) for path in plugin.glob("*.py"))
    shown = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if block.startswith("class ")]
    here = [block for block in shown if not block.startswith(("class Tied", "class Test", "class SharedBudget"))]
    assert len(here) >= 4
    for block in here:
        missing = [line for line in block.splitlines() if "".join(line.split()) not in code]
        assert not missing, missing
