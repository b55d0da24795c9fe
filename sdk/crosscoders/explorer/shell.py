"""The page of a dashboard without its data: `index.html`, and the scripts and styles that it loads."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader

from ..files import disk_errors, write_whole
from ..pages import asset
from ..pages.assets import SHARED


def shell_html(title: str) -> str:
    """The text of `index.html`. Scripts are loaded in the order of `scripts`."""
    environment = Environment(loader=PackageLoader("crosscoders.explorer", "assets"), autoescape=True, trim_blocks=True)
    return environment.get_template("index.html").render(title=title, scripts=scripts())


def write_shell(folder: Path, *, title: str) -> None:
    """Write `index.html` and `assets/` into the folder of a dashboard; `DiskError` where the disk does not take it."""
    target = folder / "assets"
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        write_whole(target / name, asset(name))
    for name in ("explorer.css", *scripts()):
        write_whole(target / name, _own(name))
    write_whole(folder / "index.html", shell_html(title))


def scripts() -> list[str]:
    """The names of the explorer's own scripts, in the order in which they must run: `index.html` lists them."""
    return re.findall(r'"([a-z]+\.js)"', _own("index.html"))


def _own(name: str) -> str:
    return files("crosscoders.explorer").joinpath("assets", name).read_text(encoding="utf-8")
