"""The demo."""

from __future__ import annotations

from pathlib import Path

import click

from .boundary import quiet_libraries, user_errors


@click.command()
@click.option("--base", default="tiny-pair/base", show_default=True, help="Model before: Hub id or folder.")
@click.option("--chat", default="tiny-pair/chat", show_default=True, help="Model after: Hub id or folder.")
@click.option("--layer", default=-1, show_default=True, help="Layer to compare; -1 takes the middle one.")
@click.option("--latents", default=2048, show_default=True, help="Width of the crosscoder.")
@click.option("--k", default=32, show_default=True, help="Active latents per token.")
@click.option("--tokens", default=450_000, show_default=True, help="Tokens to train on.")
@click.option("--study-tokens", default=65_536, show_default=True, help="Held-out tokens to analyse on.")
@click.option("--prompts", default=200, show_default=True, help="Questions that amplification answers.")
@click.option("--seed", default=0, show_default=True)
@click.option("--output", default="demo", show_default=True, type=click.Path(path_type=Path))
def demo(
    base: str,
    chat: str,
    layer: int,
    latents: int,
    k: int,
    tokens: int,
    study_tokens: int,
    prompts: int,
    seed: int,
    output: Path,
) -> None:
    """Train a crosscoder on a base/chat pair, analyse the difference, and write a report."""
    quiet_libraries()
    from ..demo import DemoConfig
    from ..demo import demo as run

    with user_errors():
        run(
            DemoConfig(
                base=base,
                chat=chat,
                layer=layer,
                num_latents=latents,
                k=k,
                num_tokens=tokens,
                study_tokens=study_tokens,
                num_prompts=prompts,
                seed=seed,
                output=output,
            ),
            say=click.echo,
        )
