"""The command line: a group of commands, each in the module of what it is about."""

from __future__ import annotations

import click

from .analyse import analyse
from .attribute import attribute, upload_graph
from .components import components, plugins
from .dashboard import dashboard
from .demo import demo
from .features import check_features, export_features
from .init import init
from .intervene import intervene
from .plugin_commands import Commands
from .pretrained import convert, inspect, pretrained
from .serve import serve
from .share import info, pull, push
from .spurious import spurious
from .train import harvest, sweep, train


@click.group(cls=Commands)
@click.version_option(package_name="crosscoders")
def main() -> None:
    """Train, share, load and analyse sparse crosscoders."""


for _command in (
    demo,
    init,
    train,
    harvest,
    sweep,
    analyse,
    dashboard,
    attribute,
    intervene,
    upload_graph,
    export_features,
    check_features,
    serve,
    spurious,
    info,
    inspect,
    convert,
    pretrained,
    push,
    pull,
    components,
    plugins,
):
    main.add_command(_command)
