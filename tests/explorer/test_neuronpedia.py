"""Latents for Neuronpedia: what is written says what was measured, and whatever may be wrong with files is found."""

import copy
import gzip
import json
import math
import re
import shutil

import pytest
from click.testing import CliRunner

from circuit_models import clt, models, tiny
from crosscoders import AnalysisError, NeuronpediaListing, check_neuronpedia, export_features, neuronpedia_problems
from crosscoders.circuits.latent_sets import latent_sets
from crosscoders.cli import main
from crosscoders.explorer.choosing import LatentDetail
from crosscoders.explorer.gathering import gather
from crosscoders.explorer.neuronpedia.rules import batch_problems, body_problems
from crosscoders.explorer.neuronpedia.sources import hook_name, layer_number, sources_of
from study_of_texts import study_over

DETAIL = LatentDetail(top=3, per_range=1, ranges=3, neighbours=3)


def listing(**names):
    given = {"model_id": "tiny-pair", "source_set": "my-set", "creator_id": "u1", "creator_name": "Me"}
    return NeuronpediaListing(**{**given, "created": "2026-01-31T12:00:00+00:00", **names})


@pytest.fixture(scope="module")
def study():
    found = study_over(num_latents=24, steps=8)
    found.explanations = {3: 'says "return"\n<b>'}
    return found


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    return {
        layout: export_features(
            study, folder / layout, listing(), layout=layout, detail=DETAIL, vectors=layout != "api"
        )
        for layout in ("neuronpedia", "api", "saedashboard")
    }


SOURCE = "v1/tiny-pair/1-my-set"


def rows(path):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        return [json.loads(line) for line in file]


def test_what_is_written_is_valid_and_says_what_was_measured(exported, study):
    folder = exported["neuronpedia"] / SOURCE
    assert list(neuronpedia_problems(exported["neuronpedia"])) == []
    features = rows(folder / "features" / "batch-0.jsonl.gz")
    activations = rows(folder / "activations" / "batch-0.jsonl.gz")
    records = list(gather(study, detail=DETAIL))
    density = {row[0]: row for row in study.density().rows}
    effects = [row for row in study.logit_effects(range(24)).rows if row[1] == "chat/layers.2"]
    for record, feature in zip(records, features, strict=True):
        latent = record.latent
        assert feature["index"] == str(latent) and feature["layer"] == "1-my-set"
        assert feature["frac_nonzero"] == pytest.approx(density[latent][1], rel=1e-4)
        assert feature["maxActApprox"] == pytest.approx(density[latent][4], rel=1e-4)
        assert sum(feature["freq_hist_data_bar_heights"]) == record.firings == density[latent][2]
        promoted = [(row[4], row[6]) for row in effects if row[0] == latent and row[2] == "promoted"]
        assert feature["pos_str"] == [text for text, _ in promoted]
        assert feature["pos_values"] == pytest.approx([value for _, value in promoted], rel=1e-4)
        assert feature["hookName"] == "blocks.2.hook_resid_post"
        direction = study.crosscoder.direction([latent], "chat/layers.2")[0].tolist()
        assert feature["vector"] == pytest.approx(direction, rel=1e-4, abs=1e-7)
        mine = [row for row in activations if row["index"] == str(latent)]
        shown = [*record.top, *(example for part in record.ranges for example in part.examples)]
        assert [row["tokens"] for row in mine] == [list(example.tokens) for example in shown]
        for row, example in zip(mine, shown):
            assert row["values"] == pytest.approx(example.values.tolist(), rel=1e-4)
        assert [row["binContains"] for row in mine[: len(record.top)]] == [-1.0] * len(record.top)
    [explained] = rows(folder / "explanations" / "batch-0.jsonl.gz")
    assert explained["index"] == "3" and explained["description"] == 'says "return"\n<b>'
    [source] = rows(folder / "source.jsonl")
    assert "chat/layers.2; hookName" in source["notes"] and "3 sites" in source["notes"]
    assert rows(folder / "model.jsonl")[0]["layers"] == 4


def test_the_same_latents_in_the_other_layouts(exported):
    features = rows(exported["neuronpedia"] / SOURCE / "features" / "batch-0.jsonl.gz")
    batch = json.loads((exported["saedashboard"] / "1-my-set" / "batch-0.json").read_text())
    upload = json.loads((exported["api"] / "1-my-set" / "upload-batch-0.json").read_text())
    for layout in ("api", "saedashboard"):
        assert list(neuronpedia_problems(exported[layout])) == []
    assert batch["layer"] == 1 and batch["model_id"] == "tiny-pair" and batch["sae_id_suffix"] == ""
    for feature, other in zip(features, batch["features"], strict=True):
        assert str(other["feature_index"]) == feature["index"] and other["vector"] == feature["vector"]
        for key in ("pos_str", "pos_values", "neg_values", "frac_nonzero", "freq_hist_data_bar_heights"):
            assert other[key] == feature[key]
    active = [feature for feature in features if feature["frac_nonzero"] > 0]
    assert [str(one["index"]) for one in upload["features"]] == [feature["index"] for feature in active]
    assert [one["token"] for one in upload["features"][0]["topLogits"]] == active[0]["pos_str"]
    assert upload["features"][3]["explanations"] == [{"text": 'says "return"\n<b>'}]
    assert json.loads((exported["api"] / "new-model.json").read_text())["layers"] == 4


def test_writing_again_gives_the_same_files(exported, study, tmp_path):
    again = export_features(study, tmp_path / "again", listing(), detail=DETAIL, vectors=True)
    for path in again.rglob("*.*"):
        assert path.read_bytes() == (exported["neuronpedia"] / path.relative_to(again)).read_bytes()


# -- faults -----------------------------------------------------------------------------------------------------------

FEATURES, ACTIVATIONS, EXPLANATIONS = (
    f"{name}/batch-0.jsonl.gz" for name in ("features", "activations", "explanations")
)


def _set(key, value):
    return lambda found: found[0].update({key: value})


def _drop(key):
    return lambda found: [row.pop(key) for row in found]


def _on(number, key, value):
    return lambda found: found[number].update({key: value})


FAULTS = {
    "release without name": ("release.jsonl", _drop("name"), "release.jsonl line 1.name is missing"),
    "release name is empty": ("release.jsonl", _set("name", " "), "line 1.name is empty"),
    "release urls": ("release.jsonl", _set("urls", "x"), "urls should be a list"),
    "release time": ("release.jsonl", _set("createdAt", "yesterday"), "createdAt should be a time"),
    "creator is empty": ("release.jsonl", _set("creatorId", ""), "creatorId is empty"),
    "two releases": ("release.jsonl", lambda found: found.append(found[0]), "has 2 lines, and should have one"),
    "model id": ("model.jsonl", _set("id", "Tiny"), "id should be 2 to 32 lower-case letters"),
    "model without owner": ("model.jsonl", _drop("owner"), "owner is missing"),
    "instruct as text": ("model.jsonl", _set("instruct", "no"), "instruct should be boolean, not 'no'"),
    "layers": ("model.jsonl", _set("layers", 128), "layers is out of range"),
    "layers a fraction": ("model.jsonl", _set("layers", 2.5), "layers should be integer"),
    "no neurons": ("model.jsonl", _drop("neuronsPerLayer"), "neuronsPerLayer is missing"),
    "set name": ("sourceset.jsonl", _set("name", "my--set"), "name should be lower-case letters, digits"),
    "set of neurons": ("sourceset.jsonl", _set("name", "neurons"), "not 'neurons'"),
    "another release": ("sourceset.jsonl", _set("releaseName", "x"), "releaseName is 'x', but release.jsonl has"),
    "another model": ("sourceset.jsonl", _set("modelId", "other"), "modelId is 'other', but model.jsonl has"),
    "no description": ("sourceset.jsonl", _drop("description"), "description is missing"),
    "source id": ("source.jsonl", _set("id", "one-my-set"), "id should be a layer, '-', setName"),
    "source of another folder": ("source.jsonl", _set("id", "2-my-set"), "but its folder is called '1-my-set'"),
    "source of another set": ("source.jsonl", _set("setName", "x"), "setName"),
    "prompts": ("source.jsonl", _set("num_prompts", -1), "num_prompts is -1"),
    "index a number": (FEATURES, _set("index", 0), "line 1.index should be string, not 0"),
    "index no number": (FEATURES, _on(2, "index", "x"), "line 3.index should be a number from 0 to 10,000,000"),
    "index with zeros": (FEATURES, _set("index", "00"), "index should be a number"),
    "index too large": (FEATURES, _set("index", "10000001"), "index should be a number"),
    "a latent twice": (FEATURES, _on(1, "index", "0"), "line 2.index 0 comes twice; the second is skipped"),
    "another source": (FEATURES, _on(1, "layer", "2-my-set"), "line 2.layer is '2-my-set', but source.jsonl has"),
    "other keys": (FEATURES, _on(1, "more", 1), "line 2 has other keys than the first line, .*: more"),
    "a key less": (FEATURES, lambda found: found[4].pop("createdAt"), "line 5 has other keys .*: createdAt"),
    "a share": (FEATURES, _set("frac_nonzero", 1.5), "frac_nonzero should be from 0 to 1"),
    "effects": (FEATURES, _set("pos_values", []), "pos_str has 10 entries and .pos_values 0"),
    "suppressed": (FEATURES, _set("neg_str", ["x"]), "neg_str has 1 entries and .neg_values 10"),
    "histogram": (FEATURES, _set("freq_hist_data_bar_values", [1.0]), "freq_hist_data_bar_heights has"),
    "nearest": (FEATURES, _set("topkCosSimIndices", [1] * 9), "topkCosSimIndices has 9 entries"),
    "vector": (FEATURES, _set("hasVector", False), "hasVector is False, but vector has"),
    "vector of text": (FEATURES, _set("vector", ["1"]), r"vector\[0\] should be number"),
    "null character": (FEATURES, _set("vectorLabel", "a\0b"), "vectorLabel has a null character"),
    "nan": (FEATURES, _set("maxActApprox", math.nan), "maxActApprox is nan, which JSON does not have"),
    "no id": (ACTIVATIONS, _drop("id"), "line 1.id is missing"),
    "an id twice": (ACTIVATIONS, lambda f: f[5].update(id=f[2]["id"]), "line 6.id .* that of .* line 3 too"),
    "of no latent": (ACTIVATIONS, _set("index", "99"), "line 1.index 99 is not among the source's features"),
    "lengths": (ACTIVATIONS, lambda found: found[0]["tokens"].append("x"), "tokens and .* values"),
    "no tokens": (ACTIVATIONS, lambda found: found[0].update(tokens=[], values=[]), "tokens has 0 entries"),
    "too many tokens": (
        ACTIVATIONS,
        lambda found: found[0].update(tokens=["a"] * 1025, values=[0.0] * 1025),
        "tokens has 1025 entries; 1 to 1024",
    ),
    "an empty token": (ACTIVATIONS, lambda found: found[0]["tokens"].__setitem__(1, ""), r"tokens\[1\] is empty"),
    "where the maximum is": (ACTIVATIONS, _set("maxValueTokenIndex", 0), "maxValueTokenIndex should say where"),
    "the maximum": (ACTIVATIONS, _set("maxValue", 1e9), "maxValue and .minValue should be"),
    "bins": (ACTIVATIONS, lambda found: found[0].update(binMin=1e9), "binMin is 1000000000.0, above binMax"),
    "a share of a bin": (ACTIVATIONS, _set("binContains", 2), "binContains should be from 0 to 1"),
    "qualifying": (ACTIVATIONS, _set("qualifyingTokenIndex", 99), "qualifyingTokenIndex is 99"),
    "losses": (ACTIVATIONS, _set("lossValues", [1.0]), "lossValues has 1 numbers"),
    "no author": (EXPLANATIONS, _drop("authorId"), "authorId is missing"),
    "no text": (EXPLANATIONS, _set("description", ""), "description is empty"),
    "embedding": (EXPLANATIONS, _set("embedding", [0.0]), "embedding should be 256 numbers"),
    "explained but not there": (EXPLANATIONS, _set("index", "77"), "index 77 is not among the source's features"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_in_its_file_and_line(fault, exported, tmp_path):
    name, change, message = FAULTS[fault]
    shutil.copytree(exported["neuronpedia"], tmp_path / "out")
    path = tmp_path / "out" / SOURCE / name
    found = rows(path)
    change(found)
    text = "".join(json.dumps(row) + "\n" for row in found).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    with pytest.raises(AnalysisError, match=message) as error:
        check_neuronpedia(tmp_path / "out")
    assert name.rpartition("/")[2].split(".")[0] in str(error.value)


def test_files_that_are_damaged_or_missing(exported, tmp_path):
    def problems(change):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.copytree(exported["neuronpedia"], tmp_path / "out")
        change(tmp_path / "out" / SOURCE)
        return " | ".join(neuronpedia_problems(tmp_path / "out"))

    assert "model.jsonl is missing" in problems(lambda at: (at / "model.jsonl").unlink())
    assert "has no batch-0.jsonl.gz" in problems(lambda at: shutil.rmtree(at / "features"))
    assert "cannot be read" in problems(lambda at: (at / FEATURES).write_bytes(b"\x1f\x8b\x08abc"))
    assert "line 1 cannot be read" in problems(lambda at: (at / "source.jsonl").write_text("{\n"))
    assert "should be a table, not 3" in problems(lambda at: (at / "source.jsonl").write_text("3\n"))
    assert "is empty" in problems(lambda at: (at / "release.jsonl").write_text(""))
    assert "should be batch-0.jsonl.gz" in problems(
        lambda at: (at / ACTIVATIONS).rename(at / "activations" / "batch-3.jsonl.gz")
    )
    (tmp_path / "nothing").mkdir()
    assert "has no sources" in " | ".join(neuronpedia_problems(tmp_path / "nothing"))


@pytest.fixture(scope="module")
def body(exported):
    return json.loads((exported["api"] / "1-my-set" / "upload-batch-0.json").read_text())


def _first(key, value):
    return lambda found: found["features"][0].update({key: value})


def _activation(key, value):
    return lambda found: found["features"][0]["activations"][0].update({key: value})


UPLOAD_FAULTS = {
    "model": (lambda f: f.update(modelId="A"), "modelId should be"),
    "source": (lambda f: f.update(source="1-My-set"), "source should be a layer"),
    "no features": (lambda f: f.update(features=[]), "has 0 entries, and 1 to 128"),
    "too many": (lambda f: f.update(features=[{**f["features"][0], "index": i} for i in range(129)]), "129 entries"),
    "twice": (lambda f: f["features"].append(f["features"][0]), "has index 0 more than once"),
    "index": (_first("index", -1), "index should be from 0 to 10,000,000"),
    "index as text": (_first("index", "1"), "index should be integer"),
    "density": (_first("density", -0.5), "density should be from 0 to 1"),
    "many effects": (_first("topLogits", [{"token": "a", "value": 1}] * 21), "topLogits has 21 entries; 20"),
    "an effect of nothing": (_first("bottomLogits", [{"token": "", "value": 1}]), r"bottomLogits\[0\].token is empty"),
    "an effect without value": (_first("topLogits", [{"token": "a"}]), r"topLogits\[0\].value is missing"),
    "dead": (_first("activations", []), "activations is empty"),
    "an empty token": (_activation("tokens", [""]), r"tokens\[0\] is empty"),
    "lengths": (_activation("values", []), "tokens and 0 values"),
    "quantile": (_activation("quantileMax", 10**8), "quantileMax is more than 99,999,999"),
    "fraction": (_activation("quantileFraction", 1.1), "quantileFraction should be from 0 to 1"),
    "long text": (_first("explanations", [{"text": "x" * 513}]), "text has 513 characters"),
    "no text": (_first("explanations", [{"text": ""}]), "text has 0 characters"),
    "method": (_first("explanations", [{"text": "x", "methodName": "ABC"}]), "methodName should be in lower case"),
}


@pytest.mark.parametrize("fault", UPLOAD_FAULTS)
def test_each_fault_of_an_upload_is_found(fault, body):
    change, message = UPLOAD_FAULTS[fault]
    assert body_problems("upload-batch", body) == []
    broken = copy.deepcopy(body)
    change(broken)
    found = " | ".join(body_problems("upload-batch", broken))
    assert re.search(message, found), found


def test_bodies_of_other_calls():
    assert body_problems("new-model", {"id": "gemma-2-2b", "layers": 26}) == []
    for name in ("a", "a" * 33, "Gemma", "2b", "gemma-", "a--b", "a..b", "a_b"):
        assert "id should be" in body_problems("new-model", {"id": name, "layers": 1})[0], name
    assert "out of range" in body_problems("new-model", {"id": "ab", "layers": 0})[0]
    assert "65 characters" in body_problems("new-model", {"id": "ab", "layers": 1, "displayName": "x" * 65})[0]
    good = {"name": "res-16k", "modelId": "gemma-2-2b"}
    assert body_problems("new-source-set", good) == []
    for name in ("Res", "res_16k", "-res", "res-", "res--16k", "neurons", ""):
        assert "name should be" in body_problems("new-source-set", {**good, "name": name})[0], name
    assert "129 characters" in body_problems("new-source-set", {**good, "description": "x" * 129})[0]
    one = {"modelId": "ab", "source": "0-s", "index": "3", "activations": [{"tokens": ["a"], "values": [1.0]}]}
    assert body_problems("upload-activations", one) == []
    assert "index should be a number as text" in body_problems("upload-activations", {**one, "index": "-3"})[0]
    one["activations"][0]["values"] = []
    assert "1 tokens and 0 values" in body_problems("upload-activations", one)[0]


def test_batches_of_the_dashboard(exported):
    batch = json.loads((exported["saedashboard"] / "1-my-set" / "batch-0.json").read_text())

    def problems(change):
        broken = copy.deepcopy(batch)
        change(broken)
        return " | ".join(batch_problems(broken))

    assert batch_problems(batch) == []
    assert "layer should be integer" in problems(lambda b: b.update(layer="1"))
    assert "layer is out of range" in problems(lambda b: b.update(layer=200))
    assert "feature_index 0 more than once" in problems(lambda b: b["features"][1].update(feature_index=0))
    assert "correlated_neurons_l1 is missing" in problems(lambda b: b["features"][0].pop("correlated_neurons_l1"))
    assert "bin_min is missing" in problems(lambda b: b["features"][0]["activations"][0].pop("bin_min"))
    assert "is empty" in problems(lambda b: b["features"][0]["activations"][0]["tokens"].__setitem__(0, ""))
    at = "qualifying_token_index"
    assert f"{at} is 999" in problems(lambda b: b["features"][0]["activations"][0].update({at: 999}))


# -- where latents are listed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clt", "attention too"])
def test_numbers_in_sources_are_those_of_graphs(name):
    crosscoder, adapter = models(name), tiny()
    sources = sources_of(crosscoder, adapter.points())
    for one in latent_sets([crosscoder], adapter):
        [source] = [source for source in sources if source.layer == one.layer]
        there = range(*one.columns.indices(crosscoder.num_latents))
        assert source.latents[one.first : one.first + one.size] == tuple(there)
    assert sum(len(source.latents) for source in sources) == crosscoder.num_latents


def test_points_by_their_names_elsewhere():
    names = ("layers.3", "layers.3.input", "layers.3.attention", "layers.3.mlp_input", "layers.3.mlp")
    hooks = ("resid_post", "resid_pre", "attn_out", "mlp_in", "mlp_out")
    assert [hook_name(f"m/{name}") for name in names] == [f"blocks.3.hook_{hook}" for hook in hooks]
    assert layer_number("m/layers.12.mlp") == 12
    with pytest.raises(AnalysisError, match="m/final is not of a numbered layer"):
        layer_number("m/final")
    assert sources_of(clt(tiny()), tiny().points())[0].name("set", "old") == "0-set__old"


# -- refusals, and the command ----------------------------------------------------------------------------------------


def test_what_cannot_be_written_is_refused_before_anything_is_read(study, tmp_path):
    with pytest.raises(AnalysisError, match="model_id should be .*; source_set should be"):
        listing(model_id="No", source_set="no good")
    with pytest.raises(AnalysisError, match="needs creator_id"):
        export_features(study, tmp_path / "a", listing(creator_id=""))
    with pytest.raises(AnalysisError, match="layout should be one of neuronpedia, api, saedashboard, not 'x'"):
        export_features(study, tmp_path / "a", listing(), layout="x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(AnalysisError, match="is there already"):
        export_features(study, tmp_path / "full", listing())
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_some_latents_and_odd_texts(study, tmp_path, monkeypatch):
    """Tokens without a text, with a null character or half a character, are sent as the site takes them."""
    from crosscoders.explorer.vocabulary import Vocabulary

    odd = ["", "a\0b", "\ud800", "</script>", "\u2028"]
    monkeypatch.setattr(Vocabulary, "texts", lambda self, ids: [odd[i % len(odd)] for i in ids])
    folder = export_features(study, tmp_path / "out", listing(), latents=[5, 2], detail=DETAIL)
    features = rows(folder / SOURCE / "features" / "batch-0.jsonl.gz")
    assert [feature["index"] for feature in features] == ["2", "5"]
    shown = {token for row in rows(folder / SOURCE / "activations" / "batch-0.jsonl.gz") for token in row["tokens"]}
    assert shown <= {"\ufffd", "a␀b", "?", "</script>", "\u2028"} and "" not in shown


def test_the_commands(study, tmp_path):
    crosscoder = study.crosscoder
    crosscoder.info.recipe.update(
        models={key: {"name": "transformers", "model": f"tiny-pair/{key}"} for key in ("base", "chat")},
        tokens={"name": "python_library"},
        activations={"context_length": 24},
    )
    crosscoder.save_pretrained(tmp_path / "crosscoder")
    runner, out = CliRunner(), str(tmp_path / "out")
    arguments = ["export-features", str(tmp_path / "crosscoder"), "--model-id", "tiny-pair", "--source-set", "s"]
    more = ["--latents", "0-3", "--tokens", "480", "--device", "cpu", "--quiet", "--output", out]
    refused = runner.invoke(main, [*arguments, *more])
    assert refused.exit_code == 1 and "needs creator_id" in refused.output
    result = runner.invoke(main, [*arguments, *more, "--creator-id", "u1", "--creator", "Me"])
    assert result.exit_code == 0, result.output
    assert len(rows(tmp_path / "out" / "v1" / "tiny-pair" / "1-s" / "features" / "batch-0.jsonl.gz")) == 4
    checked = runner.invoke(main, ["check-features", out])
    assert checked.exit_code == 0 and "nothing is wrong" in checked.output
    (tmp_path / "out" / "v1" / "tiny-pair" / "1-s" / "model.jsonl").unlink()
    checked = runner.invoke(main, ["check-features", out])
    assert checked.exit_code == 1 and "model.jsonl is missing" in checked.output and "1 problem" in checked.output
