"""Reports: data, pages, escaping."""

import json

import pytest

from crosscoders import Examples, Figure, Note, Report, Table
from crosscoders.reports import Context, Example, page_of
from crosscoders.reports.figures import curves, histogram, scatter

HOSTILE = "</script><script>alert(1)</script>"


def report():
    return Report(
        title=HOSTILE,
        summary="found <b>it</b>",
        parts=[
            Table(title="T", columns=("name", "value"), rows=[(HOSTILE, 0.123456789), ("nan", float("nan"))]),
            Figure(title="F", svg=histogram({"a": [1.0, 2.0, float("nan")]}, xlabel="x", ylabel="y").svg()),
            Note(text=HOSTILE),
            Examples(
                title="E",
                entries=[
                    Example(heading="latent 1", contexts=[Context(tokens=[HOSTILE, "a\n"], activations=[0.0, 2.0])])
                ],
            ),
            Examples(title="none", entries=[Example(heading="latent 2")]),
        ],
        data={"numbers": [1.0, float("inf")]},
    )


def test_every_text_is_escaped():
    page = report().to_html()
    assert "<script" not in page and "&lt;script&gt;" in page and "<b>it</b>" not in page
    assert "a⏎" in page and "0.1235" in page


def test_json_is_valid_and_complete():
    data = json.loads(json.dumps(report().to_json(), allow_nan=False))
    assert data["data"]["numbers"] == [1.0, None]
    assert [part["kind"] for part in data["parts"]] == ["table", "note", "examples", "examples"]


def test_saved_page_stands_alone(tmp_path):
    page = report().save(tmp_path).read_text()
    assert page.startswith("<!doctype html>") and "<svg" in page and "http-equiv" not in page
    assert (tmp_path / "report.json").is_file()


def test_several_reports_share_a_page_with_links():
    page = page_of([report(), report()], title="both")
    assert 'href="#report-2"' in page and 'id="report-2"' in page


def test_pages_explain_their_words_first():
    explained = Report(title="one", parts=[Note(text="n")], terms={"ν": "a ratio <i>"})
    page = page_of([explained, report()], title="both", head=["What was found.", "And how."])
    places = [page.index(text) for text in ("What was found.", "How to read this page", "<dt>ν</dt>", "<h2>one")]
    assert places == sorted(places) and "<dt>latent</dt>" in page and "a ratio &lt;i&gt;" in page
    assert "<dl>" not in explained._repr_html_(), "a notebook shows what was asked for"


def test_many_examples_are_folded():
    entries = [Example(heading=f"latent {j}", contexts=[Context(tokens=["a"], activations=[1.0])]) for j in range(9)]
    page = Report(title="t", parts=[Examples(title="E", entries=entries)]).to_html()
    assert page.index("latent 4") < page.index("<summary>4 more") < page.index("latent 5")


def test_notebooks_get_a_fragment():
    fragment = report()._repr_html_()
    assert "<html" not in fragment and "<svg" in fragment and "<style>" in fragment


def test_rows_must_fit_their_columns():
    with pytest.raises(ValueError, match="2 columns and a row of 1"):
        Table(title="T", columns=("a", "b"), rows=[(1,)])


def test_drawings_are_reproducible_and_real_pictures():
    make = [
        lambda: histogram({"a": [1, 2, 2], "b": [3]}, xlabel="x", ylabel="y"),
        lambda: scatter({"a": ([1], [2])}, xlabel="x", ylabel="y", vertical=0.5, horizontal=0.5),
        lambda: curves({"a": ([0, 1], [1, 2])}, xlabel="x", ylabel="y", bands={"a": ([0, 1], [2, 3])}, log=True),
        lambda: histogram({"a": []}, xlabel="x", ylabel="y"),
    ]
    for drawing in make:
        assert drawing().svg() == drawing().svg()
        assert drawing().png().startswith(b"\x89PNG")
