"""The models and tokens of a study: as a checkpoint records them, or the user's own in their place.

A recipe is data from somebody else. What it names on the Hub is loaded; what it names on this machine is read only on
the user's word, since its text would end up in a page that people share.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from ..crosscoder.module import Crosscoder
from ..errors import AnalysisError, CrosscodersError, PluginError
from ..plugins.choices import Choice, MetricChoice, ModelChoice, TokenSourceChoice, parts_of, structure
from ..plugins.registry import Registry
from ..privacy.local import addresses, local_strings, recorded_strings
from ..training.metric import Metric, build_metrics

KEPT = ("name", "dtype", "attention", "quantisation")
"""Options that stay where another model takes a recorded one's place by its name alone."""
SHOWN = 200


@frozen(eq=False)
class StudyRecipe:
    """What a study loads and reads."""

    models: Mapping[str, Any]
    """Models by key: tables, or adapters themselves."""
    tokens: Any
    """The token source: a table, or the source itself."""
    recorded: frozenset[str] = field()
    """What of these is the checkpoint's word: keys of models, and `tokens`."""
    needs: list[dict[str, str]] = field(factory=list)
    """What the checkpoint says of the components of other distributions."""

    @classmethod
    def of(cls, crosscoder: Crosscoder, models: Mapping[str, Any] | None = None, tokens: Any = None) -> StudyRecipe:
        """What a crosscoder records, with `models` and `tokens` in its place; a model may be a Hub id or folder."""
        recipe = crosscoder.info.recipe if crosscoder.info else {}
        theirs, their_tokens = recipe.get("models", {}), recipe.get("tokens")
        malformed = not isinstance(theirs, Mapping) or not all(isinstance(each, Mapping) for each in theirs.values())
        if (
            malformed
            or not isinstance(their_tokens, Mapping | None)
            or not isinstance(recipe.get("tokenizer", ""), str)
        ):
            raise AnalysisError("the recipe of this crosscoder is malformed: its models and tokens are not tables")
        unknown = set(models or {}) - set(theirs) - {site.model for site in crosscoder.sites}
        if unknown:
            raise AnalysisError(
                f"there is no model '{sorted(unknown)[0]}' in this crosscoder; there are "
                f"{', '.join(sorted({site.model for site in crosscoder.sites}))}"
            )
        ours = {key: _in_place_of(key, theirs.get(key), model) for key, model in (models or {}).items()}
        missing = {site.model for site in crosscoder.sites} - set(theirs) - set(ours)
        tokens_used = tokens or their_tokens
        if missing or tokens_used is None:
            raise AnalysisError(
                f"the crosscoder records no {', '.join(sorted(missing)) or 'tokens'}; pass models= and tokens= "
                "(--models and --tokens)"
            )
        recorded = {*(theirs.keys() - ours.keys()), *(() if tokens else ("tokens",))}
        needs = crosscoder.info.needs if crosscoder.info else []
        return cls({**theirs, **ours}, tokens_used, frozenset(recorded), needs)

    def lines(self) -> list[str]:
        """What is going to be read, a line for each model and the tokens."""
        parts = [(f"model {key}", model) for key, model in self.models.items()]
        return [f"{what}: {_shown(_set(choice))}" for what, choice in [*parts, ("tokens", self.tokens)]]

    def check(self, *, trusted: bool, registry: Registry) -> None:
        """`AnalysisError` where the checkpoint names what is not here, or what needs the user's word."""
        gone = [key for key, choice in self._theirs() if recorded_strings(choice)]
        if gone:
            raise AnalysisError(
                f"{_and(gone)} of this crosscoder came from a local folder or file of the machine that trained it, "
                f"which is not recorded; pass {_and([_instead(key) for key in gone])}"
            )
        wants = [
            f"{text} ({key if key == 'tokens' else f'model {key}'}{f', {where}' if where else ''})"
            for key, choice in self._theirs()
            for where, text in [*local_strings(choice), *addresses(choice), *self._declared(key, choice, registry)]
        ]
        if wants and not trusted:
            shown = "; ".join(wants[:5]) + (f"; and {len(wants) - 5} more" if len(wants) > 5 else "")
            raise AnalysisError(
                f"this crosscoder's recipe would read {json.dumps(shown, ensure_ascii=True)[1:-1]}, and what it reads "
                "can show up in the report: if you trust it, say trust_recipe=True (--trust-recipe), or else pass "
                "models= and tokens= of your own (--models and --tokens)"
            )

    def _theirs(self) -> list[tuple[str, Any]]:
        pairs = [*self.models.items(), ("tokens", self.tokens)]
        return [(key, choice) for key, choice in pairs if key in self.recorded]

    def _declared(self, key: str, choice: Any, registry: Registry) -> Iterator[tuple[str, str]]:
        """What components say that they read here, by a method `local_reads` of their options."""
        kind: type[Choice] = TokenSourceChoice if key == "tokens" else ModelChoice
        try:
            made = structure(choice, kind, registry=registry)
        except CrosscodersError as error:
            name = str(choice.get("name", "")).rpartition(":")[2]
            of = [each for each in self.needs if each["component"] == f"{kind.kind} '{name}'"]
            if not of:
                raise
            raise PluginError(
                f"{error}; by the checkpoint it is of the distribution '{of[0]['distribution']}' version "
                f"'{of[0]['version']}' (plugin '{of[0]['plugin']}')"
            ) from error
        for options in parts_of(made):
            declare = getattr(options, "local_reads", None)
            if callable(declare):
                yield from (("", str(what)) for what in declare())


def chosen_metrics(
    crosscoder: Crosscoder, metrics: Sequence[str | Mapping[str, Any]] | None, registry: Registry | None
) -> dict[str, Metric]:
    """The further metrics that are named, or those of the crosscoder's recipe.

    `AnalysisError` where the recipe's cannot be had here, or would read files of this machine.
    """
    tables = _recorded_metrics(crosscoder) if metrics is None else metrics
    named = [{"name": each} if isinstance(each, str) else each for each in tables]
    try:
        choices = [structure(table, MetricChoice, registry=registry) for table in named]
    except CrosscodersError as error:
        if metrics is not None:
            raise
        raise AnalysisError(f"{error} (a metric of the crosscoder's recipe; metrics=[] does without)") from error
    return build_metrics(choices, registry=registry)


def _recorded_metrics(crosscoder: Crosscoder) -> list[Mapping[str, Any]]:
    info = crosscoder.info
    tables = info.recipe.get("metrics", []) if info else []
    if not isinstance(tables, list | tuple) or not all(isinstance(table, Mapping) for table in tables):
        raise AnalysisError("the recipe of this crosscoder is malformed: its metrics are not a list of tables")
    for table in tables if info and not info.own else ():
        if local_strings(table) or addresses(table) or recorded_strings(table):
            raise AnalysisError(
                f"the metric {_shown(table)} of this crosscoder's recipe would read what only who trained it has; pass "
                "metrics= of your own, [] for none"
            )
    return list(tables)


def _in_place_of(key: str, recorded: Any, model: Any) -> Any:
    if not isinstance(model, str):
        return model
    recorded = recorded if isinstance(recorded, Mapping) else {}
    if recorded.get("lora"):
        # The name of a base alone would take away the very thing that was trained on.
        raise AnalysisError(
            f"the model '{key}' of this crosscoder has an adapter ({_shown({'lora': recorded['lora']})}), which a name "
            f'alone does not: give it a table with both, {{"name": "transformers", "model": ..., "lora": ...}}'
        )
    kept = {option: recorded[option] for option in KEPT if option in recorded}
    return {"name": "transformers", **kept, "model": model}


def _set(choice: Any) -> Any:
    """A table without options that are empty, so that what is said of it has room for the others."""
    if not isinstance(choice, Mapping):
        return choice
    return {key: value for key, value in choice.items() if value is not False and value not in ("", [], {}, ())}


def _shown(choice: Any) -> str:
    text = json.dumps(choice, default=str)  # ASCII, so that nothing of it steers a terminal
    return text if len(text) <= SHOWN else text[:SHOWN] + " ..."


def _instead(key: str) -> str:
    return "tokens= (--tokens)" if key == "tokens" else f"models={{'{key}': ...}} (--models {key}=ID_OR_FOLDER)"


def _and(names: list[str]) -> str:
    return " and ".join(names)
