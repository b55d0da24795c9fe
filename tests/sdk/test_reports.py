"""Reports: data, pages, escaping."""

import json

import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from crosscoders import AnalysisError, Examples, Figure, Note, Report, Table
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


def plot(points=3):
    figure = MatplotlibFigure(figsize=(3, 2))
    axes = figure.add_subplot()
    axes.plot(range(points), range(points), gid="curve")
    axes.set_title("<script>alert(1)</script>")
    axes.scatter([1], [1], urls=["https://example.org/"])
    return figure


@pytest.mark.parametrize("png", [False, True])
def test_a_matplotlib_figure_is_a_part(png):
    figure = plot()
    canvas = figure.canvas
    part = Figure.from_matplotlib(figure, title="Gain", alt='A "rising" line', note="Made up.", png=png)
    assert figure.canvas is canvas, "an interactive figure stays interactive"
    page = Report(title="R", parts=[part]).to_html()
    assert '<div role="img" aria-label="A &#34;rising&#34; line"><svg' in page and "Made up." in page
    assert ("data:image/png;base64," in part.svg) == png and ('id="curve"' in part.svg) != png
    assert "<script" not in page and "https://example.org" not in page and "src=" not in page
    assert Figure.from_matplotlib(plot(), title="Gain", alt="A line", png=png).svg == part.svg


def test_many_points_are_smaller_as_pixels():
    figure = MatplotlibFigure()
    figure.add_subplot().scatter(range(20_000), range(20_000))
    vector, pixels = (Figure.from_matplotlib(figure, title="T", alt="dots", png=png).svg for png in (False, True))
    assert len(pixels) < len(vector) / 10


def test_what_is_not_a_figure_is_refused():
    with pytest.raises(AnalysisError, match="a list is not a matplotlib figure"):
        Figure.from_matplotlib([], title="T", alt="nothing")


DRAWN = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9">{}</svg>'


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        "<script xmlns='http://www.w3.org/1999/xhtml'>alert(1)</script>",
        "<rect width='3' onload='alert(1)'/>",
        "<rect width='3' ONCLICK='alert(1)'/>",
        "<a xlink:href='javascript:alert(1)'><rect width='3'/></a>",
        "<use xlink:href='https://example.org/x.svg#y'/>",
        "<image href='https://example.org/alert.png'/>",
        "<image href='data:image/svg+xml;base64,alert'/>",
        "<foreignObject><iframe src='https://example.org/alert'/></foreignObject>",
        "<rect style='fill:url(https://example.org/alert)'/>",
        r"<rect style='fill:u\72l(https://example.org/alert)'/>",
        "<style>@import 'https://example.org/alert.css';</style>",
        "<animate attributeName='href' to='javascript:alert(1)'/>",
        "<set attributeName='onload' to='alert(1)'/>",
    ],
)
def test_a_drawing_is_all_that_is_left_of_an_svg(inside):
    part = Figure(title="T", svg=DRAWN.format(f"<path d='M0 0'/>{inside}<text>&lt;b&gt;</text>"))
    assert 'd="M0 0"' in part.svg and "&lt;b&gt;" in part.svg
    assert "alert" not in part.svg and "example.org" not in part.svg
    assert Figure(title="T", svg=part.svg).svg == part.svg


def test_references_within_a_drawing_stay():
    inside = "<defs><clipPath id='c'><rect width='2'/></clipPath></defs><g clip-path='url(#c)'><use href='#c'/></g>"
    svg = Figure(title="T", svg=DRAWN.format(inside)).svg
    assert 'clip-path="url(#c)"' in svg and 'xlink:href="#c"' in svg


@pytest.mark.parametrize(
    ("svg", "message"),
    [
        ("<svg", "is not well-formed XML"),
        ("<html></html>", "its root is 'html'"),
        ('<!DOCTYPE svg [<!ENTITY a "aaaa">]><svg>&a;</svg>', "declares entities"),
    ],
)
def test_what_is_not_a_drawing_is_refused(svg, message):
    with pytest.raises(AnalysisError, match=message):
        Figure(title="T", svg=svg)
