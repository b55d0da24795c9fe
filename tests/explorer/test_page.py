"""The page of a dashboard in a browser: finding latents, looking at them, keys, phones, and data that are broken."""

import functools
import http.server
import json
import re
import threading

import numpy as np
import pytest

from chromium import PATH, Chromium
from crosscoders.explorer.shell import SCRIPTS, shell_html
from explorer_folder import EVIL, VERDICTS, write_small

browser = pytest.mark.skipif(PATH is None, reason="there is no Chromium here")


def test_the_shell_lets_nothing_in_from_elsewhere(tmp_path):
    write_small(tmp_path, count=10)
    text = (tmp_path / "index.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert EVIL[1] not in text
    assets = {path.name: path.read_text() for path in (tmp_path / "assets").iterdir()}
    for name in (*SCRIPTS, "show.js", "palette.css", "explorer.css"):
        assert not re.search(r"https?://|@import|innerHTML|eval\(|new Function", assets[name]), name
    assert "Apache License" in assets["LICENSE-htm.txt"] and "MIT License" in assets["LICENSE-preact.txt"]
    named = re.findall(r'(?:src|href)="(assets/[^"]*)"', text)
    assert {name for name in assets if not name.startswith("LICENSE")} == {path.split("/")[1] for path in named}
    assert "<script>" not in shell_html("</title><script>")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explorer")
    return folder, write_small(folder)


@pytest.fixture(scope="module")
def shared(small):
    if PATH is None:
        pytest.skip("there is no Chromium here")
    with Chromium(f"file://{small[0]}/index.html", size=(1280, 860)) as tab:
        yield tab


@pytest.fixture
def tab(shared):
    shared.events.clear()
    shared.eval("localStorage.clear(), history.replaceState(null, '', '#/')")
    shared.call("Page.reload")
    shared.wait("document.documentElement?.dataset.ready && document.querySelector('main')")
    yield shared
    assert shared.complaints() == []
    assert [url for url in shared.requests() if not url.startswith(("file:", "blob:", "data:"))] == []
    assert shared.eval("window.evil") is None and shared.eval("document.querySelectorAll('main img').length") == 0


def go(tab, route, ready="main h1, main table"):
    tab.eval(f"location.hash = {json.dumps(route)}")
    tab.wait(f"document.querySelector({json.dumps(ready)})")


def listed(tab):
    return tab.eval("[...document.querySelectorAll('tr[data-latent]')].map((row) => Number(row.dataset.latent))")


def text(tab, selector="main"):
    return tab.eval(f"document.querySelector({json.dumps(selector)}).innerText")


def press(tab, selector, words):
    """Click the first of these elements that has these words."""
    find = f"[...document.querySelectorAll({json.dumps(selector)})]"
    tab.eval(f"{find}.find((one) => one.innerText.includes({json.dumps(words)})).click()")


def test_search_sort_and_filter_find_what_is_there(tab, small):
    columns = small[1]
    go(tab, "#/table", "tr[data-latent]")
    assert listed(tab)[:3] == [0, 1, 2] and "600" in text(tab, ".count")
    # A column sorts by its numbers, unknown ones last both ways.
    tab.click("[data-sort=tuned_share]")
    down = np.argsort(-np.nan_to_num(columns["tuned_share"], nan=-1), kind="stable")
    tab.wait(f"document.querySelector('tr[data-latent]').dataset.latent === '{down[0]}'")
    assert listed(tab)[:20] == down[:20].tolist()
    assert tab.eval("document.querySelector('th:has([data-sort=tuned_share])').ariaSort") == "descending"
    tab.click("[data-sort=tuned_share]")
    up = np.argsort(np.nan_to_num(columns["tuned_share"], nan=2), kind="stable")
    tab.wait(f"document.querySelector('tr[data-latent]').dataset.latent === '{up[0]}'")
    tab.eval("document.querySelector('.grid').scrollTop = 1e6")
    tab.wait("[...document.querySelectorAll('tr[data-latent]')].at(-1).dataset.latent === '5'")
    # Words in explanations, then a number as well.
    tab.eval("document.getElementById('search').focus()")
    tab.type("teal colour")
    tab.wait("document.querySelectorAll('tr[data-latent]').length === 2")
    assert sorted(listed(tab)) == [12, 47]
    go(tab, "#/table?q=417", "tr[data-latent='417']")
    # A class by its box, a range by its fields; the address says both and gives them back.
    go(tab, "#/table", "tr[data-latent='0']")
    press(tab, ".classes label", VERDICTS[2])
    tab.eval(
        "(() => { const field = document.querySelector('[aria-label=\"Density, at least\"]');"
        "field.value = 0.01; field.dispatchEvent(new Event('change')); })()"
    )
    want = np.flatnonzero((columns["verdict"] == 2) & (columns["density"] >= 0.01))
    tab.wait(f"document.querySelector('.count strong').innerText === '{len(want)}'")
    address = tab.eval("location.hash")
    assert "a%252C+b" in address and "density=0.01.." in address
    go(tab, "#/")
    go(tab, address, "tr[data-latent]")
    assert listed(tab)[:5] == want[:5].tolist() and len(want) > 5


def test_a_latent_has_its_page_and_the_back_button_leads_back(tab):
    go(tab, "#/table?sort=-density", "tr[data-latent]")
    tab.eval("document.querySelector('.grid').scrollTop = 3000")
    tab.wait("document.querySelector('tr[data-latent]') && document.querySelector('.grid').scrollTop === 3000")
    tab.wait("document.querySelector('tr[data-latent]').ariaRowIndex > 50")
    third = listed(tab)[12]
    tab.eval(f"document.querySelector('tr[data-latent=\"{third}\"] .latent-link').click()")
    tab.wait("document.querySelectorAll('.example').length === 5")
    said = text(tab)
    for part in (
        f"Latent {third}",
        "shared: latent",
        "0.72 (0.6 to 0.8)",
        "base/layers.1",
        "Nearest directions",
        "w10",
    ):
        assert part in said, part
    # Values at the peak, by pointer and by key.
    place = tab.middle(".example .token.peak")
    tab.mouse("mouseMoved", *place)
    tab.wait("!document.querySelector('.tip.fixed').hidden")
    assert (
        "4" in text(tab, ".tip.fixed")
        and "base −0.5" in text(tab, ".tip.fixed")
        and "chat 2" in text(tab, ".tip.fixed")
    )
    tab.eval("document.querySelector('.context').focus()")
    tab.key("ArrowRight")
    tab.wait("document.querySelector('.tip.fixed').innerText.includes('1.6')")
    # Both models side by side, in one colour scale with signs.
    tab.click("#sides")
    tab.wait("document.querySelectorAll('.sides').length === 2")
    heat = tab.eval("[...document.querySelectorAll('.sides')][0].innerHTML")
    assert "below" in heat and "on peak" in heat.replace("peak on", "on peak")
    tab.eval("document.querySelectorAll('.tabs button')[1].click()")
    tab.wait("document.querySelectorAll('.interval').length === 4")
    assert "Four parts of equal width." in text(tab)
    tab.eval("history.back()")
    tab.wait("document.querySelector('.grid') && document.querySelector('.grid').scrollTop === 3000")
    assert third in listed(tab)
    # A latent that is nowhere active, and one that is not there.
    go(tab, "#/latent/3", ".latent[data-latent='3']")
    tab.wait("document.querySelector('main').innerText.includes('active nowhere')")
    go(tab, "#/latent/600", "[role=alert]")
    assert "numbered from 0 to 599" in text(tab)


def test_the_keys_lead_everywhere(tab, small):
    tab.key("/", "/")
    tab.wait("document.activeElement.id === 'search'")
    tab.type("teal")
    tab.wait("document.querySelectorAll('tr[data-latent]').length === 2")
    tab.key("ArrowDown")
    tab.key("j", "j")
    tab.wait("document.querySelector('tr.active').dataset.latent === '47'")
    tab.key("Enter", "\r")
    tab.wait("document.querySelector('.latent[data-latent=\"47\"]')")
    assert "2 of 2 in the list" in text(tab)
    tab.key("j", "j")
    tab.wait("document.querySelector('.latent[data-latent=\"12\"]')")
    tab.key("k", "k")
    tab.wait("document.querySelector('.latent[data-latent=\"47\"]')")
    tab.key("s", "s")
    tab.wait("document.querySelector('.star.set')")
    tab.key("n", "n")
    tab.wait("document.activeElement.id === 'note'")
    tab.type("seen")
    tab.key("Escape")
    tab.key("r", "r")
    tab.wait("location.hash !== '#/latent/47'")
    tab.key("Backspace")
    tab.wait("document.querySelectorAll('tr[data-latent]').length === 2")
    assert "★" in text(tab, "tr[data-latent='47']") and "✎" in text(tab, "tr[data-latent='47']")
    go(tab, "#/table?q=seen", "tr[data-latent='47']")
    tab.key("?", "?")
    tab.wait("document.querySelector('dialog[open]')")
    tab.key("Escape")
    tab.wait("!document.querySelector('dialog[open]')")
    # Kept in the browser, also after the page is opened again.
    tab.call("Page.reload")
    tab.wait("window.cc && cc.marks && cc.index && cc.marks.starred(47)")
    # Another tab adds to it, and neither undoes what the other wrote.
    first = tab.open(f"file://{small[0]}/index.html", size=(1280, 860))
    tab.eval("cc.marks.write(12, 'there')")
    tab.switch(first, close=True)
    tab.wait("cc.marks.note(12) === 'there'")
    tab.eval("cc.marks.star(12)")
    kept = json.loads(tab.eval("localStorage.getItem(Object.keys(localStorage).find((k) => k.includes('marks')))"))
    assert kept == {"stars": [12, 47], "notes": {"12": "there", "47": "seen"}}


def test_stars_and_notes_are_taken_along_and_nothing_is_lost(tab):
    tab.eval("cc.marks.star(4), cc.marks.write(4, 'mine'), cc.give = (text) => { window.given = text; }")
    tab.eval("cc.marks.export()")
    given = json.loads(tab.eval("window.given"))
    assert given["stars"] == [4] and given["notes"] == {"4": "mine"}
    said = tab.eval("cc.marks.import(JSON.stringify({ stars: [5], notes: { 4: 'theirs', 6: '<b>' } }))")
    assert said == "1 stars and 2 notes were added." and tab.eval("cc.marks.note(4)") == "mine\ntheirs"
    for bad, why in (("{", "not JSON"), ("[]", "no “stars”"), ('{"stars": [600], "notes": {}}', "no latent 600"),
                     ('{"stars": [], "notes": {"1": 2}}', "not all text")):  # fmt: skip
        error = tab.eval(
            f"(() => {{ try {{ cc.marks.import({json.dumps(bad)}); }} catch (error) {{ return error.message; }} }})()"
        )
        assert why in error and "Nothing was changed" in error
    assert tab.eval("cc.marks.starred(5) && cc.marks.counts().notes === 2")


def test_a_box_over_points_chooses_them(tab, small):
    columns = small[1]
    go(tab, "#/scatter", ".plot canvas")
    box = tab.eval(
        "(() => { const r = document.querySelector('.plot canvas').getBoundingClientRect();"
        "return [r.x, r.y, r.width, r.height]; })()"
    )
    at = lambda x, y: (box[0] + x * box[2], box[1] + y * box[3])  # noqa: E731
    tab.mouse("mousePressed", *at(0.5, 0.2), button="left", clickCount=1)
    tab.mouse("mouseMoved", *at(0.8, 0.7), button="left", buttons=1)
    tab.mouse("mouseReleased", *at(0.8, 0.7), button="left", clickCount=1)
    tab.wait("location.hash.includes('density=')")
    ranges = dict(re.findall(r"(\w+)=([-\d.e]+\.\.[-\d.e]+)", tab.eval("location.hash")))
    inside = np.ones(600, dtype=bool)
    for key, span in ranges.items():
        low, high = map(float, span.split(".."))
        inside &= (columns[key] >= low) & (columns[key] <= high)
    assert set(ranges) == {"density", "tuned_share"} and 0 < inside.sum() < 600
    tab.wait(f"document.querySelector('.count strong').innerText === '{inside.sum()}'")
    press(tab, "main a", "in the table")
    tab.wait("document.querySelector('tr[data-latent]')")
    assert listed(tab)[0] == np.flatnonzero(inside)[0] and str(inside.sum()) in text(tab, ".count")


def test_the_other_views_show_their_data(tab, small):
    columns = small[1]
    go(tab, "#/diff", "table.data")
    assert "Diff of base and chat" in text(tab) and "line of 49" in text(tab) and "Two models." in text(tab)
    press(tab, "table.data a", VERDICTS[1])
    tab.wait("document.querySelector('.grid')")
    assert str((columns["verdict"] == 1).sum()) in text(tab, ".count")
    go(tab, "#/layers", ".plot canvas")
    share = np.random.default_rng(1).integers(0, 256, (600, 2))
    go(tab, "#/layers?by=chat/layers.1", ".plot canvas")
    tab.click(".plot canvas")
    tab.wait("document.querySelector('aside .links')")
    tab.eval("document.querySelector('.plot canvas').focus()")
    for _ in range(3):
        tab.key("ArrowUp")
    go(tab, "#/snapshots", ".curve")
    half = share[:40] / share[:40].max(axis=1, keepdims=True) >= 0.5
    want = [(half[:, 0] & half[:, 1]).sum(), (~half[:, 0] & half[:, 1]).sum()]
    assert [int(n) for n in re.findall(r"step \d+\s+(\d+)", text(tab, ".bars").replace("\u202f", ""))] == want
    assert tab.eval("document.querySelectorAll('.curve').length") == 24
    go(tab, "#/snapshots?group=undated", ".curve")
    tab.wait("document.querySelectorAll('.curve').length === 20")
    go(tab, "#/graphs", ".graph-list a")
    assert tab.eval("document.querySelectorAll('.graph-list a').length") == 1
    go(tab, "#/nowhere", "[role=alert]")
    assert "no page “nowhere”" in text(tab)
    go(tab, "#/try", "[role=alert]")


def test_tokens_that_are_code_stay_text(tab):
    go(tab, "#/latent/30", ".example .token")
    said = text(tab)
    assert EVIL[0] in said and EVIL[1] in said
    assert "[U+202E]rtl" in said and "[U+2028]" in said and "␀␛[31m" in said and "∅" in said
    go(tab, "#/")
    assert EVIL[0] in text(tab) and EVIL[1] in text(tab, "h1")


def test_it_fits_a_phone_and_the_dark(tab):
    tab.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    try:
        for route in ("#/", "#/table", "#/scatter", "#/latent/7", "#/diff", "#/layers", "#/snapshots", "#/graphs"):
            go(tab, route)
            tab.wait("!document.querySelector('.loading')")
            assert tab.eval("document.documentElement.scrollHeight") <= 844, route
            for what in ("html", "main"):
                assert tab.wait(f"document.querySelector('{what}').scrollWidth <= 390", seconds=5), route
        paper = "getComputedStyle(document.body).backgroundColor"
        light = tab.eval(paper)
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        dark = tab.eval(paper)
        assert light == "rgb(250, 250, 248)" and dark == "rgb(27, 29, 33)"
        tab.click("#theme")
        assert tab.eval(paper) == light and tab.eval("localStorage.getItem('crosscoders:theme')") == "light"
        tab.click("#theme")
        tab.click("#theme")
        assert tab.eval(paper) == dark
    finally:
        tab.call("Emulation.setEmulatedMedia", features=[])
        tab.call("Emulation.setDeviceMetricsOverride", width=1280, height=860, deviceScaleFactor=1, mobile=False)


@browser
def test_what_is_missing_or_broken_is_said(tmp_path):
    folder = tmp_path / "few"
    columns = write_small(folder, count=5000, latents=[7, 300, 4000], models=[{"key": "base", "name": "one"}], views=[])
    (folder / "data/latents-0001.js").unlink()
    (folder / "data/latents-0015.js").write_text('cc.pack("latents-0015", "AAAA");')
    (folder / "data/search.js").write_text("this is not a script")
    with Chromium(f"file://{folder}/index.html#/table") as tab:
        tab.wait("document.querySelectorAll('tr[data-latent]').length === 3")
        assert listed(tab) == [7, 300, 4000] and "data/search.js is damaged" in text(tab, ".problem")
        nav = text(tab, "header nav")
        assert "Layers" not in nav and "Snapshots" not in nav
        go(tab, "#/latent/7", ".example")
        for number, said in ((300, "data/latents-0001.js is missing"), (4000, "data/latents-0015.js is damaged")):
            go(tab, f"#/latent/{number}", ".problem + .two, .problem ~ .two")
            tab.wait(f"document.querySelector('main').innerText.includes({json.dumps(said)})")
            assert "Density" in text(tab)
        go(tab, "#/latent/8", "main [role=alert]")
        tab.wait("document.querySelector('main').innerText.includes('3 of 5')")
        (folder / "data/columns.js").unlink()
        tab.call("Page.reload")
        tab.wait("document.querySelectorAll('#app > .problem div').length === 2")
        for route in ("#/", "#/table", "#/scatter", "#/diff", "#/latent/7"):
            go(tab, route)
            assert len(text(tab)) > 20
        (folder / "data/facts.js").write_text('cc.put("facts", {"format": 2});')
        tab.call("Page.reload")
        tab.wait("document.documentElement?.dataset.ready === 'failed'")
        assert "is in format 2" in tab.eval("document.body.innerText")
    assert len(columns["density"]) == 3


@browser
def test_a_policy_holds_over_http_too(small):
    handler = functools.partial(QuietHandler, directory=small[0])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with Chromium(f"http://127.0.0.1:{server.server_port}/index.html#/latent/7") as tab:
            tab.wait("document.querySelectorAll('.example').length === 5")
            assert tab.complaints() == []
            tab.eval(
                "(() => { const made = () => document.createElement('script');"
                "const script = (what) => document.body.append(Object.assign(made(), what));"
                "script({ textContent: 'window.evil = 1' }); script({ src: 'http://127.0.0.1:9/x.js' });"
                "new Image().src = 'http://127.0.0.1:9/x.png'; fetch('http://127.0.0.1:9/').catch(() => {}); })()"
            )
            tab.wait("true")
            assert tab.eval("window.evil") is None
            tab.eval("new Promise((done) => setTimeout(done, 100))")
            said = [one for one in tab.complaints() if "Content Security Policy" in one]
            outside = "'http://127.0.0.1:9/"
            for what in ("inline script", f"script {outside}x.js'", f"image {outside}x.png'", f"{outside}'"):
                assert any(what in one for one in said), (what, said)
    finally:
        server.shutdown()
        server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Says nothing of what it serves."""

    def log_message(self, *_):
        pass
