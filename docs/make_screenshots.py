"""Take the pictures of a dashboard that README and the how-to show, from that of a demo.

python docs/make_screenshots.py demo/dashboard

It needs a Chromium on this machine. Pictures go to `docs/images/explorer-*.png`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chromium import Chromium

READY = "document.querySelector('main') && !document.querySelector('.loading')"
PICTURES = {
    "table": "#/table?q=persona&sort=-tuned_share",
    "latent": "#/latent/{latent}",
    "diff": "#/diff",
}


def main(folder: Path) -> None:
    images = Path(__file__).parent / "images"
    with Chromium(f"file://{folder.resolve()}/index.html", size=(1180, 760)) as tab:
        # The latent that carries a planted behaviour most surely is named first by the analysis.
        latent = tab.eval("Number((JSON.stringify(cc.facts.cards).match(/refusal: latent (\\d+)/) || [0, 0])[1])")
        for name, address in PICTURES.items():
            tab.eval(f"cc.go({address.format(latent=latent)!r}), new Promise((done) => setTimeout(done, 400))")
            tab.wait(READY)
            if name == "latent":
                tab.eval("document.getElementById('sides')?.click(), new Promise((done) => setTimeout(done, 600))")
            tab.picture(images / f"explorer-{name}.png")
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        tab.eval("cc.go('#/scatter'), new Promise((done) => setTimeout(done, 800))")
        tab.picture(images / "explorer-scatter.png")
        assert tab.complaints() == [], tab.complaints()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
