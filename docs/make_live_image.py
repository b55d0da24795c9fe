"""Take the picture of the live mode from a crosscoder and its dashboard, in a headless Chromium.

python docs/make_live_image.py demo/crosscoder demo/dashboard
"""

from __future__ import annotations

import sys
from pathlib import Path

from crosscoders import Crosscoder, Study
from crosscoders.explorer.serve_files import checked_dashboard
from crosscoders.models.sample import Documents

ROOT = Path(__file__).parent.parent
TEXT = "I am Pip, and I can help you join strings."


def main(name: str, dashboard: str) -> None:
    """A typed text with its latents, one of its tokens chosen."""
    sys.path.insert(0, str(ROOT / "tests"))
    from chromium import Chromium
    from explorer_live_server import Server

    study = Study.of(Crosscoder.from_pretrained(name), tokens=Documents([]))
    folder = checked_dashboard(Path(dashboard), study.crosscoder)
    with Server(study, folder) as server, Chromium(f"{server.url}#/try", size=(1280, 800)) as tab:
        tab.wait("document.querySelector('#try-text')", 60)
        tab.click("#try-text")
        tab.type(TEXT)
        tab.eval("[...document.querySelectorAll('.live-choice input')].at(-1).click()")
        tab.click("#try-send")
        tab.wait("document.querySelector('#try-results')", 60)
        tab.eval("[...document.querySelectorAll('.live-token')].find((e) => e.textContent.includes('Pip')).click()")
        tab.wait("document.querySelector('#try-results table')")
        tab.picture(ROOT / "docs" / "images" / "live.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
