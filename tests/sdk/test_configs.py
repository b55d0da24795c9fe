"""Configs: strict reading, precise errors."""

import pytest

from crosscoders import ConfigError, LossChoice, RunConfig
from crosscoders.testing import synthetic_run


def changed(**changes):
    return RunConfig.from_dict(synthetic_run("out", **changes))


def test_round_trip():
    config = changed()
    assert RunConfig.from_dict(config.to_dict()) == config


def test_toml(tmp_path):
    (tmp_path / "run.toml").write_text(
        'sites = ["m/x"]\n[models.m]\nname = "synthetic"\n[tokens]\nname = "synthetic"\n'
        '[architecture]\nname = "sae"\n[loss]\nname = "batchtopk"\nk = 3\n'
    )
    config = RunConfig.from_toml(tmp_path / "run.toml")
    assert config.loss.options.k == 3 and config.training.batch_size == 2048


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": {"kk": 3}}, "kk"),
        ({"loss": {"k": 0}}, "k.*>= 1"),
        ({"loss": {"k": "32"}}, "expected int, not '32'"),
        ({"loss": {"k": True}}, "expected int, not True"),
        ({"loss": {"name": "nope"}}, "no loss is called 'nope'; available: batchtopk, delta"),
        ({"training": {"lr": "fast"}}, "expected float, not 'fast'"),
        ({"training": {"batch_size": 100, "accumulation": 3}}, "not a multiple of accumulation"),
        ({"training": {"mixed_precision": "fp8"}}, "mixed_precision"),
        ({"tokens": "library"}, "with the name of the token source"),
        ({"sites": []}, "sites"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_problems_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        changed(**change)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        RunConfig.from_toml(tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML"):
        RunConfig.from_toml(tmp_path / "bad.toml")


def test_choice_by_name():
    choice = LossChoice.of("batchtopk", k=7)
    assert choice.options.k == 7 and choice.build().options.k == 7


def test_learning_rate_rises_holds_and_falls():
    training = changed(training={"num_tokens": 25_600, "lr": 1.0, "warmup_share": 0.1, "decay_share": 0.2}).training
    rates = [training.lr_at(step) for step in range(training.num_steps)]
    assert rates[0] == 0.1 and rates[9] == rates[50] == rates[80] == 1.0
    assert rates[90] == pytest.approx(0.5) and 0 < rates[99] < 0.1


def test_dead_window_is_a_share_of_short_runs():
    assert changed().training.dead_after == 20_480 // 20
    assert changed(training={"num_tokens": 10**12}).training.dead_after == 10_000_000
