"""Frames: tables, examples and reports as pandas frames; short to print, right in notebooks."""

import sys

import pandas
import pytest

from crosscoders import AnalysisError, ConfigError, Context, Example, Examples, Note, Report, Table

TABLE = Table(title="T", columns=("name", "value"), rows=[("<b>", 1.5), ("b", None)])


def test_tables_are_frames():
    frame = TABLE.to_pandas()
    pandas.testing.assert_frame_equal(frame, pandas.DataFrame({"name": ["<b>", "b"], "value": [1.5, None]}))
    assert [row["name"] for row in TABLE] == TABLE.column("name") == ["<b>", "b"] and len(TABLE) == 2
    assert repr(TABLE) == "Table('T', 2 rows of name, value)"
    assert "&lt;b&gt;" in TABLE._repr_html_() and "<h2>" not in TABLE._repr_html_()
    assert list(Table(title="", columns=("a",), rows=[]).to_pandas().columns) == ["a"]


def test_examples_are_frames():
    contexts = [Context(tokens=["a", " b"], activations=[0.0, 2.0]), Context(tokens=["c"], activations=[1.0])]
    found = Examples(title="E", entries=[Example(heading="latent 3", contexts=contexts), Example(heading="latent 4")])
    frame = found.to_pandas()
    assert frame.to_dict("list") == {
        "heading": ["latent 3", "latent 3"],
        "rank": [0, 1],
        "peak": [2.0, 1.0],
        "token": [" b", "c"],
        "text": ["a b", "c"],
    }
    assert 'class="token on"' in found._repr_html_() and repr(found) == "Examples('E', latent 3, latent 4)"


def test_reports_are_short_and_have_their_frame():
    report = Report(title="R", parts=[TABLE, Note(text="n")], data={"x": list(range(10_000))}, frame=TABLE)
    assert repr(report) == "Report('R', 2 parts, data: x)"
    assert report.tables == {"T": TABLE} and len(report.to_pandas()) == 2
    with pytest.raises(AnalysisError, match="'Q' has no frame; its tables are T"):
        Report(title="Q", parts=[TABLE]).to_pandas()


def test_unknown_parts_are_refused():
    with pytest.raises(AnalysisError, match="Table, Figure, Note, Examples or Entries, not str"):
        Report(title="R", parts=["a paragraph"])


def test_without_pandas_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"needs the extra crosscoders\[pandas\]"):
        TABLE.to_pandas()
