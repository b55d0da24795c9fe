"""The page on circuits runs as it stands, and so does its command, on the shipped model with latents of chance."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from circuit_models import randomised
from crosscoders import (
    AnalysisError,
    AttributionGraph,
    Crosscoder,
    ModelChoice,
    Site,
    attribution_graph,
    build_crosscoder,
    replacement_model,
    write_features,
)
from crosscoders.circuits.graph_rules import cantor, feature_problems, graph_problems
from crosscoders.cli import main
from study_of_texts import Texts

PAGE = Path(__file__).parent.parent.parent / "docs" / "howto" / "circuits.md"
CHAT = {"name": "transformers", "model": "tiny-pair/chat"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A cross-layer transcoder of the shipped chat model, as a run of this user leaves it."""
    adapter = ModelChoice.of("transformers", model="tiny-pair/chat").build()
    points = [f"layers.{i}.{part}" for part in ("mlp_input", "mlp") for i in range(4)]
    sites = tuple(Site(f"chat/{point}", adapter.width(point)) for point in points)
    crosscoder = randomised(build_crosscoder("strictly_causal", sites, num_latents=200), sparsity=1.5)
    for name in crosscoder.layout.names:
        crosscoder.normaliser.set_scales({name: 1.0})
    crosscoder.info.recipe.update(models={"chat": CHAT}, tokens={"name": "python_library"})
    folder = tmp_path_factory.mktemp("circuits")
    crosscoder.save_pretrained(folder / "my-clt")
    return folder


def test_every_block_of_the_page_runs(saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        code = block.replace("me/my-clt", str(saved / "my-clt")).replace(
            "max_nodes=2000", "max_nodes=40, progress=False"
        )
        code = code.replace("towards]", "towards], max_nodes=20, progress=False").replace("top=10", "top=3")
        code = code.replace("32_768", "512")
        exec(compile(code, str(PAGE), "exec"), names)
    assert names["checked"].direct_error < 1e-3 and names["graph"].num_latents == 40
    assert names["again"].num_latents <= names["graph"].num_latents
    assert (tmp_path / "my-graph" / "graph.html").is_file()
    _features_are_those_of_the_study(names["graph"].pruned(), names["study"], tmp_path / "runs" / "graph" / "features")


def _features_are_those_of_the_study(graph, study, folder):
    latents = {(layer, index) for layer, _, index in graph.latent_n3.tolist()}
    assert {path.name for path in folder.iterdir()} == {f"{cantor(*latent)}.json" for latent in latents}
    slices = [study.crosscoder.wiring.latent_slices[group.name] for group in study.crosscoder.wiring.groups]
    density = study.density().to_pandas().set_index("latent")
    for layer, index in latents:
        content = json.loads((folder / f"{cantor(layer, index)}.json").read_text(encoding="utf-8"))
        assert feature_problems(content) == [] and content["index"] == index
        (quantile,) = content["examples_quantiles"]
        peaks = [max(example["tokens_acts_list"]) for example in quantile["examples"]]
        assert peaks == sorted(peaks, reverse=True)
        assert max(peaks, default=0.0) == pytest.approx(density["max"][slices[layer].start + index], rel=1e-5)
        assert len(content["top_logits"]) == len(content["bottom_logits"]) == 10


def test_latents_without_a_study_are_named(saved):
    model = replacement_model(Crosscoder.from_pretrained(saved / "my-clt"), CHAT)
    graph = attribution_graph(model, "Return the sum", max_nodes=5, progress=False)
    with pytest.raises(AnalysisError, match="of a crosscoder without a study"):
        write_features(model, graph, [], "features")


def test_the_command_writes_a_graph_and_says_how_good_it_is(saved, tmp_path):
    arguments = [
        "attribute",
        str(saved / "my-clt"),
        "--prompt",
        "Return the sum of a",
        "--output",
        str(tmp_path / "out"),
    ]
    more = ["--max-nodes", "30", "--target", " the", "--target", "#17", "--target", " of - #9", "--fidelity", "2"]
    more += ["--examples", "512"]
    result = CliRunner().invoke(main, [*arguments, *more, "--quiet", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    for said in ("30 of them visited", "rows add up to", "KL ", "correlation", "wrote", "tiny-pair/chat"):
        assert said in result.output
    graph = AttributionGraph.load(tmp_path / "out" / "graph")
    assert graph.num_latents == 30 and [target.kind for target in graph.targets] == ["token", "token", "difference"]
    assert graph.gap() < 1e-5 and not (tmp_path / "out" / "rows").exists()
    numbers = {path.stem for path in (tmp_path / "out" / "features").iterdir()}
    data = re.search(r'id="data">(.*?)</script>', (tmp_path / "out" / "graph.html").read_text(encoding="utf-8"))[1]
    shown = json.loads(data)["metadata"]["crosscoders"]["features"]
    assert shown.keys() == numbers and all(len(each["promotes"]) == 10 for each in shown.values())
    assert graph_problems(json.loads((tmp_path / "out" / "neuronpedia.json").read_text(encoding="utf-8"))) == []


def test_the_command_lays_out_a_question(saved, tmp_path):
    arguments = ["attribute", str(saved / "my-clt"), "--prompt", "Who are you?", "--chat", "--max-nodes", "5"]
    result = CliRunner().invoke(
        main, [*arguments, "--output", str(tmp_path / "out"), "--quiet", "--fidelity", "0", "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    graph = AttributionGraph.load(tmp_path / "out" / "graph")
    assert "<user>" in graph.texts and graph.texts[-1] == "<assistant>"
    assert not any(graph.latent_n3[:, 1] == 0)


def test_the_command_explains_several_prompts_in_one_run(saved, tmp_path):
    arguments = ["attribute", str(saved / "my-clt"), "--max-nodes", "5", "--quiet", "--fidelity", "0"]
    several = ["--prompt", "Return the sum", "--prompt", "Open a file", "--output", str(tmp_path), "--device", "cpu"]
    result = CliRunner().invoke(main, [*arguments, *several])
    assert result.exit_code == 0 and result.output.count("reads model") == 1, result.output
    texts = ["".join(AttributionGraph.load(tmp_path / name / "graph").texts) for name in ("1", "2")]
    assert texts == ["<bos>Return the sum", "<bos>Open a file"]


def test_the_command_compares_models_and_changes_groups(saved, tmp_path):
    """A graph of two models and a page of both; then a group of the first one's, made as on its page, is ablated."""
    clt, out = str(saved / "my-clt"), tmp_path / "out"
    arguments = ["attribute", clt, "--prompt", "Return the sum of a", "--max-nodes", "40", "--fidelity", "0", "--quiet"]
    more = ["--compare", "tiny-pair/base", "--target", " of", "--output", str(out), "--device", "cpu"]
    more += ["--node-threshold", "1", "--edge-threshold", "1"]  # random latents would be pruned
    result = CliRunner().invoke(main, [*arguments, *more])
    assert result.exit_code == 0, result.output
    assert "compared: AttributionGraph(40 of" in result.output and "say nothing about it" in result.output
    first, second = (AttributionGraph.load(out / name) for name in ("graph", "compared/graph"))
    assert [target.token for target in first.targets] == [target.token for target in second.targets]
    assert "tiny-pair/chat</h2>" in (out / "pair.html").read_text(encoding="utf-8")
    assert not list(out.glob("*rows*"))

    content = json.loads((out / "neuronpedia.json").read_text(encoding="utf-8"))
    latents = [node["node_id"] for node in content["nodes"] if node["feature_type"] == "cross layer transcoder"][:2]
    content["qParams"]["supernodes"] = [["my group", *latents]]
    (out / "graph.json").write_text(json.dumps(content))
    arguments = ["intervene", clt, "--graph", str(out), "--device", "cpu"]
    command = [*arguments, "--groups", str(out / "graph.json"), "--group", "my group"]
    result = CliRunner().invoke(main, [*command, "--ablate"])
    assert result.exit_code == 0, result.output
    assert "'my group', 2 latents: ablate" in result.output and "probability" in result.output
    page = (out / "graph.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    measured = data["metadata"]["crosscoders"]["measured"]
    assert [one["label"] for one in measured] == ["my group"] and measured[0]["ids"] == latents
    layer, index, position = latents[0].split("_")
    result = CliRunner().invoke(main, [*arguments, "--latent", f"{layer}/{index}@{position}", "--scale", "2"])
    assert result.exit_code == 0 and "1 latents: scale 2" in result.output, result.output
    for refused, message in (
        ([*command, "--ablate", "--scale", "2"], "is enough"),
        ([*arguments, "--groups", str(out / "graph.json"), "--group", "x"], "there are: 'my group'"),
        (arguments, "there are no groups"),
        ([*arguments, "--latent", "3"], "should be LAYER/INDEX@POSITION"),
    ):
        result = CliRunner().invoke(main, refused)
        assert result.exit_code != 0 and message in result.output, result.output


def test_what_the_command_cannot_do_is_one_line(saved, tmp_path):
    arguments = ["attribute", str(saved / "my-clt"), "--prompt", "a", "--output", str(tmp_path), "--device", "cpu"]
    for more, message in ((["--target", "two words"], "should be one token"), (["--model", "{"], "not valid JSON")):
        result = CliRunner().invoke(main, [*arguments, *more, "--quiet"])
        assert result.exit_code == 1 and message in result.output and "Traceback" not in result.output


def test_models_of_crosscoders_have_to_agree(saved):
    from crosscoders import Crosscoder

    crosscoder = Crosscoder.from_pretrained(saved / "my-clt")
    other = Crosscoder.from_pretrained(saved / "my-clt")
    other.info.recipe["models"] = {"chat": {**CHAT, "model": "tiny-pair/base"}}
    with pytest.raises(AnalysisError, match="record different models"):
        replacement_model([crosscoder, other])
    other.info.recipe["models"] = {"chat": {**CHAT, "model": "/somewhere/else"}}
    with pytest.raises(AnalysisError, match="trust_recipe"):
        replacement_model(other)
    assert replacement_model(other, "tiny-pair/base").adapter.describe()["model"] == "tiny-pair/base"
    with pytest.raises(AnalysisError, match="at least one"):
        replacement_model([])


def test_the_example_explains_attention_too(tmp_path):
    """A shortened run of the example; its graph has latents of both kinds, and adds up."""
    import tomllib

    from crosscoders import Crosscoder, attribution_graph, train
    from crosscoders.training.config import RunConfig

    config = tomllib.loads((PAGE.parent.parent.parent / "examples" / "circuits" / "attention-and-mlp.toml").read_text())
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(Texts(80).documents()):
        (tmp_path / "texts" / f"{number}.txt").write_text(text.text)
    config["tokens"] = {"name": "text_files", "paths": [str(tmp_path / "texts")]}
    for group in config["architecture"]["groups"]:
        group["num_latents"] = 64
    config["loss"]["k"] = 16
    config["training"] |= {"num_tokens": 1024, "batch_size": 128, "lr": 4e-3, "evaluation_tokens": 64}
    config["training"]["fidelity_tokens"] = 0
    config["activations"] |= {"block_tokens": 512, "calibration_tokens": 256, "rows_per_forward": 8}
    train(RunConfig.from_dict({**config, "device": "cpu", "output": str(tmp_path / "run")}), quiet=True)
    assert config["models"] == {"chat": CHAT}
    model = replacement_model(Crosscoder.from_pretrained(tmp_path / "run" / "crosscoder"))
    graph = attribution_graph(model, "Return the sum of a", max_nodes=60, progress=False)
    assert graph.gap() < 1e-5 and len(graph.cuts) == 8
    kinds = {model.set_of(layer, index)[0].read.rpartition(".")[2] for layer, _, index in graph.latent_n3.tolist()}
    assert kinds == {"attention", "mlp_input"}
