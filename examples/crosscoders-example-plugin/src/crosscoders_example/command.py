"""Command `site-norms`: the scale of each site of a saved crosscoder."""

import click


@click.command()
@click.argument("name")
def site_norms(name):
    """Print the mean norm of the activations at each site of a crosscoder (folder or Hub id)."""
    from crosscoders import Crosscoder

    crosscoder = Crosscoder.from_pretrained(name)
    for site in crosscoder.sites:
        scale = float(crosscoder.normaliser.scale_of(site.name))
        click.echo(f"{site.name}: {site.width**0.5 / scale:.4g}")
