"""The form of JSON data that others read, a graph's and a latent's among them: which keys there are, which are needed,
and of which type.

A form is a type's name (several with "or"), a table, a list of one form, or a list of forms, which stands for one of
that length. Other keys are allowed everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import field, frozen

from ..errors import shown


@frozen
class Table:
    """A table with keys of these forms, and any others."""

    needed: Mapping[str, Any] = field(factory=dict)
    optional: Mapping[str, Any] = field(factory=dict)


@frozen
class List:
    """A list of values of one form."""

    of: Any


@frozen
class Values:
    """A table with any keys and values of one form."""

    of: Any


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and value == int(value)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": _is_integer,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}

_PAIRS = Table(
    needed={
        "pair_wise_contributors": List(["string", "string", "number"]),
        "top_q_marginal_contributors": List(["string", "number"]),
        "top_k_marginal_contributors": List(["string", "number"]),
    }
)
GRAPH = Table(
    needed={
        "metadata": Table(
            needed={"slug": "string", "scan": "string", "prompt_tokens": List("string"), "prompt": "string"},
            optional={
                "feature_details": Table(
                    optional={
                        "feature_json_base_url": "string",
                        "neuronpedia_source_set": "string",
                        "neuronpedia_lorsa_source_set": "string",
                    }
                ),
                "node_threshold": "number",
                "schema_version": "number",
                "info": Table(
                    optional={
                        **dict.fromkeys(("description", "creator_name", "creator_url"), "string"),
                        "source_urls": List("string"),
                        "generator": Table(optional=dict.fromkeys(("name", "version", "url", "email"), "string")),
                        "create_time_ms": "number",
                        "neuronpedia_source_set": "string",
                    }
                ),
                "generation_settings": Table(
                    optional={
                        **dict.fromkeys(("max_n_logits", "batch_size", "max_feature_nodes"), "integer"),
                        "desired_logit_prob": "number",
                    }
                ),
                "pruning_settings": Table(optional=dict.fromkeys(("node_threshold", "edge_threshold"), "number")),
            },
        ),
        "qParams": Table(
            optional={
                "pinnedIds": List("string"),
                "supernodes": List(List("string")),
                **dict.fromkeys(("linkType", "clickedId", "sg_pos"), "string"),
            }
        ),
        "nodes": List(
            Table(
                needed={
                    **dict.fromkeys(("node_id", "feature_type", "jsNodeId", "clerp"), "string"),
                    "feature": "integer or null",
                    "layer": "string or integer",
                    "ctx_idx": "integer",
                },
                optional={
                    "influence": "number or null",
                    "activation": "number or null",
                    "qk_tracing_results": _PAIRS,
                },
            )
        ),
        "links": List(Table(needed={"source": "string", "target": "string", "weight": "number"})),
    },
    optional={
        "qk_only_nodes": Values(
            Table(
                needed={
                    **dict.fromkeys(("node_id", "feature_type", "jsNodeId", "clerp"), "string"),
                    "layer": "string or integer",
                    "ctx_idx": "integer",
                }
            )
        )
    },
)
FEATURE = Table(
    needed={
        "index": "number",
        "examples_quantiles": List(
            Table(
                needed={
                    "quantile_name": "string",
                    "examples": List(Table(needed={"tokens_acts_list": List("number"), "tokens": List("string")})),
                }
            )
        ),
    },
    optional={"top_logits": List("string"), "bottom_logits": List("string")},
)


def problems_of_form(value: Any, form: Any, place: str) -> Iterator[str]:
    """Where a value is not of a form: a key missing, or a value of another type, each with its place."""
    if isinstance(form, Table | Values):
        if not isinstance(value, Mapping):
            yield f"{place} should be a table, not {shown(value)}"
        elif isinstance(form, Values):
            for key, one in value.items():
                yield from problems_of_form(one, form.of, f"{place}[{shown(key)}]")
        else:
            for key, inner in {**form.needed, **form.optional}.items():
                if key in value:
                    yield from problems_of_form(value[key], inner, f"{place}.{key}")
                elif key in form.needed:
                    yield f"{place}.{key} is missing"
    elif isinstance(form, List):
        if not isinstance(value, list):
            yield f"{place} should be a list, not {shown(value)}"
            return
        for i, one in enumerate(value):
            yield from problems_of_form(one, form.of, f"{place}[{i}]")
    elif isinstance(form, list):  # a list of fixed length
        if not isinstance(value, list) or len(value) != len(form):
            yield f"{place} should be a list of {len(form)}, not {shown(value)}"
            return
        for i, (one, inner) in enumerate(zip(value, form, strict=True)):
            yield from problems_of_form(one, inner, f"{place}[{i}]")
    elif not any(_TYPES[name](value) for name in form.split(" or ")):
        yield f"{place} should be {form}, not {shown(value)}"
