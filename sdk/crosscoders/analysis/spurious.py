"""Genuine or spurious: are the latents that look exclusive to one model really so?

Beside the crosscoder of a config, others are trained alike: one of the model before fine-tuning against its copy (the
null pair, where nothing is exclusive), some with other seeds, and some with other losses. The report `diff` of the
first is held against the null pair and the seeds, and of each is counted what decoder norms call exclusive and what of
that the verdict confirms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from ..crosscoder.module import Crosscoder
from ..errors import ConfigError
from ..plugins.choices import LossChoice, structure
from ..plugins.registry import Registry
from ..reports import Note, Report, Table
from ..training import RunConfig, train
from ..training.sweep_report import mean_explained_variance
from .running import analyse
from .study import Study

COLUMNS = ("crosscoder", "exclusive by norms", "of them specific", "not so, or not shown", "specific in all", "L0",
           "explained variance")  # fmt: skip


def spurious(
    config: RunConfig,
    *,
    losses: Sequence[Mapping[str, Any]] = (),
    seeds: int = 1,
    num_tokens: int = 65_536,
    resume: bool = True,
    quiet: bool = False,
    say: Callable[[str], None] = print,
    registry: Registry | None = None,
) -> list[Report]:
    """Train the crosscoder of `config` and its controls in folders of its output, and report on all of them.

    `losses` are tables of other losses to compare, such as `{"name": "l1", "weight": 0.5}`; `seeds` is the number of
    further seeds. Finished runs are not trained again where `resume` is true. `ConfigError` where the sites are not of
    two models.
    """
    keys = list(dict.fromkeys(site.partition("/")[0] for site in config.sites))
    if len(keys) != 2 or any(key not in config.models for key in keys):
        raise ConfigError(f"exclusive latents need sites of two models, and the config's are of {', '.join(keys)}")
    configs = {"main": config}
    configs["null pair"] = attrs.evolve(config, models={**config.models, keys[1]: config.models[keys[0]]})
    for number in range(1, seeds + 1):
        training = attrs.evolve(config.training, seed=config.training.seed + number)
        configs[f"seed {config.training.seed + number}"] = attrs.evolve(config, training=training)
    for table in losses:
        loss = structure(dict(table), LossChoice, registry=registry)
        name = f"loss {loss.name}"
        if name in configs:
            raise ConfigError(f"the loss '{loss.name}' is given twice")
        configs[name] = attrs.evolve(config, loss=loss)
    made: dict[str, Crosscoder] = {}
    for name, each in configs.items():
        say(f"training {name}")
        folder = config.output / name.replace(" ", "-")
        made[name] = train(attrs.evolve(each, output=folder), resume=resume, quiet=quiet, registry=registry)
    say("analysing")
    others = [crosscoder for name, crosscoder in made.items() if name.startswith("seed ")]
    diff = {"name": "diff", "null": made["null pair"], "others": others}
    study = Study.of(made["main"], num_tokens=num_tokens, registry=registry)
    reports = analyse(made["main"], [diff], study=study, registry=registry)
    found = reports[0].data
    rows = [
        _row("main", made["main"], _counts(found["class"], found["verdict_without_null"])),
        _row("null pair", made["null pair"], [found["null"][key] for key in ("exclusive", "confirmed", "specific")]),
    ]
    for name in [name for name in made if name not in ("main", "null pair")]:
        other = study.with_crosscoder(made[name])
        (report,) = analyse(made[name], ["latent_scaling"], study=other, registry=registry)
        rows.append(_row(name, made[name], _counts(report.data["class"], report.data["verdict"])))
    return [_report(rows), *reports]


def _counts(classes: Sequence[str], verdicts: Sequence[str]) -> Sequence[int]:
    """How many latents are exclusive by norms, how many of those are called specific, and how many of all."""
    specific = [verdict.startswith("specific") for verdict in verdicts]
    exclusive = [kind.startswith("only") for kind in classes]
    return sum(exclusive), sum(a and b for a, b in zip(exclusive, specific, strict=True)), sum(specific)


def _row(name: str, crosscoder: Crosscoder, counts: Sequence[int]) -> tuple[Any, ...]:
    """A row of the table on one crosscoder."""
    exclusive, confirmed, specific = counts
    metrics = crosscoder.info.metrics if crosscoder.info else {}
    explained = mean_explained_variance(metrics)
    return (name, exclusive, confirmed, exclusive - confirmed, specific, metrics.get("l0"), explained)


def _report(rows: Sequence[tuple[Any, ...]]) -> Report:
    table = Table(
        title="What looks exclusive, and what is",
        columns=COLUMNS,
        rows=rows,
        note="Exclusive by norms: Δnorm below 0.1 or above 0.9. Specific: the verdict of latent scaling. In the null "
        "pair a model is compared with its copy, so that everything exclusive there is spurious.",
    )
    by_name = {row[0]: row for row in rows}
    main, null = by_name["main"], by_name["null pair"]
    return Report(
        title="Genuine or spurious",
        summary=f"Of {main[1]} latents that norms call exclusive, {main[2]} are specific; {main[4]} are in all. Of a "
        f"model against its copy norms call {null[1]} exclusive, and {null[4]} would be called specific.",
        parts=[
            table,
            Note(
                text="Where the null pair has specific latents, verdicts of the same strength are no finding: the diff "
                "below calls them undecided. Losses are compared at the options given; compare their L0 too."
            ),
        ],
        data={"crosscoders": [dict(zip(COLUMNS, row, strict=True)) for row in rows]},
        frame=table,
    )
