"""Graphs as JSON for viewers: written, read back, and refused for each rule that they may break."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from circuit_models import PROMPT, clt, models, tiny
from crosscoders import AnalysisError
from crosscoders.circuits.attribution import attribution_graph
from crosscoders.circuits.graph_json import graph_to_json, read_graph_json, visible, write_graph_json
from crosscoders.circuits.graph_rules import (
    cantor,
    check_graph_json,
    feature_problems,
    graph_problems,
    uncantor,
    upload_problems,
)
from crosscoders.circuits.replacement import ReplacementModel
from crosscoders.circuits.rows import csr_from_tensors
from crosscoders.circuits.targets import Difference, Direction

DATA = Path(__file__).parent.parent / "data" / "circuits"


def make(name="clt", **options):
    model = ReplacementModel(clt(tiny()) if name == "clt" else models(name), tiny())
    return attribution_graph(model, PROMPT, progress=False, **options)


@pytest.mark.parametrize("name", ["clt", "attention too"])
@pytest.mark.parametrize("targets", [None, [4, Difference(5, 9), Direction("a 'way' ⏎ \"to\"", torch.ones(16))]])
def test_what_is_written_is_read_back(name, targets, tmp_path):
    found = make(name, targets=targets)
    path = write_graph_json(found, tmp_path / "my graph.json", scan="tiny", source_set="set", bias_node=True)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["metadata"]["slug"] == "my-graph" and graph_problems(content) == []
    again, part = read_graph_json(path), found.pruned()
    assert 0 < part.num_latents < found.num_latents
    assert (again.edges_MM != part.edges_MM).nnz == 0
    for one in ("latent_n3", "value_n"):
        assert torch.equal(getattr(again, one), getattr(part, one)), one
    rows = [*range(part.num_latents), *range(part.logits.start, part.num_nodes)]
    for one in ("constant_M", "left_out_M", "total_M"):
        assert torch.equal(getattr(again, one)[rows], getattr(part, one)[rows]), one
    for one in ("ids", "texts", "cuts", "targets", "position", "num_layers", "vocabulary_size", "num_active", "record"):
        assert getattr(again, one) == getattr(part, one), one
    assert again.gap() < 1e-6 and part.gap() < 1e-6


def test_nodes_are_as_circuit_tracer_writes_them():
    """Its file has one id for two nodes, which is refused; without them it is read, with its edges."""
    content = json.loads((DATA / "tiny.json").read_text())
    with pytest.raises(AnalysisError, match="2 nodes have node_id '0_2_8'"):
        read_graph_json(DATA / "tiny.json")
    content["nodes"] = [node for node in content["nodes"] if node["node_id"] != "0_2_8"]
    content["links"] = [link for link in content["links"] if "0_2_8" not in (link["source"], link["target"])]
    content["nodes"][0]["jsNodeId"] = content["nodes"][1]["jsNodeId"]  # so are a latent's at several positions there
    assert "2 nodes have jsNodeId" in graph_problems(content)[0]
    found = read_graph_json(content)
    oracle = load_file(DATA / "oracle.safetensors")
    size = len(oracle["indptr"]) - 1
    edges = csr_from_tensors(oracle, (size, size)).toarray()
    features = oracle["features"].tolist()
    place = [features.index(latent) for latent in found.latent_n3.tolist()]
    place += range(len(features), size)  # errors, embeddings and logits are all there in both
    kept = found.edges_MM.toarray()
    np.testing.assert_array_equal(kept[kept != 0], edges[np.ix_(place, place)][kept != 0])
    assert found.edges_MM.nnz == len(content["links"]) and found.num_layers == 4
    assert found.ids == oracle["ids"].tolist()
    assert [target.token for target in found.targets] == oracle["logit_ids"].tolist()
    assert [target.label for target in found.targets][:2] == ["w28", "w60"]


def test_influences_ids_and_labels():
    found = make()
    layer, _, index = found.pruned().latent_n3[0].tolist()
    content = graph_to_json(found, slug="s", scan="m", labels={(layer, index): "a\nlabel"})
    kept = found.prune()
    by_id = {node["node_id"]: node for node in content["nodes"]}
    assert len(by_id) == len(content["nodes"])
    for node in np.flatnonzero(kept.nodes_M[found.latents]):
        one_layer, position, one_index = found.latent_n3[node].tolist()
        written = by_id[f"{one_layer}_{one_index}_{position}"]
        assert written["influence"] == pytest.approx(kept.cumulative_M[node])
        assert uncantor(written["feature"]) == (one_layer, one_index)
        assert written["activation"] == float(found.value_n[node])
    assert by_id[content["nodes"][0]["node_id"]]["clerp"] == "a⏎label"
    assert {f"E_{token}_{t}" for t, token in enumerate(PROMPT)} <= set(by_id)
    logits = [node for node in content["nodes"] if node["feature_type"] == "logit"]
    assert [node["is_target_logit"] for node in logits] == [True] + [False] * (len(logits) - 1)
    assert logits[0]["clerp"].startswith('Output "') and "(p=0." in logits[0]["clerp"]


def test_pairing_is_undone_by_floating_point():
    for layer in (0, 1, 25, 126):
        for index in (0, 1, 16_383, 10_000_000, 47_000_000 - layer):
            assert uncantor(cantor(layer, index)) == (layer, index)


def test_text_is_shown_as_it_should_be_printed():
    assert visible("a\nb\tc\x07é") == "a⏎b⇥c\\x07é"


@pytest.fixture(scope="module")
def good():
    content = graph_to_json(make(), slug="a.slug", scan="model-1", source_set="set")
    assert graph_problems(content) == []
    return content


def _set(path, value):
    def change(content):
        *steps, last = path
        for step in steps:
            content = content[step]
        content[last] = value

    return change


def _delete(*path):
    def change(content):
        *steps, last = path
        for step in steps:
            content = content[step]
        del content[last]

    return change


def _latent(content):
    return next(node for node in content["nodes"] if node["feature_type"] == "cross layer transcoder")


def _of_latent(key, value):
    return lambda content: _latent(content).update({key: value})


def _of_logit(key, value):
    def change(content):
        next(node for node in content["nodes"] if node["feature_type"] == "logit")[key] = value

    return change


def _one_layer(content):
    content["nodes"] = [n for n in content["nodes"] if n["layer"] in ("0", "E") or n["feature_type"] == "logit"]
    there = {node["node_id"] for node in content["nodes"]}
    content["links"] = [one for one in content["links"] if {one["source"], one["target"]} <= there]


def _with_base(content):
    content["metadata"]["feature_details"]["feature_json_base_url"] = "https://example.org/x"


def _plain_base(content):
    _delete("metadata", "schema_version")(content)
    content["metadata"]["feature_details"] = {"feature_json_base_url": "http://example.org/x"}
    content["metadata"]["info"] = {}


def _slash(content):
    for key in ("feature_details", "info"):
        content["metadata"][key]["neuronpedia_source_set"] = "a/b"


FAULTS = {
    "no metadata": (_delete("metadata"), "graph.metadata is missing"),
    "no qParams": (_delete("qParams"), "graph.qParams is missing"),
    "nodes are a table": (_set(["nodes"], {}), "graph.nodes should be a list"),
    "a prompt token is a number": (
        _set(["metadata", "prompt_tokens", 0], 3),
        r"graph.metadata.prompt_tokens\[0\] should be string",
    ),
    "no prompt": (_delete("metadata", "prompt"), "graph.metadata.prompt is missing"),
    "a threshold is text": (_set(["metadata", "node_threshold"], "0.8"), "node_threshold should be number"),
    "a feature is a fraction": (_of_latent("feature", 1.5), "feature should be integer or null, not 1.5"),
    "a flag for a number": (_of_latent("ctx_idx", True), "ctx_idx should be integer, not True"),
    "no clerp": (lambda c: _latent(c).pop("clerp"), "clerp is missing"),
    "weight is text": (_set(["links", 0, "weight"], "1"), r"links\[0\].weight should be number"),
    "settings": (
        _set(["metadata", "generation_settings"], {"max_n_logits": 2.5}),
        "generation_settings.max_n_logits should be integer",
    ),
    "supernodes": (_set(["qParams", "supernodes"], [["a", 1]]), r"supernodes\[0\]\[1\] should be string"),
    "tracing": (
        _of_latent("qk_tracing_results", {"pair_wise_contributors": [["a", "b"]]}),
        "pair_wise_contributors\\[0\\] should be a list of 3|top_q_marginal_contributors is missing",
    ),
    "qk only": (_set(["qk_only_nodes"], {"x": {"node_id": "x"}}), r"qk_only_nodes\['x'\].feature_type is missing"),
    "slug": (_set(["metadata", "slug"], "a b"), "metadata.slug should be letters"),
    "scan": (_set(["metadata", "scan"], "repo//folder@rev"), "metadata.scan should be letters"),
    "an id twice": (lambda c: c["nodes"][1].update(node_id=c["nodes"][0]["node_id"]), "2 nodes have node_id"),
    "a js id twice": (lambda c: c["nodes"][1].update(jsNodeId=c["nodes"][0]["jsNodeId"]), "2 nodes have jsNodeId"),
    "a link from nowhere": (_set(["links", 0, "source"], "x"), r"links\[0\].source 'x' is not a node"),
    "a link to itself": (lambda c: c["links"][0].update(source=c["links"][0]["target"]), "to itself"),
    "pinned": (_set(["qParams", "pinnedIds"], ["x"]), "qParams names 'x', which is not a node"),
    "a supernode of nothing": (_set(["qParams", "supernodes"], [["a"]]), "a label and at least one node"),
    "nan": (_set(["links", 0, "weight"], float("nan")), "is nan, which JSON does not have"),
    "infinite": (_of_latent("activation", float("inf")), "is inf, which JSON does not have"),
    "influence": (_of_latent("influence", 1.5), r"influence should be in \[0, 1\], not 1.5"),
    "type": (_of_latent("feature_type", "latent"), "feature_type 'latent' is not one of"),
    "position": (_of_latent("ctx_idx", 7), "ctx_idx is 7, but there are 7 prompt_tokens"),
    "embedding": (
        lambda c: next(n for n in c["nodes"] if n["feature_type"] == "embedding").update(layer="0"),
        "layer of an embedding should be 'E'",
    ),
    "layer": (_of_latent("layer", "one"), "layer should be a number, not 'one'"),
    "probability": (_of_logit("clerp", 'Output "x"'), "should end in a probability"),
    "control characters": (_of_latent("clerp", "a\nb"), "control characters"),
    "one layer": (_one_layer, "no node but logits has a layer of 1 or more"),
    "a base beside a set": (_with_base, "feature_json_base_url, which is not looked at"),
    "a base without encryption": (_plain_base, "should begin with https://"),
    "two sets": (_set(["metadata", "info", "neuronpedia_source_set"], "other"), "the same neuronpedia_source_set"),
    "a set in a folder": (_slash, "should not have a '/'"),
    "unpaired": (_of_latent("feature", -1), "its layer and index in one number, not -1"),
    "too large": (_of_latent("feature", 2 * 10**15), "too large for a browser"),
    "paired with another layer": (_of_latent("feature", cantor(9, 3)), "is of layer 9, but its layer is"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_refused_with_its_place(fault, good):
    change, message = FAULTS[fault]
    content = copy.deepcopy(good)
    change(content)
    with pytest.raises(AnalysisError, match=message):
        check_graph_json(content)


def test_a_logit_may_have_no_text_and_a_graph_other_keys(good):
    content = copy.deepcopy(good)
    _of_logit("clerp", "")(content)
    content["more"] = {"of": "somebody else"}
    assert graph_problems(content) == []


def test_names_and_sizes_of_uploads(good):
    text = json.dumps(good)
    assert upload_problems("a.json", text) == []
    assert "should end in .json" in upload_problems("a.txt", text)[0]
    assert "are needed of both" in upload_problems("a.json", "x")[0]
    assert "are needed of both" in upload_problems("a.json", "x" * 5000)[0]  # small once it is compressed
    assert "are allowed" in upload_problems("a.json", "x" * (100 * 2**20 + 1))[0]


def test_details_of_latents():
    example = {"tokens": ["a", "b"], "tokens_acts_list": [0.0, 1.5]}
    content = {"index": 3, "examples_quantiles": [{"quantile_name": "top", "examples": [example]}], "top_logits": ["x"]}
    assert feature_problems(content) == []
    example["tokens"] = ["a"]
    assert feature_problems(content) == ["feature.examples_quantiles[0].examples[0] has 1 tokens and 2 activations"]
    assert feature_problems({"index": "3", "examples_quantiles": []}) == ["feature.index should be number, not '3'"]


def test_files_that_are_not_graphs(tmp_path):
    with pytest.raises(AnalysisError, match="there is no file"):
        read_graph_json(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(AnalysisError, match="cannot be read"):
        read_graph_json(tmp_path / "a.json")
    with pytest.raises(AnalysisError, match="should be a table"):
        read_graph_json({"metadata": []})
