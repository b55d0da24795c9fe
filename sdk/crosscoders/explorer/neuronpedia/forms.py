"""The form of everything that Neuronpedia takes about latents: keys, which are needed, and types. The tables are ours.

Rows are lines of its bulk layout, bodies are those of its API, and a batch is a file of SAEDashboard.
"""

from __future__ import annotations

from typing import Any

from ...circuits.graph_form import List, Table


def _keys(form: Any, *names: str) -> dict[str, Any]:
    return dict.fromkeys(names, form)


def _strings(*names: str) -> dict[str, Any]:
    return _keys("string", *names)


_NULLABLE = "string or null"
_FLAG = "boolean or null"
_WHOLE = "integer or null"
_REAL = "number or null"
_NUMBERS, _WHOLES, _TEXTS = List("number"), List("integer"), List("string")

_STATISTICS: dict[str, Any] = {
    **_keys(
        _WHOLES, "neuron_alignment_indices", "correlated_neurons_indices", "correlated_features_indices"
    ),
    **_keys(
        _NUMBERS,
        "neuron_alignment_values",
        "neuron_alignment_l1",
        "correlated_neurons_pearson",
        "correlated_neurons_l1",
        "correlated_features_pearson",
        "correlated_features_l1",
        "pos_values",
        "neg_values",
        "freq_hist_data_bar_heights",
        "freq_hist_data_bar_values",
        "logits_hist_data_bar_heights",
        "logits_hist_data_bar_values",
        "decoder_weights_dist",
    ),
    **_keys(_TEXTS, "pos_str", "neg_str"),
    "frac_nonzero": "number",
}  # fmt: skip

ROWS: dict[str, Table] = {
    "release": Table(
        needed=_strings("name", "description", "creatorName", "creatorId"),
        optional={
            **_keys(_NULLABLE, "visibility", "descriptionShort", "creatorEmail", "creatorNameShort", "createdAt"),
            **_keys(_FLAG, "isNewUi", "featured"),
            "urls": _TEXTS,
        },
    ),
    "model": Table(
        needed={
            **_strings("id", "creatorId", "displayName", "displayNameShort", "owner"),
            **_keys("integer", "layers", "neuronsPerLayer"),
            "instruct": "boolean",
        },
        optional={
            **_keys(_NULLABLE, "tlensId", "visibility", "createdAt", "updatedAt", "website"),
            **_keys(_FLAG, "inferenceEnabled", "thinking"),
            "dimension": _WHOLE,
        },
    ),
    "sourceset": Table(
        needed=_strings("modelId", "name", "creatorId", "creatorName", "description"),
        optional={
            **_keys(_NULLABLE, "type", "visibility", "releaseName", "createdAt"),
            **_keys(_FLAG, "hasDashboards", "showDfa"),
            "urls": _TEXTS,
        },
    ),
    "source": Table(
        needed=_strings("id", "modelId", "setName", "creatorId"),
        optional={
            **_keys(_NULLABLE, "hfRepoId", "hfFolderId", "dataset", "notes", "visibility", "createdAt"),
            **_keys(_WHOLE, "num_prompts", "num_tokens_in_prompt"),
            "hasDashboards": _FLAG,
        },
    ),
    "features": Table(
        needed=_strings("modelId", "layer", "index"),
        optional={
            **_keys(_NULLABLE, "sourceSetName", "creatorId", "vectorLabel", "hookName", "createdAt"),
            **_keys(_REAL, "maxActApprox", "vectorDefaultSteerStrength"),
            **_STATISTICS,
            "frac_nonzero": _REAL,
            "hasVector": _FLAG,
            "vector": _NUMBERS,
            "topkCosSimIndices": _WHOLES,
            "topkCosSimValues": _NUMBERS,
        },
    ),
    "activations": Table(
        needed={
            **_strings("id", "modelId", "layer", "index", "creatorId"),
            **_keys("number", "maxValue", "minValue"),
            "tokens": _TEXTS,
            "values": _NUMBERS,
            "maxValueTokenIndex": "integer",
        },
        optional={
            **_keys(_REAL, "binMin", "binMax", "binContains", "dfaMaxValue"),
            **_keys(_WHOLE, "qualifyingTokenIndex", "dfaTargetIndex"),
            **_keys(_NUMBERS, "dfaValues", "lossValues"),
            **_keys(_NULLABLE, "logitContributions", "dataSource", "createdAt"),
        },
    ),
    "explanations": Table(
        needed=_strings("id", "modelId", "layer", "index", "description", "authorId"),
        optional=_keys(_NULLABLE, "typeName", "explanationModelName", "notes", "triggeredById", "createdAt"),
    ),
}
"""By the file or folder that they are in."""

_EFFECT = Table(needed={"token": "string", "value": "number"})
_ACTIVATION = Table(
    needed={"tokens": _TEXTS, "values": _NUMBERS},
    optional=_keys("number", "quantileMin", "quantileMax", "quantileFraction"),
)
BODIES: dict[str, Table] = {
    "new-model": Table(needed={"id": "string", "layers": "integer"}, optional=_strings("displayName", "url")),
    "new-source-set": Table(needed=_strings("name", "modelId"), optional=_strings("description", "url")),
    "upload-batch": Table(
        needed={
            **_strings("modelId", "source"),
            "features": List(
                Table(
                    needed={"index": "integer", "activations": List(_ACTIVATION)},
                    optional={
                        "density": "number",
                        "topLogits": List(_EFFECT),
                        "bottomLogits": List(_EFFECT),
                        "explanations": List(
                            Table(needed=_strings("text"), optional=_strings("methodName", "modelName"))
                        ),
                    },
                )
            ),
        }
    ),
    "upload-activations": Table(
        needed={**_strings("modelId", "source", "index"), "activations": List(_ACTIVATION)},
    ),
}
"""By what they ask for: a new model, a new source set, latents of a source, activations of one latent."""

BATCH = Table(
    needed={
        "model_id": "string",
        "layer": "integer",
        "sae_id_suffix": _NULLABLE,
        "features": List(
            Table(
                needed={
                    "feature_index": "integer",
                    **_STATISTICS,
                    "activations": List(
                        Table(
                            needed={
                                "tokens": _TEXTS,
                                "values": _NUMBERS,
                                **_keys("number", "bin_min", "bin_max", "bin_contains"),
                                "qualifying_token_index": "integer",
                            },
                            optional={
                                **_keys(_NUMBERS, "dfa_values", "loss_values"),
                                "dfa_maxValue": _REAL,
                                "dfa_targetIndex": _WHOLE,
                                "logit_contributions": _NULLABLE,
                            },
                        )
                    ),
                },
                optional={
                    **_keys("integer", "n_prompts_total", "n_tokens_in_prompt"),
                    "dataset": "string",
                    "vector": _NUMBERS,
                },
            )
        ),
    },
    optional={"sae_set": _NULLABLE},
)
"""A file `batch-N.json`."""
