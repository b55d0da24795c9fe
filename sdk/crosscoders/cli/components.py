"""What is installed: plugins, components by kind, and the options of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from shutil import get_terminal_size
from typing import Any

import attrs
import click
from click.shell_completion import CompletionItem

from ..errors import ConfigError, nearest
from ..plugins.kinds import KINDS, component_command
from ..plugins.offers import Offer
from ..plugins.registry import get_registry
from .boundary import user_errors
from .output import say

RUN = "run"
"""Stands beside the kinds of components for the config of a run, whose options are listed alike."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> None:
    """List plugins and their components, and the plugins that were set aside, with the reason."""
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


def _complete_kind(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(kind) for kind in _kinds() if kind.startswith(incomplete)]


def _complete_name(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    kind = _kinds().get(context.params.get("kind") or "")
    return [
        CompletionItem(offer.spec.name, help=offer.spec.summary)
        for offer in (_offers(kind) if kind else ())
        if offer.spec.name.startswith(incomplete)
    ]


@click.command()
@click.argument("kind", required=False, shell_complete=_complete_kind)
@click.argument("name", required=False, shell_complete=_complete_name)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def components(kind: str | None, name: str | None, as_json: bool) -> None:
    """List components by KIND, or the options of the one called NAME: type, default and meaning.

    KIND is one such as `loss` or `token-source`; `crosscoders components run` lists the options of a run's config.
    """
    with user_errors():
        if kind == RUN:
            from ..training import RunConfig

            _say_options(["A training run, as a TOML file describes it."], RunConfig, as_json)
            return
        kinds = _kinds()
        if kind is not None and kind not in kinds:
            guess = nearest(kind, [*kinds, RUN])
            raise ConfigError(
                f"no kind of component is called '{kind}'{guess or ';'} there are {', '.join([*kinds, RUN])}"
            )
        if kind is None or name is None:
            listed = kinds if kind is None else {kind: kinds[kind]}
            _say_offers({kind: _offers(known) for kind, known in listed.items()}, as_json)
            return
        offer = get_registry().catalog(kinds[kind])[name]
        _say_options([str(offer), offer.spec.summary], offer.config_class(), as_json)


def _kinds() -> dict[str, str]:
    """The kinds of components by how the command line spells them."""
    # Neither has options here: releases have the command `pretrained`, commands their own `--help`.
    return {kind.replace(" ", "-"): kind for kind in KINDS if kind not in ("release", "command")}


def _offers(kind: str) -> Sequence[Offer[Any]]:
    catalog = get_registry().catalog(kind)
    return [*catalog.built_in, *catalog.offers]


def _say_offers(found: Mapping[str, Sequence[Offer[Any]]], as_json: bool) -> None:
    if as_json:
        rows = [
            {"kind": kind, "name": offer.spec.name, "summary": offer.spec.summary}
            for kind, offers in found.items()
            for offer in offers
        ]
        say(json.dumps(rows, indent=2))
        return
    for kind, offers in found.items():
        say(f"{kind}:")
        width = max((len(offer.spec.name) for offer in offers), default=0)
        for offer in offers:
            say(f"  {offer.spec.name:{width}s}  {offer.spec.summary}")
        if not offers:
            say("  none is installed")
        say("")
    say(f"Options: {component_command('KIND', 'NAME')}")


def _say_options(head: Sequence[str], config: type[Any], as_json: bool) -> None:
    from ..plugins.options import options_of

    options = options_of(config)
    if as_json:
        say(json.dumps([attrs.asdict(option) for option in options], indent=2))
        return
    formatter = click.HelpFormatter(width=min(100, get_terminal_size().columns))
    for line in filter(None, head):
        formatter.write_text(line)
    for option in options:
        default = option.default_text if option.required else f"default {option.default_text}"
        see = f"; see `{component_command(option.chooses)}`" if option.chooses else ""
        formatter.write_paragraph()
        formatter.write_text(f"{option.name}   {option.kind}, {default}{see}")
        with formatter.indentation():
            formatter.write_text(option.meaning)
    if not options:
        formatter.write_text("It has no options.")
    say(formatter.getvalue().rstrip())
