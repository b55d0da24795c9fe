"""Whether a run may go on from a checkpoint: of the same run always, of a shorter one where its schedule allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..files import first_difference
from ..plugins.choices import structure
from .config import TrainingConfig


class OtherRunError(CheckpointError):
    """A whole checkpoint, of another run than the one that was asked for."""


def check_same_run(where: str, then: Mapping[str, Any], now: Mapping[str, Any], step: int) -> None:
    """`OtherRunError` where a run of config `now` may not go on at `step` from a checkpoint of one of config `then`.

    More tokens than then are allowed while the learning rate is constant at `step` for both numbers of them: nothing
    that was done so far is then undone, and the rate does not jump.
    """
    then, now = _comparable(then), _comparable(now)
    before, after = (config["training"].get("num_tokens") for config in (then, now))
    then["training"]["num_tokens"] = after
    difference = first_difference(then, now)
    then["training"]["num_tokens"] = before
    if difference or (isinstance(before, int) and isinstance(after, int) and before > after):
        difference = first_difference(then, now)
        raise OtherRunError(f"{where} is of another run: {difference}; choose another output folder")
    if before == after:
        return
    try:
        shorter, longer = (structure(config["training"], TrainingConfig) for config in (then, now))
    except ConfigError as error:
        raise CheckpointError(f"the config in {where} cannot be read: {error}") from error
    if not shorter.lr_at(step - 1) == longer.lr_at(step) == longer.lr:
        raise OtherRunError(
            f"{where} is of a run of {before} tokens, whose learning rate was not constant there (step {step}): it "
            f"cannot go on to {after} tokens; keep a checkpoint from before the rate falls (training.decay_share = 0 "
            "never lets it), or begin a new run with initialisation.from_crosscoder"
        )


def longer_by(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[int, int] | None:
    """The numbers of tokens of a run that goes on longer than it was begun for; None where they are the same."""
    before, after = (_table(config, "training").get("num_tokens") for config in (then, now))
    return None if before is None or after is None or before == after else (before, after)


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without what does not change the result: bf16 pre-selection finds the same latents."""
    loss = {key: value for key, value in _table(config, "loss").items() if key != "preselect"}
    return {**config, "loss": loss, "training": _table(config, "training")}


def _table(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of a table of a config that was read from a file, where it need not be one."""
    table = config.get(key)
    return dict(table) if isinstance(table, Mapping) else {}
