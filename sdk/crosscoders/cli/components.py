"""What is installed."""

from __future__ import annotations

import json
from typing import Any

import click

from .boundary import user_errors
from .output import say


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> None:
    """List plugins and their components, and the plugins that were set aside, with the reason."""
    from ..plugins.registry import get_registry

    with user_errors():
        listing = get_registry().listing()
    say(json.dumps(listing, indent=2) if as_json else _listing_text(listing))


def _listing_text(listing: dict[str, Any]) -> str:
    lines = []
    for plugin in listing["plugins"]:
        lines.append(f"{plugin['plugin']}  ({plugin['distribution']} {plugin['version']})")
        lines += [f"  {c['kind']:17s} {c['name']:20s} {c['summary']}" for c in plugin["components"]]
    if listing["built_in"]:
        lines.append("built in:")
        lines += [f"  {c['kind']:17s} {c['name']:20s} {c['summary']}" for c in listing["built_in"]]
    if listing["set_aside"]:
        lines.append("set aside:")
        lines += [f"  {p['plugin']}  ({p['distribution']} {p['version']})  {p['reason']}" for p in listing["set_aside"]]
    return "\n".join(lines)
