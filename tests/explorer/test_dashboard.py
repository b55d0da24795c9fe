"""Folders of dashboards: what is in them, runs that are killed, results that join, tokens that would break a page."""

import base64
import json
import re
from functools import cache

import numpy as np
import pytest
import torch
from attrs import evolve
from click.testing import CliRunner

from crosscoders import AnalysisError, LatentDetail, LatentError, Study, Table, analyse, write_dashboard
from crosscoders.cli import main
from crosscoders.explorer import data_folder
from crosscoders.explorer.gathering import gather
from crosscoders.explorer.selection import selected_latents
from crosscoders.files import write_whole
from crosscoders.reports import Report
from explorer_studies import columns, files, packed, put, random_study
from study_of_texts import shared_study

SMALL = LatentDetail(top=3, per_range=1, shares=2, before=4, after=2, neighbours=2, logits=2)
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--",
    "\u2028\u2029",
    "\"'`\\",
    "\u202eabc",
    "\x00\x1b[31m",
    "\ud800x",
    "&lt;",
)


SOME = [*range(10), *range(300, 310), *range(590, 600)]


@cache
def several_chunks():
    """Latents for three files."""
    return random_study("acausal", ["base/layers.1", "chat/layers.1"], 600)


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboard") / "x"
    assert write_dashboard(several_chunks(), folder, latents=SOME, detail=SMALL) == folder / "index.html"
    return folder


def test_the_files_hold_what_was_gathered(dashboard):
    study, facts = several_chunks(), put(dashboard, "facts")
    assert (facts["num_latents"], facts["chunk"], facts["latents"], facts["graphs"]) == (600, 256, SOME, [])
    assert [site["name"] for site in facts["sites"]] == ["base/layers.1", "chat/layers.1"]
    assert facts["models"] == [{"key": key, "name": f"tiny-pair/{key}"} for key in ("base", "chat")]
    assert facts["views"] == ["layers"] and "drawn at random" in facts["intervals"]
    rows = [
        row for n in range(facts["corpus_files"]) for row in json.loads(packed(dashboard, f"corpus-{n:03d}"))["rows"]
    ]
    vocabulary = json.loads(packed(dashboard, "vocabulary"))
    texts = dict(zip(vocabulary["ids"], vocabulary["texts"], strict=True))
    found = {}
    for chunk in range(3):
        content = json.loads(packed(dashboard, f"latents-{chunk:04d}"))
        assert content["first"] == 256 * chunk
        found |= {latent["j"]: latent for latent in content["latents"]}
    assert list(found) == SOME
    for record in gather(study, SOME, detail=SMALL):
        latent = found[record.latent]
        assert latent["hist"]["counts"] == list(record.histogram.counts)
        assert [pair[0] for pair in latent["nearest"]] == [other for other, _ in record.nearest]
        assert [site["site"] for site in latent["logits"]] == [site.site for site in record.logits]
        for written, example in zip(latent["top"], record.top, strict=True):
            sequence, start, stop, peak, largest, values, *shares = written
            tokens = [texts[token] for token in rows[sequence][start:stop]]
            assert tokens == list(example.tokens) and peak == example.peak
            byte_T = np.frombuffer(base64.b64decode(values), np.uint8)
            assert byte_T / 255 * largest == pytest.approx(example.values, abs=largest / 200)
            assert ((byte_T > 0) == (example.values > 0)).all()
            assert bool(shares) == bool(example.shares)
            for model, (signed, scale) in shares[0].items() if shares else ():
                value_T = np.frombuffer(base64.b64decode(signed), np.int8) / 127 * scale
                assert value_T == pytest.approx(example.shares[model], abs=scale / 100)
    assert sum(len(latent["top"]) for latent in found.values()) > 20
    assert all(
        {token for _, *ends in latent["logits"] for end in ends for token, _ in end} <= set(texts) for latent in []
    )
    shown = {token for latent in found.values() for site in latent["logits"] for token, _ in site["promoted"]}
    assert shown and shown <= set(texts)


def test_columns_are_what_the_census_and_the_norms_say(dashboard):
    study, found = several_chunks(), columns(dashboard)
    census, norms = study.census(), study.crosscoder.decoder_norms().detach()[SOME]
    assert found["firings"] == pytest.approx(census.firings_F[SOME].numpy())
    assert found["density"] == pytest.approx(census.firings_F[SOME].numpy() / census.num_tokens)
    assert np.nan_to_num(found["max"]) == pytest.approx(census.max_F[SOME].numpy())
    assert found["norm_share_chat"] == pytest.approx((norms[:, 1] / norms.sum(dim=1)).numpy(), rel=1e-5)
    assert (found["tuned_share"] == found["norm_share_chat"]).all()
    sites = next(column for column in put(dashboard, "facts")["columns"] if column["key"] == "top_site")["values"]
    assert [sites[k] for k in found["top_site"]] == [study.crosscoder.written.names[k] for k in norms.argmax(dim=1)]
    layers = np.frombuffer(packed(dashboard, "layers"), np.uint8).reshape(len(SOME), 2)
    assert layers / 255 == pytest.approx((norms / norms.amax(dim=1, keepdim=True)).numpy(), abs=1 / 255)
    for column in put(dashboard, "facts")["columns"]:
        assert column["help"].endswith(".") and "{" not in column["title"] + column["help"]


def test_search_finds_the_tokens_where_latents_peak(dashboard):
    searched = json.loads(packed(dashboard, "search"))["tokens"]
    for record in gather(several_chunks(), [0, 300, 599], detail=SMALL):
        for example in record.top:
            assert example.tokens[example.peak].strip() in searched[SOME.index(record.latent)]


class Killed(BaseException):
    """What a test stops a run with; no handler of errors catches it."""


@pytest.mark.parametrize("written", [0, 2, 5, 7])
def test_a_run_that_was_killed_ends_with_the_same_bytes(dashboard, tmp_path, monkeypatch, written):
    study, calls = several_chunks(), []

    def dying(path, content):
        if path.suffix == ".js":
            calls.append(path.name)
            if len(calls) > written:
                raise Killed
        write_whole(path, content)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(data_folder, "write_whole", dying)
        write_dashboard(study, tmp_path / "x", latents=SOME, detail=SMALL)
    assert not (tmp_path / "x").exists() and (tmp_path / "x.unfinished" / "progress.json").exists()
    again = []
    with monkeypatch.context() as patch:
        patch.setattr(
            data_folder, "write_whole", lambda path, content: (again.append(path.name), write_whole(path, content))
        )
        write_dashboard(study, tmp_path / "x", latents=SOME, detail=SMALL)
    assert not set(calls[:written][:3]) & set(again)  # chunks that were there are not made again
    assert not (tmp_path / "x.unfinished").exists()
    assert files(tmp_path / "x") == files(dashboard)


def test_a_pass_that_was_killed_begins_again(dashboard, tmp_path, monkeypatch):
    study = several_chunks()
    batches = Study.batches

    def dying(self):
        for number, batch in enumerate(batches(self)):
            if number == 2:
                raise Killed
            yield batch

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Study, "batches", dying)
        write_dashboard(study, tmp_path / "x", latents=SOME, detail=SMALL)
    write_dashboard(study, tmp_path / "x", latents=SOME, detail=SMALL)
    assert files(tmp_path / "x") == files(dashboard)


def test_what_another_run_left_is_not_gone_on_from(dashboard, tmp_path, monkeypatch):
    study = several_chunks()

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("crosscoders.explorer.dashboard.write_shell", die)
        write_dashboard(
            study,
            tmp_path / "x",
            latents=SOME,
            detail=LatentDetail(top=1, per_range=0, shares=0, neighbours=0, logits=0),
        )
    left = tmp_path / "x.unfinished" / "data" / "latents-0000.js"
    assert left.exists() and left.read_bytes() != (dashboard / "data" / left.name).read_bytes()
    write_dashboard(study, tmp_path / "x", latents=SOME, detail=SMALL)
    assert files(tmp_path / "x") == files(dashboard)


def test_other_text_is_another_run(tmp_path, monkeypatch):
    from crosscoders import TokenSourceChoice

    def die(*_, **__):
        raise Killed

    own, shown = several_chunks(), []
    for word in ("apple", "orange"):
        (tmp_path / f"{word}.txt").write_text(f"{word} list " * 60)
        source = TokenSourceChoice.of("text_files", paths=[str(tmp_path / f"{word}.txt")]).build()
        study = Study(own.crosscoder, own.adapters, source, activations=own.activations, num_tokens=96)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr("crosscoders.explorer.dashboard.write_shell", die)
            write_dashboard(study, tmp_path / "x", latents=[0], detail=SMALL)
        shown.append(packed(tmp_path / "x.unfinished", "corpus-000"))
    assert shown[0] != shown[1]


def test_a_dashboard_is_replaced_whole_and_nothing_else_is(dashboard, tmp_path, monkeypatch):
    study, folder = several_chunks(), tmp_path / "x"
    write_dashboard(study, folder, latents=[1, 2], detail=SMALL)
    first = files(folder)

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(data_folder.DataFolder, "write_facts", die)
        write_dashboard(study, folder, latents=SOME, detail=SMALL)
    assert files(folder) == first
    write_dashboard(study, folder, latents=SOME, detail=SMALL)
    assert files(folder) == files(dashboard)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(AnalysisError, match="mine holds something else than a dashboard"):
        write_dashboard(study, tmp_path / "mine")
    with pytest.raises(AnalysisError, match=r"thesis.tex is a file"):
        write_dashboard(study, tmp_path / "mine" / "thesis.tex")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_only_some_latents(tmp_path, dashboard):
    write_dashboard(several_chunks(), tmp_path / "x", latents=[599, 3, 300, 4, 3], detail=SMALL)
    facts = put(tmp_path / "x", "facts")
    assert facts["latents"] == [3, 4, 300, 599] and facts["num_latents"] == 600
    assert [latent["j"] for latent in json.loads(packed(tmp_path / "x", "latents-0000"))["latents"]] == [3, 4]
    assert [latent["j"] for latent in json.loads(packed(tmp_path / "x", "latents-0002"))["latents"]] == [599]
    assert columns(tmp_path / "x")["density"] == pytest.approx(columns(dashboard)["density"][[3, 4, 10, 29]])
    assert len(json.loads(packed(tmp_path / "x", "search"))["tokens"]) == 4
    with pytest.raises(AnalysisError, match="no latents are named"):
        write_dashboard(several_chunks(), tmp_path / "y", latents=[])


class Renamed:
    """A model whose tokens have other texts."""

    def __init__(self, model, texts):
        self.model, self.texts = model, texts

    def token_texts(self, ids):
        return [self.texts[token % len(self.texts)] for token in ids]

    def __getattr__(self, name):
        return getattr(self.model, name)


def test_tokens_that_would_break_a_page_stay_data(tmp_path):
    own = several_chunks()
    models = {key: Renamed(adapter, HOSTILE) for key, adapter in own.adapters.items()}
    study = Study(own.crosscoder, models, own.source, activations=own.activations, num_tokens=own.num_tokens)
    study.explanations[5] = HOSTILE[0]
    write_dashboard(study, tmp_path / "x", latents=range(20), detail=SMALL, title=HOSTILE[0])
    clean = [text.replace("\ud800", "\ufffd") for text in HOSTILE]
    assert set(json.loads(packed(tmp_path / "x", "vocabulary"))["texts"]) <= set(clean)
    assert json.loads(packed(tmp_path / "x", "search"))["labels"] == {"5": HOSTILE[0]}
    assert put(tmp_path / "x", "facts")["title"] == HOSTILE[0]
    for path in (tmp_path / "x").rglob("*"):
        if path.is_file() and path.parent.name != "assets":
            text = path.read_bytes().decode("utf-8")
            assert "alert(1)</script>" not in text and "\u2028" not in text and "<!--" not in text


def test_one_model_and_one_site(tmp_path):
    write_dashboard(random_study("sae", ["base/layers.1"], 20), tmp_path / "x", detail=SMALL)
    facts = put(tmp_path / "x", "facts")
    assert facts["views"] == [] and [column["key"] for column in facts["columns"]] == (
        ["density", "firings", "max", "mean_active"]
    )
    latents = json.loads(packed(tmp_path / "x", "latents-0000"))["latents"]
    assert all(len(example) == 6 for latent in latents for example in latent["top"])


def test_tokens_of_another_vocabulary_keep_their_own_texts(tmp_path):
    class Other(Renamed):
        def vocabulary(self):
            return "another one"

    own = random_study("acausal", ["base/layers.1", "chat/layers.1"], 12)
    letters = [f"<{number}>" for number in range(50_000)]
    models = {"base": own.adapters["base"], "chat": own.adapters["chat"]}
    study = Study(own.crosscoder, models, own.source, activations=own.activations, num_tokens=own.num_tokens)
    study.census()  # reads the tokens, while both have the same
    study.adapters["chat"] = Other(own.adapters["chat"], letters)
    for record in gather(study, detail=SMALL):
        base, chat = record.logits
        assert all(token >= 0 for token, _ in base.promoted) and all(token < 0 for token, _ in chat.promoted)
        table = [row for row in own.logit_effects(record.latent, n=2) if row["site"] == chat.site]
        assert [-1 - token for token, _ in chat.promoted] == [r["id"] for r in table if r["kind"] == "promoted"]
    write_dashboard(study, tmp_path / "x", detail=SMALL)
    vocabulary = json.loads(packed(tmp_path / "x", "vocabulary"))
    texts = dict(zip(vocabulary["ids"], vocabulary["texts"], strict=True))
    assert min(texts) < 0 and all(texts[token] == letters[-1 - token] for token in texts if token < 0)


def test_groups_and_silent_latents_of_three_sites(tmp_path):
    study = random_study("weakly_causal", [f"chat/layers.{i}" for i in range(3)], 36)
    with torch.no_grad():
        study.crosscoder.b_enc_F[7] = -1e6
    write_dashboard(study, tmp_path / "x", detail=SMALL)
    found, facts = columns(tmp_path / "x"), put(tmp_path / "x", "facts")
    groups = next(column for column in facts["columns"] if column["key"] == "group")["values"]
    assert [groups[k] for k in found["group"]] == [g.name for g in study.crosscoder.wiring.groups for _ in range(12)]
    assert found["firings"][7] == 0 and np.isnan(found["max"][7]) and np.isnan(found["mean_active"][7])
    latent = json.loads(packed(tmp_path / "x", "latents-0000"))["latents"][7]
    assert latent["top"] == latent["ranges"] == latent["together"] == [] and len(latent["norms"]) == 3


def test_results_of_analyses_become_columns_facts_and_views(tmp_path):
    study = shared_study()
    reports = analyse(
        study.crosscoder,
        ["decoder_norms", {"name": "latent_scaling", "min_firings": 4}, {"name": "diff", "kl_tokens": 0, "top": 2}],
        study=study,
    )
    for number, report in enumerate(reports):
        report.save(tmp_path / f"report-{number}")
    scored = {
        "latents": {"3": {"explanation": "sums of lists", "detection": {"balanced_accuracy": 0.75}, "fuzzing": None}}
    }
    (tmp_path / "explained.json").write_text(json.dumps(scored))
    write_dashboard(
        study,
        tmp_path / "x",
        detail=SMALL,
        results=[tmp_path / "report-0", tmp_path / "report-1" / "report.json", reports[2], tmp_path / "explained.json"],
    )
    found, facts = columns(tmp_path / "x"), put(tmp_path / "x", "facts")
    told = {column["key"]: column for column in facts["columns"]}
    scaling, diff = reports[1].data, reports[2].data
    verdicts = [told["verdict"]["values"][k] for k in found["verdict"]]
    assert verdicts == scaling["verdict"]
    site = next(iter(scaling["against"]))
    for kind in ("nu_error", "nu_reconstruction"):
        key = f"{kind}_{site}"
        assert found[key] == pytest.approx(np.array(scaling["against"][site][kind], np.float32), nan_ok=True)
        assert told[key]["title"].endswith(f" at {site}") and told[key]["help"].endswith(".")
    assert found["detection"][3] == pytest.approx(0.75) and np.isnan(found["detection"][4])
    latents = json.loads(packed(tmp_path / "x", "latents-0000"))["latents"]
    for j in (3, 11):
        said = dict(map(tuple, latents[j]["facts"]))
        assert said["verdict"] == diff["line"][j] and ("explanation" in said) == (j == 3)
        low, high = scaling["against"][site]["nu_error_interval"][j]
        value = scaling["against"][site]["nu_error"][j]
        assert said[f"ν of the error at {site}"] == f"{value:.3g} ({low:.3g} to {high:.3g})"
    view = json.loads(packed(tmp_path / "x", "diff"))
    assert view["lines"]["11"] == diff["line"][11] and view["note"] == reports[2].summary
    assert facts["views"] == ["diff", "layers"]
    assert json.loads(packed(tmp_path / "x", "search"))["labels"] == {"3": "sums of lists"}
    assert ["Diff", reports[2].summary] in next(card for card in facts["cards"] if card["title"] == "Analyses")["rows"]


def test_cards_say_what_the_checkpoint_measured(tmp_path):
    study = random_study("acausal", ["base/layers.1", "chat/layers.1", "chat/layers.2"], 12)
    losses = {"ce_clean": 3.0, "ce_spliced": 3.5, "kl_spliced": 0.25, "1-kl_spliced/kl_mean": 0.9}
    metrics = {
        "explained_variance": {"base/layers.1": 0.5, "chat/layers.1": 0.25, "chat/layers.2": 0.75},
        "l0": 4.5,
        "spliced": {
            "base/layers.1": losses,
            "chat/layers.1": losses,
            "chat (all sites)": {**losses, "kl_spliced": 1.0},
        },
    }
    study.crosscoder.info = evolve(
        study.crosscoder.info,
        metrics=metrics,
        recipe={"training": {"num_tokens": 700}, "tokens": {"name": "another"}},
    )
    write_dashboard(study, tmp_path / "x", latents=[0], detail=SMALL)
    cards = {card["title"]: dict(map(tuple, card["rows"])) for card in put(tmp_path / "x", "facts")["cards"]}
    assert cards["Training, held-out text"]["Tokens"] == 700
    assert cards["Training, held-out text"]["Explained variance, chat/layers.2"] == 0.75
    assert cards["Text read here"]["Source"] == "Short Texts"
    told = cards["Fidelity, nats per token"]
    assert (told["base: KL, spliced"], told["chat: KL, spliced"]) == (0.25, 1.0) and len(told) == 8


def test_numbers_of_any_analysis_join(tmp_path):
    mine = Report(
        title="Mine",
        parts=[Table(title="T", columns=("a",), rows=[(1,)])],
        data={
            "my_number": [j / 2 for j in range(20)],
            "sites": ["x"] * 20,
            "by": {"base/layers.1": [None, *range(19)]},
        },
    )
    curves = {"kind": ["emerging", "undated"] * 10, "steps": [0.0, 10.0], "norms": [[0.0, j] for j in range(20)]}
    trained = Report(title="Snapshots", parts=[], data={"sites": ["base/layers.1"], **curves})
    write_dashboard(random_study("sae", ["base/layers.1"], 20), tmp_path / "x", detail=SMALL, results=[mine, trained])
    found, facts = columns(tmp_path / "x"), put(tmp_path / "x", "facts")
    assert found["my_number"].tolist() == [j / 2 for j in range(20)]
    assert np.isnan(found["by_base/layers.1"][0]) and found["by_base/layers.1"][5] == 4
    assert (
        next(c for c in facts["columns"] if c["key"] == "my_number")["help"]
        == "The column “my number” of the report “Mine”."
    )
    view = json.loads(packed(tmp_path / "x", "snapshots"))
    assert (
        view["labels"] == ["step 0", "step 10"] and view["latents"][:2] == [18, 16] and view["values"][0] == [0.0, 18.0]
    )
    assert view["groups"][:2] == ["emerging", "emerging"] and facts["views"] == ["snapshots"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '[{"title": "Diff", "data": {"verdict": ["shared"]}}]',
            "'Diff' is of a crosscoder with 1 latents, and this one has 20",
        ),
        ('[{"title": "Diff", "data": [1]}]', "its data are not a table"),
        ("[1]", "is not the report.json of an analysis"),
        ('{"latents": {"77": {}}}', "a latent '77', which this crosscoder does not have"),
        ("{", "cannot be read"),
        (None, "there is no file"),
    ],
)
def test_results_that_do_not_fit_are_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / "r.json").write_text(content)
    study = random_study("sae", ["base/layers.1"], 20)
    with pytest.raises(AnalysisError, match=re.escape(said)):
        write_dashboard(study, tmp_path / "x", results=[tmp_path / "r.json"])
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.unfinished").exists()


def test_pages_of_graphs_are_linked(tmp_path):
    for name in ("1", "2"):
        (tmp_path / "graph" / name).mkdir(parents=True)
        (tmp_path / "graph" / name / "graph.html").write_text(f"<title>a &lt; {name}</title>")
    study = random_study("sae", ["base/layers.1"], 20)
    write_dashboard(study, tmp_path / "x", detail=SMALL, graphs=[tmp_path / "graph"])
    linked = put(tmp_path / "x", "facts")["graphs"]
    assert [(graph["title"], graph["file"]) for graph in linked] == [
        ("a < 1", "graphs/graph-1.html"),
        ("a < 2", "graphs/graph-2.html"),
    ]
    assert (tmp_path / "x" / "graphs" / "graph-2.html").read_text() == "<title>a &lt; 2</title>"
    with pytest.raises(AnalysisError, match=r"has no graph\.html"):
        write_dashboard(study, tmp_path / "y", graphs=[tmp_path])


def test_latents_are_named_by_texts():
    crosscoder = several_chunks().crosscoder
    assert selected_latents(crosscoder, "all") is None
    assert selected_latents(crosscoder, "1,5, 7-9,5") == [1, 5, 7, 8, 9]
    norms = crosscoder.decoder_norms().detach()
    leaning = (norms.amax(dim=1) / norms.sum(dim=1)).argsort(descending=True)[:5]
    assert selected_latents(crosscoder, "specific:5") == sorted(leaning.tolist())
    for wrong in ("", "x", "3-1", "1,,2", "-1", "specific:0", "specific:x"):
        with pytest.raises(LatentError):
            selected_latents(crosscoder, wrong)
    with pytest.raises(LatentError, match="there is no latent 600"):
        selected_latents(crosscoder, "5-600")


@pytest.mark.usefixtures("restored_environment")
def test_the_command_writes_a_dashboard(planted_run, tmp_path):
    def run(*arguments, code=0):
        found = CliRunner().invoke(main, ["dashboard", str(planted_run / "crosscoder"), *map(str, arguments)])
        assert found.exit_code == code, found.output
        return found.output

    more = ("--tokens", 512, "--quiet", "--top", 2, "--title", "Planted")
    said = run("--output", tmp_path / "x", "--latents", "0-2,5", *more)
    assert f"dashboard: {tmp_path / 'x' / 'index.html'}" in said
    facts = put(tmp_path / "x", "facts")
    assert facts["latents"] == [0, 1, 2, 5] and facts["title"] == "Planted"
    titles = [card["title"] for card in facts["cards"]]
    assert titles[:2] == ["Crosscoder", "Training, held-out text"] and "Text read here" in titles
    assert str(tmp_path) not in (tmp_path / "x" / "data" / "facts.js").read_text()
    assert "there is no latent 5000" in run("--output", tmp_path / "y", "--latents", "5000", *more, code=1)
    assert "something else than a dashboard" in run("--output", planted_run, *more, code=1)
