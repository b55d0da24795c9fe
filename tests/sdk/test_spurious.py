"""Genuine or spurious: one command trains the controls and says what of the exclusives holds."""

import json

import pytest
from click.testing import CliRunner

from crosscoders import ConfigError, RunConfig
from crosscoders.analysis.spurious import spurious
from crosscoders.cli import main
from crosscoders.testing import synthetic_run


def as_toml(data, prefix=""):
    plain = {key: value for key, value in data.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in data.items() if isinstance(value, dict)}
    lines = [f"[{prefix}]"] if prefix and plain else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in tables.items():
        lines += ["", as_toml(value, f"{prefix}.{key}" if prefix else key)]
    return "\n".join(lines)


def test_controls_are_trained_and_nothing_of_a_copy_is_specific(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(as_toml(synthetic_run(str(tmp_path / "run"), training={"num_tokens": 12_800})))
    arguments = ["spurious", str(path), "--loss", '{"name": "l1", "weight": 0.5}', "--tokens", "2048", "--quiet"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "training null pair" in result.output and "Genuine or spurious: Of " in result.output
    first, diff = json.loads((tmp_path / "run" / "report.json").read_text())
    rows = {row["crosscoder"]: row for row in first["data"]["crosscoders"]}
    assert list(rows) == ["main", "null pair", "seed 1", "loss l1"]
    assert rows["null pair"]["specific in all"] == 0
    assert all(row["of them specific"] <= row["exclusive by norms"] for row in rows.values())
    assert diff["title"] == "Diff" and diff["data"]["null"]["specific"] == 0
    again = CliRunner().invoke(main, arguments)
    assert again.output.count("finished already") == 4


def test_one_model_has_no_exclusives(tmp_path):
    config = RunConfig.from_dict(synthetic_run(str(tmp_path), sites=["base/x"]))
    with pytest.raises(ConfigError, match="two models"):
        spurious(config)
    with pytest.raises(ConfigError, match="given twice"):
        spurious(RunConfig.from_dict(synthetic_run(str(tmp_path))), losses=[{"name": "l1"}, {"name": "l1"}])
