"""What people and programs get wrong in files ends in one sentence that says what to do."""

import json
import shutil

import pytest

from crosscoders import CheckpointError, ConfigError, Crosscoder, CrosscodersError, RunConfig, SiteError
from crosscoders.errors import LONGEST_LINE, listed, nearest, printable, shown
from crosscoders.reading import checksum, parse_json, read_json
from crosscoders.testing import synthetic_run

DEEP = 100_000


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a": "\xe4"}', "not UTF-8 text"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read"),
        (b"[" * DEEP, "nested too deeply"),
        (b'{"a": 1, "a": 2}', "a key comes twice"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16; save it as UTF-8"),
        (b"", "cannot be read"),
        (b"\0", "cannot be read"),
    ],
)
def test_json_of_others(tmp_path, raw, message):
    (tmp_path / "x.json").write_bytes(raw)
    with pytest.raises(CheckpointError, match=message):
        read_json(tmp_path / "x.json", CheckpointError)


def test_json_is_read_with_a_byte_order_mark_and_never_past_a_size(tmp_path, monkeypatch):
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": [1, null]}')
    assert read_json(tmp_path / "x.json", CheckpointError) == {"a": [1, None]}
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=r"^\S+folder cannot be read: it is not a file$"):
        read_json(tmp_path / "folder", CheckpointError)
    with pytest.raises(ConfigError, match="here cannot be read"):
        parse_json("{", "here", ConfigError)


TEXT = 'sites = ["base/layers.1"]\n'


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\xef\xbb\xbf" + TEXT.encode(), "required field missing"),
        (TEXT.encode("utf-16"), "UTF-16; save it as UTF-8"),
        (b'x = "\xe4"', "not UTF-8 text"),
        (rb'output = "C:\Users\me"', "write a path with / or in single quotes"),
        (b"x = " + b"9" * 5000, "not valid TOML"),
        (b"x = " + b"[" * 3000 + b"]" * 3000, "nested too deeply"),
    ],
)
def test_toml_of_people(tmp_path, raw, message):
    (tmp_path / "run.toml").write_bytes(raw)
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_toml(tmp_path / "run.toml")


@pytest.mark.parametrize("data", [1, "x", [], None, 1.5, True])
def test_a_config_is_a_table(data):
    with pytest.raises(ConfigError, match="expected a table"):
        RunConfig.from_dict(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"num_tokns": 1}}, "unknown option num_tokns; did you mean 'num_tokens'.*batch_size"),
        ({"loss": {"name": "batchtopkk"}}, "did you mean 'batchtopk'"),
        ({"sites": "base/x"}, "expected a list, not 'base/x'"),
        ({"training": {"betas": [0.9]}}, "expected 2 values"),
        ({"training": {"lr": float("nan")}}, "not nan"),
        ({"training": {"lr": 10**400}}, r"401 characters|very long"),
        ({"models": [1]}, "models"),
        ({"cache": "a\0b"}, "no path can have a null character"),
    ],
)
def test_problems_say_what_is_possible(change, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_dict(synthetic_run("out", **change))


@pytest.mark.parametrize(
    ("change", "command"),
    [
        ({"loss": {"kk": 3}}, "loss batchtopk"),
        ({"loss": {"k": "3"}}, "loss batchtopk"),
        ({"loss": {"terms": [{"name": "auxk", "weigth": 1.0}]}}, "loss-term auxk"),
        ({"architecture": {"num_latents": -1}}, "architecture acausal"),
        ({"training": {"lr": -1.0}}, "run"),
        ({"sitess": []}, "run"),
    ],
)
def test_problems_with_options_point_to_the_command_that_lists_them(change, command):
    with pytest.raises(ConfigError) as error:
        RunConfig.from_dict(synthetic_run("out", **change))
    assert str(error.value).endswith(f"see `crosscoders components {command}`")


def test_several_problems_are_one_per_line_and_the_first_five():
    wrong = {f"option_{i}": i for i in range(9)}
    with pytest.raises(ConfigError) as error:
        RunConfig.from_dict({**synthetic_run("out", training={"lr": "x", "seed": "y"}), **wrong})
    assert str(error.value).startswith("3 problems:\n  ") and "and 4 more" in str(error.value)
    assert listed([str(i) for i in range(7)], ", ") == "0, 1, 2, 3, 4, and 2 more"
    assert nearest("topq", ["topk", "l1"]) == "; did you mean 'topk'?" and not nearest("zzz", ["topk"])


def test_nothing_in_a_message_steers_a_terminal():
    evil = "\x1b[2J\x1b]0;owned\x07\u202egnp\u200b\x9b1m\ud800"
    for text in (str(SiteError(f"no site {evil}")), printable(evil)):
        assert text.isprintable() and "owned" in text
    assert printable("Ünïcode, 日本語, two\nlines\tand 🙂") == "Ünïcode, 日本語, two\nlines\tand 🙂"
    assert len(str(CrosscodersError("x" * 10_000))) < LONGEST_LINE + 50
    assert len(shown("x" * 10_000)) < 120 and shown(10**5000) == "a very long number"


def test_checksums_do_not_depend_on_the_order_of_keys():
    assert checksum({"a": 1, "b": [1.5, None]}) == checksum(json.loads('{"b": [1.5, null], "a": 1}'))
    assert checksum({"a": 1}) != checksum({"a": 2})


@pytest.mark.parametrize("raw", [b'{"x": "\xe4"}', b'{"x": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"x": 1, "x": 2}'])
def test_a_config_of_whoever_is_one_clear_error(planted_run, tmp_path, raw):
    """A folder whose `config.json` says nothing of us is looked at as another library's, by the same reader."""
    folder = shutil.copytree(planted_run / "crosscoder", tmp_path / "c")
    (folder / "config.json").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"config\.json.* cannot be read: "):
        Crosscoder.from_pretrained(folder)
