"""Latents as notebooks show them."""

import json
import re
from html.parser import HTMLParser

import attrs
import pytest

from chromium import PATH, Chromium
from crosscoders import LatentError, LatentViews, view_latent, view_latents
from crosscoders.pages import visible, word
from study_of_texts import shared_study

EVIL = '</p><script>window.evil=1</script><img src=x onerror="window.evil=1">\'"&\u202e\u2028\ud800\x07\n\t'
TEXTS = (EVIL, "plain", " both ", "", "  ", "\r\n", "\x7f\x85", "a\u200bb\ufeff", "e\u0301 ü 你", "😀\u2067")


@pytest.fixture(scope="module")
def study():
    return shared_study()


@pytest.fixture(scope="module")
def view(study):
    return view_latent(study, study.latents("Return the sum of a list").strongest(1)[0])


class Outline(HTMLParser):
    """Tags in their order, and the texts of tokens with their strength and title."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.tokens, self.rows = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        given = dict(attributes)
        if given.get("class", "").startswith("context"):
            self.rows.append([])
        self.open.append((tag, given))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, text):
        if self.open and self.open[-1][1].get("class", "").startswith("token"):
            self.rows[-1].append((text, self.open[-1][1]))


def test_a_view_shows_the_strongest_places_that_the_study_finds(study, view):
    examples = study.examples([view.latent], n=10).entries[0].contexts
    rows = Outline(view._repr_html_()).rows[: len(examples)]
    assert len(rows) == 10
    for row, example, record in zip(rows, examples, view.record.top):
        assert record.max == pytest.approx(max(example.activations))
        peak = max(row, key=lambda each: float(each[1].get("title", 0)))
        assert float(peak[1]["title"]) == pytest.approx(record.max, abs=6e-4) and peak[1]["style"] == "--heat:1.00"
        assert "".join(text for text, _ in row) == "".join(record.tokens)


def test_it_says_density_norms_and_logits_as_the_study_does(study, view):
    census = study.census()
    assert view.record.firings == int(census.firings_F[view.latent])
    assert view.density == pytest.approx(view.record.firings / census.num_tokens)
    html = view._repr_html_()
    for site, norm in zip(view.sites, view.record.norms):
        assert norm == pytest.approx(float(study.crosscoder.direction(view.latent, site).norm()), rel=1e-4)
        assert site in html and f"{norm:.4g}" in html
    promoted = [row["token"] for row in study.logit_effects(view.latent, n=10) if row["kind"] == "promoted"]
    shown = re.findall(r'class="chip" title="\+[^"]*">([^<]*)<', html)
    assert promoted and {word(token) for token in promoted} <= set(shown)
    assert html.count("<rect") >= len([count for count in view.record.histogram.counts if count])
    assert repr(view).startswith(f"LatentView({view.latent}, active on ")


def test_what_each_model_brings_stands_side_by_side(view):
    html = view._repr_html_()
    assert html.count('class="sides"') == 5 and "What each model brings" in html
    example = view.record.top[0]
    assert list(example.shares) == ["base", "chat"]
    rows = Outline(html[html.index('class="sides"') :]).rows[:2]
    for row, model in zip(rows, example.shares):
        titles = [float(given["title"]) for _, given in row if "title" in given]
        assert max(titles) == pytest.approx(float(example.shares[model].max()), abs=6e-4)


def test_several_latents_are_lines_that_open(study):
    views = view_latents(study, [7, 3, 12])
    assert isinstance(views, LatentViews) and [each.latent for each in views] == [7, 3, 12] == list(
        views.to_pandas()["latent"]
    )
    html = views._repr_html_()
    assert re.findall(r"<summary><span>(\d+)</span>", html) == ["7", "3", "12"]
    assert len(views[:2]) == 2 and views[0].latent == 7 and repr(views) == "LatentViews(7, 3, 12)"
    frame = views.to_pandas()
    assert frame["peaks"][0] == views[0].peaks() and frame["norm base/layers.1"][1] == views[1].record.norms[0]
    assert set(Outline(html).tags) <= {
        *("style", "div", "h3", "p", "span", "details", "summary", "svg", "rect", "figure", "figcaption"),
        *("table", "caption", "tr", "th", "td"),
    }  # fmt: skip


def test_an_unknown_latent_and_a_silent_one(study):
    with pytest.raises(LatentError, match="there is no latent 48"):
        view_latent(study, 48)
    view = view_latent(study, 5)
    empty = attrs.evolve(view, record=attrs.evolve(view.record, firings=0, top=(), ranges=()))
    assert "active on none of the" in empty._repr_html_() and empty.peaks() == []


def test_hostile_text_stays_text(view):
    top = attrs.evolve(view.record.top[0], tokens=(EVIL,) * len(view.record.top[0].tokens))
    hostile = attrs.evolve(
        view,
        record=attrs.evolve(view.record, top=(top,)),
        explanation=EVIL,
        texts=dict.fromkeys(view.texts, EVIL),
        sites=[EVIL] * 3,
    )
    for html in (hostile._repr_html_(), LatentViews(views=[hostile, hostile])._repr_html_()):
        assert "<script" not in html and "<img" not in html and "window.evil=1&lt;/script" in html
        outline = Outline(html)
        assert not {"script", "img"} & set(outline.tags)
        assert not any(name.startswith("on") for _, given in outline.open for name in given)
        html.encode()
        assert not re.search("[\u202e\u2028\x07]", html)
    assert "".join(text for text, _ in Outline(hostile._repr_html_()).rows[0][:1]) == visible(EVIL)


browser = pytest.mark.skipif(PATH is None, reason="there is no Chromium here")


@browser
def test_dark_and_light_follow_the_notebook_and_leave_it_alone(view, tmp_path):
    """JupyterLab, VS Code and Colab say by attributes whether they are dark; else the system decides."""
    notebooks = {
        "<body data-jp-theme-light=true>": False,
        "<body data-jp-theme-light=false>": True,
        "<body class=vscode-light>": False,
        "<body class=vscode-dark>": True,
        "<body>": False,
    }
    file = tmp_path / "page.html"

    def write(number, body):
        start = f"<!doctype html><html data-ready=1 data-number={number}><meta charset=utf-8>{body}"
        theirs = '<p class="context token on" id=theirs>x</p>'
        file.write_text(f"{start}{theirs}{view._repr_html_()}", encoding="utf-8")

    write(0, "<body>")
    brightness = (
        "(() => { const [r, g, b] = getComputedStyle(document.querySelector('.crosscoders'))."
        "NAME.match(/[0-9.]+/g).map(Number); return r + g + b; })()"
    )
    with Chromium(file.as_uri()) as tab:
        for number, (body, dark) in enumerate(notebooks.items(), 1):
            write(number, body)
            tab.call("Page.reload")
            tab.wait(f"document.documentElement?.dataset.number === '{number}' && document.querySelector('.latent')")
            ink, paper = (tab.eval(brightness.replace("NAME", name)) for name in ("color", "backgroundColor"))
            assert (ink > paper) == dark, body
            # What the notebook has of the same names is left as it is.
            assert tab.eval("getComputedStyle(document.querySelector('#theirs')).boxShadow") == "none"
            assert tab.eval("getComputedStyle(document.documentElement).colorScheme") == "normal"
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        assert tab.eval(brightness.replace("NAME", "color")) > tab.eval(brightness.replace("NAME", "backgroundColor"))
        assert tab.complaints() == []


@browser
def test_text_is_made_visible_in_python_as_in_the_browser(tmp_path):
    from crosscoders.pages import asset

    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><html data-ready=1><body><script>{asset('show.js')}</script>", encoding="utf-8")
    with Chromium(page.as_uri()) as tab:
        for text in TEXTS:
            given = json.dumps(text)
            assert tab.eval(f"cc.visible({given})") == visible(text)
            assert tab.eval(f"cc.word({given})") == word(text)
