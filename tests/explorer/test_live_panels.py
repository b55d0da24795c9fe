"""The panels of the live mode in a browser, where there is one."""

import json
import threading

import pytest

from chromium import PATH, Chromium
from explorer_live_server import Server
from small_dashboard import small_dashboard
from study_of_texts import shared_study

pytestmark = pytest.mark.skipif(PATH is None, reason="there is no Chromium here")
TEXT = "Return the sum of a list"
EVIL = '</textarea><img src=x onerror="window.evil=1">\u202e'


@pytest.fixture(scope="module")
def server():
    with Server(shared_study()) as running:
        yield running


def typed(tab, selector, text):
    """Put a text into a field as typing would, at once."""
    field = f"document.querySelector({json.dumps(selector)})"
    tab.eval(f"{field}.value = {json.dumps(text)}; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def test_a_text_is_typed_and_its_latents_are_seen(server):
    study = shared_study()
    direct = study.latents(TEXT)
    with Chromium(server.url) as tab:
        tab.wait("document.querySelector('#try-text')")
        tab.click("#try-send")
        tab.wait("document.querySelector('.live-error')?.textContent.includes('Type a text first')")
        tab.click("#try-text")
        tab.type(TEXT)
        tab.click("#try-send")
        tab.wait("document.querySelector('#try-results')")
        names = tab.eval("[...document.querySelectorAll('.live-list .live-name')].map(e => e.textContent)")
        assert names == [str(latent) for latent in direct.strongest(24)]
        # The text stands there once for the latent, and once for what each model brings.
        rows = tab.eval("[...document.querySelectorAll('#try-results .context')].map(e => e.textContent)")
        assert rows == ["".join(direct.texts[0])] * 3
        tokens = "[...document.querySelector('#try-results .context').children]"
        heats = tab.eval(f"{tokens}.map(e => +e.style.getPropertyValue('--heat'))")
        values = direct.activation(int(names[0]))[0]
        assert heats == pytest.approx([value / max(values) for value in values], abs=1e-3)
        # A token is chosen by the keyboard: its latents, with what each model brings.
        tab.eval("document.querySelectorAll('#try-results .context .live-token')[3].focus()")
        tab.key("Enter", "\r")
        tab.wait("document.querySelector('#try-results table')")
        found = tab.eval(
            "[...document.querySelectorAll('#try-results tbody tr')].map(e => e.children[0].textContent.trim())"
        )
        expected = [str(row["latent"]) for row in direct.table() if row["position"] == 3]
        assert found == expected[:8] and len(found) > 1
        assert tab.eval("document.querySelector('#try-results tbody .live-part').textContent").startswith("base")
        # Another latent colours the text.
        tab.eval("document.querySelectorAll('.live-list button')[1].click()")
        tab.wait(f"document.querySelector('#try-results h3').textContent.includes('{names[1]}')")
        assert tab.complaints() == []
        assert all(request.startswith((server.url, "data:")) for request in tab.requests())


def test_steering_shows_both_models_answers_and_keeps_them(server):
    latent = shared_study().latents(TEXT).strongest(1)[0]
    with Chromium(server.url + f"#/steer?latent={latent}") as tab:
        tab.wait("document.querySelector('#steer-text')")
        tab.wait(f"document.querySelector('#steer-changes input').value === '{latent}'")
        typed(tab, "#steer-changes input[aria-label=value]", "60")
        typed(tab, "#steer-text", TEXT)
        tab.click("#steer-send")
        tab.wait("document.querySelectorAll('#steer-results article').length === 2")
        told = tab.eval("[...document.querySelectorAll('#steer-results .live-answer')].map(e => e.textContent)")
        study, expected = shared_study(), []
        for key in ("base", "chat"):
            for value in (0.0, 60.0):
                expected.append(study.steer({latent: ("add", value)}, model=key).generate(TEXT))
        assert [text or "an empty answer" for text in expected] == told
        # Amplified: only the model after changes.
        tab.eval("[...document.querySelectorAll('.live-choice input')].at(-1).click()")
        tab.wait("document.querySelector('#steer-amplify')")
        typed(tab, "#steer-amplify input", "2")
        tab.click("#steer-send")
        tab.wait("document.querySelectorAll('#steer-results .live-changed').length === 1")
        amplified = study.amplify(alpha=2.0).generate(TEXT)
        assert tab.eval("document.querySelector('#steer-results .live-changed').textContent") == amplified
        # What the server refuses is said, and what was typed stays also where the other panel was looked at.
        typed(tab, "#steer-amplify input", "much")
        tab.click("#steer-send")
        tab.wait("document.querySelector('.live-error')?.textContent.includes('alpha')")
        tab.eval("location.hash = '#/try'")
        tab.wait("document.querySelector('#try-text')")
        tab.eval("location.hash = '#/steer'")
        tab.wait("document.querySelector('#steer-text')")
        assert tab.eval("document.querySelector('#steer-text').value") == TEXT


def test_hostile_text_stays_text_and_nothing_is_asked_of_others(server, monkeypatch):
    for latent in range(48):
        monkeypatch.setitem(server.live.study.explanations, latent, EVIL)
    with Chromium(server.url, size=(390, 844)) as tab:
        tab.wait("document.querySelector('#try-text')")
        typed(tab, "#try-text", EVIL)
        tab.click("#try-send")
        tab.wait("document.querySelector('#try-results')")
        assert tab.eval("document.querySelector('.live img') === null && window.evil === undefined")
        shown = tab.eval("document.querySelector('.live-list .live-quiet').textContent")
        assert shown == EVIL.replace("\u202e", "[U+202E]")
        assert tab.eval("document.documentElement.scrollWidth") <= 390
        tab.eval("fetch('http://127.0.0.1:9/').catch(() => {})")
        tab.wait("true")
        assert any("Content Security Policy" in said for said in tab.complaints())


def test_a_request_is_stopped(server, monkeypatch):
    began, ended = threading.Event(), threading.Event()

    def endless(asked, stop):
        from crosscoders.explorer.serve_answers import Gone

        began.set()
        assert stop.wait(20)
        ended.set()
        raise Gone

    monkeypatch.setattr(server.live, "latents", endless)
    with Chromium(server.url) as tab:
        tab.wait("document.querySelector('#try-text')")
        typed(tab, "#try-text", TEXT)
        tab.click("#try-send")
        assert began.wait(20)
        tab.click(".live-status button")
        tab.wait("!document.querySelector('.live-status button')")
        assert ended.wait(20)
        assert tab.eval("document.querySelector('.live-error') === null")


def test_a_dashboard_has_the_panels_beside_its_pages():
    with Server(shared_study(), small_dashboard()) as running, Chromium(running.url) as tab:
        tab.eval("[...document.querySelectorAll('nav a')].find(e => e.textContent === 'Try a text').click()")
        tab.wait("document.querySelector('#try-text')")
        typed(tab, "#try-text", TEXT)
        tab.click("#try-send")
        tab.wait("document.querySelector('#try-results')")
        # From a latent of the text to its page, from there to the panel that changes it.
        tab.click("#try-results h3 a")
        latent = tab.wait("location.hash.startsWith('#/latent/') && location.hash.slice(9)")
        tab.wait("document.querySelector('a[href^=\"#/steer\"]')")
        tab.click("a[href^='#/steer?']")
        tab.wait("document.querySelector('#steer-changes')")
        tab.wait(f"document.querySelector('#steer-changes input').value === '{latent}'")
        # Letters typed into the panels are no keys of the page.
        tab.click("#steer-text")
        tab.type("jrt?")
        assert tab.eval("document.querySelector('#steer-text').value") == "jrt?"
        assert tab.complaints() == []
        assert all(request.startswith((running.url, "data:", "blob:")) for request in tab.requests())
