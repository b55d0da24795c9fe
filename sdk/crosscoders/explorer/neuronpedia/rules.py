"""What rows, bodies and batches of the right form must say, besides, so that Neuronpedia takes and shows them.

Rows are looked at one by one here; what they say about each other is looked at in `checking`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from ...circuits.graph_form import problems_of_form
from ...errors import shown
from .forms import BATCH, BODIES, ROWS

MODEL_ID = re.compile(r"(?=.{2,32}$)[a-z](?:[a-z0-9]|[.-](?![.-]))*[a-z0-9]")
SET_NAME = re.compile(r"[a-z0-9](?:-?[a-z0-9])*")
SOURCE_ID = re.compile(r"(?P<layer>\d{1,3})-(?P<set>[a-z0-9-]+?)(?:__(?P<suffix>[A-Za-z0-9_.-]+))?")
MOST_FEATURES, LARGEST_INDEX, MOST_EFFECTS = 128, 10_000_000, 20
MOST_TOKENS, LARGEST_QUANTILE = 1024, 99_999_999
MOST_LAYERS, LONGEST_NAME, LONGEST_DESCRIPTION, LONGEST_EXPLANATION = 127, 64, 128, 512
EMBEDDING_SIZE = 256


def row_problems(kind: str, row: Any, place: str) -> list[str]:
    """What is wrong with one line of a bulk export; `kind` names the file or folder that it is in."""
    found = list(problems_of_form(row, ROWS[kind], place))
    return found or [*_of_row(kind, row, place), *_unprintable(row, place)]


def body_problems(kind: str, body: Any, place: str = "body") -> list[str]:
    """What is wrong with the body of a call of the API: new-model, new-source-set, upload-batch, upload-activations."""
    found = list(problems_of_form(body, BODIES[kind], place))
    return found or [*_BODY_RULES[kind](body, place), *_unprintable(body, place)]


def batch_problems(batch: Any, place: str = "batch") -> list[str]:
    """What is wrong with a batch of SAEDashboard."""
    found = list(problems_of_form(batch, BATCH, place))
    return found or [*_of_batch(batch, place), *_unprintable(batch, place)]


def model_id_problems(name: str, place: str) -> Iterator[str]:
    """A model's id: 2 to 32 of a-z, 0-9, '.' and '-', from a letter to a letter or digit, no two marks in a row."""
    if not MODEL_ID.fullmatch(name):
        yield (
            f"{place} should be 2 to 32 lower-case letters, digits, '.' and '-', begin with a letter, end with a "
            f"letter or digit, and have no two marks in a row, not {shown(name)}"
        )


def set_name_problems(name: str, place: str) -> Iterator[str]:
    """A source set's name: a-z, 0-9 and '-', no mark at an end or twice in a row, not 'neurons'."""
    if not SET_NAME.fullmatch(name) or name == "neurons":
        yield (
            f"{place} should be lower-case letters, digits and single '-' between them, and not 'neurons', "
            f"not {shown(name)}"
        )


# -- rows -------------------------------------------------------------------------------------------------------------


def _of_row(kind: str, row: Mapping[str, Any], place: str) -> Iterator[str]:
    for key, form in ROWS[kind].needed.items():
        if form == "string" and not row[key].strip() and (key != "description" or kind == "explanations"):
            yield f"{place}.{key} is empty"
    for key in ("createdAt", "updatedAt"):
        if row.get(key) is not None and not _is_time(row[key]):
            yield f"{place}.{key} should be a time such as 2026-01-31T12:00:00+00:00, not {shown(row[key])}"
    if kind == "model":
        yield from model_id_problems(row["id"], f"{place}.id")
        yield from _layers(row["layers"], f"{place}.layers")
    if kind == "sourceset":
        yield from set_name_problems(row["name"], f"{place}.name")
    if kind == "source":
        yield from _of_source(row, place)
    if kind in ("features", "activations", "explanations") and not _is_index(row["index"]):
        yield f"{place}.index should be a number from 0 to {LARGEST_INDEX:,} as text, not {shown(row['index'])}"
    if kind == "features":
        yield from _of_feature(row, place)
    if kind == "activations":
        yield from _of_activation(row, place)
    if kind == "explanations" and (embedding := row.get("embedding")) is not None:
        numbers = isinstance(embedding, list) and all(isinstance(value, int | float) for value in embedding)
        if not numbers or len(embedding) != EMBEDDING_SIZE:
            yield f"{place}.embedding should be {EMBEDDING_SIZE} numbers, not {shown(embedding)}"


def _of_source(row: Mapping[str, Any], place: str) -> Iterator[str]:
    match = SOURCE_ID.fullmatch(row["id"])
    if match is None or match["set"] != row["setName"]:
        yield f"{place}.id should be a layer, '-', setName, and at most '__' and a suffix, not {shown(row['id'])}"
    for key in ("num_prompts", "num_tokens_in_prompt"):
        if (row.get(key) or 0) < 0:
            yield f"{place}.{key} is {row[key]}"


def _of_feature(row: Mapping[str, Any], place: str) -> Iterator[str]:
    yield from _share(row.get("frac_nonzero"), f"{place}.frac_nonzero")
    yield from _statistics(row, place)
    yield from _same_length(row, place, "topkCosSimIndices", "topkCosSimValues")
    if bool(row.get("hasVector")) != bool(row.get("vector")):
        yield f"{place}.hasVector is {row.get('hasVector')}, but vector has {len(row.get('vector') or [])} numbers"


def _of_activation(row: Mapping[str, Any], place: str) -> Iterator[str]:
    yield from _tokens(row, place)
    tokens, values = row["tokens"], row["values"]
    if len(tokens) != len(values) or not values:
        return
    at = row["maxValueTokenIndex"]
    if not 0 <= at < len(values) or values[at] != row["maxValue"]:
        yield f"{place}.maxValueTokenIndex should say where in values maxValue is, not {at}"
    if row["maxValue"] != max(values) or row["minValue"] != min(values):
        yield f"{place}.maxValue and .minValue should be {max(values)} and {min(values)}, those of values"
    for key in ("dfaValues", "lossValues"):
        if row.get(key) and len(row[key]) != len(tokens):
            yield f"{place}.{key} has {len(row[key])} numbers, and there are {len(tokens)} tokens"
    if (at := row.get("qualifyingTokenIndex")) is not None and not 0 <= at < len(tokens):
        yield f"{place}.qualifyingTokenIndex is {at}, and there are {len(tokens)} tokens"
    yield from _bin(row, place, "binMin", "binMax", "binContains")


# -- bodies and batches -----------------------------------------------------------------------------------------------


def _of_new_model(body: Mapping[str, Any], place: str) -> Iterator[str]:
    yield from model_id_problems(body["id"], f"{place}.id")
    yield from _layers(body["layers"], f"{place}.layers")
    yield from _longest(body, place, displayName=LONGEST_NAME)


def _of_new_set(body: Mapping[str, Any], place: str) -> Iterator[str]:
    yield from set_name_problems(body["name"], f"{place}.name")
    yield from model_id_problems(body["modelId"], f"{place}.modelId")
    yield from _longest(body, place, description=LONGEST_DESCRIPTION)


def _of_upload(body: Mapping[str, Any], place: str) -> Iterator[str]:
    yield from model_id_problems(body["modelId"], f"{place}.modelId")
    if not SOURCE_ID.fullmatch(body["source"]) or body["source"] != body["source"].lower():
        yield f"{place}.source should be a layer, '-' and a source set, in lower case, not {shown(body['source'])}"
    features = body["features"]
    if not 1 <= len(features) <= MOST_FEATURES:
        yield f"{place}.features has {len(features)} entries, and 1 to {MOST_FEATURES} are taken at once"
    twice = [index for index, count in Counter(one["index"] for one in features).items() if count > 1]
    yield from (f"{place}.features has index {index} more than once" for index in twice)
    for i, feature in enumerate(features):
        yield from _of_uploaded(feature, f"{place}.features[{i}]")


def _of_uploaded(feature: Mapping[str, Any], place: str) -> Iterator[str]:
    if not 0 <= feature["index"] <= LARGEST_INDEX:
        yield f"{place}.index should be from 0 to {LARGEST_INDEX:,}, not {feature['index']}"
    yield from _share(feature.get("density"), f"{place}.density")
    for key in ("topLogits", "bottomLogits"):
        effects = feature.get(key, [])
        if len(effects) > MOST_EFFECTS:
            yield f"{place}.{key} has {len(effects)} entries; {MOST_EFFECTS} are taken"
        yield from (f"{place}.{key}[{i}].token is empty" for i, effect in enumerate(effects) if not effect["token"])
    if not feature["activations"]:
        yield f"{place}.activations is empty: a latent that is never active cannot be sent"
    yield from _of_activations(feature, place)
    for i, explanation in enumerate(feature.get("explanations", [])):
        text = explanation["text"]
        if not 1 <= len(text) <= LONGEST_EXPLANATION:
            yield f"{place}.explanations[{i}].text has {len(text)} characters; 1 to {LONGEST_EXPLANATION} are taken"
        for key in ("methodName", "modelName"):
            if explanation.get(key, "") != explanation.get(key, "").lower():
                yield f"{place}.explanations[{i}].{key} should be in lower case, not {shown(explanation[key])}"


def _of_activations(body: Mapping[str, Any], place: str) -> Iterator[str]:
    for i, activation in enumerate(body["activations"]):
        at = f"{place}.activations[{i}]"
        yield from _tokens(activation, at)
        for key in ("quantileMin", "quantileMax"):
            if activation.get(key, 0) > LARGEST_QUANTILE:
                yield f"{at}.{key} is more than {LARGEST_QUANTILE:,}"
        yield from _share(activation.get("quantileFraction"), f"{at}.quantileFraction")


def _of_one_latent(body: Mapping[str, Any], place: str) -> Iterator[str]:
    if not _is_index(body["index"]):
        yield f"{place}.index should be a number as text, not {shown(body['index'])}"
    yield from _of_activations(body, place)


_BODY_RULES = {
    "new-model": _of_new_model,
    "new-source-set": _of_new_set,
    "upload-batch": _of_upload,
    "upload-activations": _of_one_latent,
}


def _of_batch(batch: Mapping[str, Any], place: str) -> Iterator[str]:
    yield from _layers(batch["layer"] + 1, f"{place}.layer")
    twice = [index for index, count in Counter(one["feature_index"] for one in batch["features"]).items() if count > 1]
    yield from (f"{place}.features has feature_index {index} more than once" for index in twice)
    for i, feature in enumerate(batch["features"]):
        at = f"{place}.features[{i}]"
        if not 0 <= feature["feature_index"] <= LARGEST_INDEX:
            yield f"{at}.feature_index should be from 0 to {LARGEST_INDEX:,}, not {feature['feature_index']}"
        yield from _share(feature["frac_nonzero"], f"{at}.frac_nonzero")
        yield from _statistics(feature, at)
        for k, activation in enumerate(feature["activations"]):
            yield from _tokens(activation, f"{at}.activations[{k}]")
            if not 0 <= activation["qualifying_token_index"] < max(1, len(activation["tokens"])):
                yield f"{at}.activations[{k}].qualifying_token_index is {activation['qualifying_token_index']}"
            yield from _bin(activation, f"{at}.activations[{k}]", "bin_min", "bin_max", "bin_contains")


# -- what several have in common --------------------------------------------------------------------------------------


def _tokens(row: Mapping[str, Any], place: str) -> Iterator[str]:
    tokens, values = row["tokens"], row["values"]
    if not 1 <= len(tokens) <= MOST_TOKENS:
        yield f"{place}.tokens has {len(tokens)} entries; 1 to {MOST_TOKENS} are taken"
    if len(tokens) != len(values):
        yield f"{place} has {len(tokens)} tokens and {len(values)} values"
    yield from (f"{place}.tokens[{i}] is empty" for i, token in enumerate(tokens) if not token)


def _statistics(row: Mapping[str, Any], place: str) -> Iterator[str]:
    yield from _same_length(row, place, "pos_str", "pos_values")
    yield from _same_length(row, place, "neg_str", "neg_values")
    for name in ("freq_hist_data", "logits_hist_data"):
        yield from _same_length(row, place, f"{name}_bar_heights", f"{name}_bar_values")


def _same_length(row: Mapping[str, Any], place: str, first: str, second: str) -> Iterator[str]:
    lengths = [len(row.get(key) or []) for key in (first, second)]
    if lengths[0] != lengths[1]:
        yield f"{place}.{first} has {lengths[0]} entries and .{second} {lengths[1]}"


def _bin(row: Mapping[str, Any], place: str, low: str, high: str, share: str) -> Iterator[str]:
    """Bounds that a top example has not are −1."""
    bounds, part = (row.get(low), row.get(high)), row.get(share)
    if None not in bounds and bounds[0] > bounds[1]:  # type: ignore[operator]
        yield f"{place}.{low} is {bounds[0]}, above {high}, {bounds[1]}"
    if part is not None and part != -1:
        yield from _share(part, f"{place}.{share}")


def _share(value: float | None, place: str) -> Iterator[str]:
    if value is not None and not 0 <= value <= 1:
        yield f"{place} should be from 0 to 1, not {value}"


def _layers(count: int, place: str) -> Iterator[str]:
    if not 1 <= count <= MOST_LAYERS:
        yield f"{place} is out of range: models have 1 to {MOST_LAYERS} layers"


def _longest(body: Mapping[str, Any], place: str, **lengths: int) -> Iterator[str]:
    for key, length in lengths.items():
        if len(body.get(key, "")) > length:
            yield f"{place}.{key} has {len(body[key])} characters; {length} are taken"


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit() and str(int(text)) == text and int(text) <= LARGEST_INDEX


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _unprintable(value: Any, place: str) -> Iterator[str]:
    """Numbers that JSON does not have, and the character that the importer turns into a blank."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{place} is {value}, which JSON does not have"
    elif isinstance(value, str) and "\0" in value:
        yield f"{place} has a null character, which becomes a blank: {shown(value)}"
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _unprintable(one, f"{place}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for i, one in enumerate(value):
            yield from _unprintable(one, f"{place}[{i}]")
