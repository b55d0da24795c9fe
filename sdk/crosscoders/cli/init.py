"""A config to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..demo.config import TINY_BASE, TINY_CHAT
from ..errors import CheckpointError, ConfigError
from .boundary import quiet_libraries, user_errors
from .output import say
from .places import local_folder

DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""What families call the number of layers in their `config.json`."""


@click.command()
@click.argument("file", default="run.toml", type=click.Path(path_type=Path))
@click.option("--base", default=TINY_BASE, show_default=True, help="Model before fine-tuning: Hub id or folder.")
@click.option("--tuned", help=f"Model after fine-tuning: Hub id or folder.  [default: {TINY_CHAT}]")
@click.option("--lora", help="Instead of --tuned: an adapter (LoRA) of the base, which then is held once for both.")
@click.option("--layer", type=int, help="Layer whose output is compared, from 0 [default: the middle one].")
@click.option("--latents", default=4096, show_default=True, help="Width of the crosscoder.")
@click.option("--k", default=32, show_default=True, help="Active latents per token.")
@click.option(
    "--tokens",
    metavar="PATH|DATASET",
    help="Text, JSON Lines of conversations or parquet files, a folder of such, or a dataset of the Hub [default: "
    "Python's own documentation].",
)
@click.option("--num-tokens", default=2_000_000, show_default=True, help="Tokens to train on.")
@click.option("--output", default="runs/diff", show_default=True, help="Folder that the run writes to.")
@click.option("--force", is_flag=True, help="Replace FILE.")
def init(
    file: Path,
    base: str,
    tuned: str | None,
    lora: str | None,
    layer: int | None,
    latents: int,
    k: int,
    tokens: str | None,
    num_tokens: int,
    output: str,
    force: bool,
) -> None:
    """Write a commented config for a crosscoder of two models into FILE [run.toml], ready for `train`.

    Of a model on the Hub only config.json is read, to find its middle layer; with --layer nothing is.
    """
    quiet_libraries()
    from ..files import write_whole
    from ..training.written import written_config

    with user_errors():
        if file.exists() and not force:
            raise ConfigError(f"{file} exists already; name another file, or replace it with --force")
        if lora and tuned:
            raise ConfigError("--tuned and --lora both say what the model after fine-tuning is; give one of them")
        if tuned and Path(tuned, "adapter_config.json").is_file() and not Path(tuned, "config.json").is_file():
            raise ConfigError(f"{tuned} is an adapter, not a whole model: name it by --lora")
        layer = _middle_layer(base) if layer is None else layer
        after = {"model": base, "lora": lora} if lora else {"model": tuned or TINY_CHAT}
        data = {
            "sites": [f"base/layers.{layer}", f"tuned/layers.{layer}"],
            "output": output,
            "models": {
                "base": {"name": "transformers", "model": base},
                "tuned": {"name": "transformers", **after},
            },
            "tokens": _source(tokens),
            "architecture": {"name": "acausal", "num_latents": latents},
            "loss": {"name": "batchtopk", "k": k},
            "training": {"num_tokens": num_tokens, "lr": 1e-3, "save_every": 1000},
        }
        write_whole(file, written_config(data))
        say(f"wrote {file}; now: crosscoders train {file}")


def _middle_layer(model: str) -> int:
    """By `config.json` alone, except for the shipped pair, whose adapter knows where it is."""
    from ..checkpoints.description import number_at
    from ..checkpoints.source import Source
    from ..demo.run import middle_layer

    if model in (TINY_BASE, TINY_CHAT):
        return middle_layer({"name": "transformers", "model": model}, None)
    problem = "its config.json does not say how many layers it has"
    try:
        config = Source.of(local_folder(model) or model).json("config.json")
        for table in filter(None, (config, config.get("text_config"))):
            depth = next((int(number) for key in DEPTHS if (number := number_at(table, key))), 0)
            if depth > 0:
                return depth // 2
    except CheckpointError as error:
        problem = str(error)
    raise ConfigError(f"the middle layer of '{model}' cannot be found ({problem}); name a layer with --layer")


def _source(tokens: str | None) -> dict[str, Any]:
    """The token source that reads files of this kind, or a dataset of the Hub."""
    if tokens is None:
        return {"name": "python_library"}
    path = Path(tokens)
    if path.is_dir():
        kinds = {each.suffix for each in path.rglob("*") if each.is_file()}
        suffix = next((kind for kind in (".jsonl", ".parquet", ".txt") if kind in kinds), "")
        if not suffix:
            raise ConfigError(f"the folder {path} has no .txt, .jsonl or .parquet files")
    elif path.is_file():
        suffix = path.suffix
    elif path.suffix in (".txt", ".jsonl", ".parquet") or path.is_absolute() or tokens.startswith((".", "~")):
        raise ConfigError(f"there is no file or folder {path}")
    else:
        return {"name": "hf_dataset", "path": tokens}
    if suffix == ".parquet":
        files = f"{tokens.rstrip('/')}/**/*.parquet" if path.is_dir() else tokens
        return {"name": "hf_dataset", "path": "parquet", "data_files": [files]}
    return {"name": "chat_files" if suffix == ".jsonl" else "text_files", "paths": [tokens]}
