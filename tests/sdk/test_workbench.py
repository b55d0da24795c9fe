"""The workbench: what a study looks at, changes and measures, against versions by hand."""

from functools import cache

import pandas
import pytest
import torch

from crosscoders import (
    AnalysisError,
    Chat,
    Crosscoder,
    Edit,
    LatentError,
    LatentGroup,
    Message,
    ModelChoice,
    Site,
    SiteError,
    Study,
    Text,
    TokenBatch,
    TokenIds,
    Wiring,
    build_crosscoder,
    match,
)
from crosscoders.analysis.inputs import documents_of
from crosscoders.crosscoder.initialise import initialise
from study_of_texts import SITES, Texts, adapters, shared_study, study_over

PHRASE = "Return the sum of a list and join the strings"


@pytest.fixture
def study():
    made = shared_study()
    with torch.no_grad():
        yield made


@cache
def evaluated():
    return shared_study().evaluate()


def rows_of(*ids):
    width = max(map(len, ids))
    table = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])
    attention = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in ids])
    none = torch.zeros_like(attention)
    return TokenBatch(table, attention, none, none)


def by_hand(study, ids):
    """Activations of every site, latents dense, for one row of tokens whose first is BOS, which has none."""
    tokens = rows_of(ids)
    x = {s: adapters()[s.split("/")[0]].activations(tokens, [s.split("/")[1]])[s.split("/")[1]][0] for s in SITES}
    f_BF = study.crosscoder.encode(x).dense()
    f_BF[0] = 0
    return tokens, x, f_BF


def ids_of(text, model="chat"):
    return list(adapters()[model].tokenize(Text(text)).ids)


# -- inputs


def test_what_is_given_becomes_documents():
    chat = [{"role": "user", "content": "hi"}]
    assert documents_of("a") == [Text("a")]
    assert documents_of(["a", "b"]) == [Text("a"), Text("b")]
    assert documents_of(chat) == [Chat((Message("user", "hi"),))] == documents_of([chat])
    assert documents_of([1, 2]) == [TokenIds((1, 2))] == documents_of(torch.tensor([1, 2]))
    assert documents_of(torch.tensor([[1, 2], [3, 4]])) == [TokenIds((1, 2)), TokenIds((3, 4))]
    for nonsense in ([], 3, None, {"role": "user"}):
        with pytest.raises(AnalysisError, match="expected a text"):
            documents_of(nonsense)


# -- look


def test_latents_of_a_text_are_those_of_its_activations(study):
    found = study.latents(PHRASE, top=3)
    _, _, f_BF = by_hand(study, ids_of(PHRASE))
    score_BF = f_BF * study.crosscoder.score_norms()
    frame = found.to_pandas()
    for position, rows in frame.groupby("position"):
        expected = score_BF[position].sort(descending=True)
        count = min(3, int((f_BF[position] > 0).sum()))
        assert rows["latent"].tolist() == expected.indices[:count].tolist()
        assert rows["score"].tolist() == pytest.approx(expected.values[:count].tolist(), rel=1e-4)
    assert set(frame["position"]) == {t for t in range(len(f_BF)) if f_BF[t].any()}
    best = found.strongest(1)[0]
    assert best == int(score_BF.amax(dim=0).argmax())
    assert found.activation(best)[0] == pytest.approx(f_BF[:, best].tolist(), rel=1e-4, abs=1e-5)


def test_rows_of_unequal_length_and_chats_are_looked_at_together(study):
    together = study.latents(["Return the sum", PHRASE], top=5).to_pandas()
    alone = study.latents(PHRASE, top=5).to_pandas()
    second = together[together["row"] == 1].drop(columns="row").reset_index(drop=True)
    pandas.testing.assert_frame_equal(second, alone.drop(columns="row"), rtol=1e-3, atol=1e-4)
    assert "<user>" in study.latents([{"role": "user", "content": "join"}]).texts[0]


def test_tokens_are_escaped_and_reprs_are_short(study):
    found = study.latents("<script>alert(1)</script> Return the sum")
    assert "<script" not in found._repr_html_() and "script" in found._repr_html_()
    for shown in (found, study, study.density(), study.examples([0]), study.ablate([0], PHRASE), evaluated()):
        assert len(repr(shown)) < 300, repr(shown)


def test_density_and_silent_are_counts_over_the_tokens(study):
    f_BF = torch.cat([study.crosscoder.encode(batch.x_BX).dense() for batch in study.batches()])
    frame = study.density().to_pandas().set_index("latent")
    for j in range(study.crosscoder.num_latents):
        assert frame["firings"][j] == int((f_BF[:, j] > 0).sum())
        assert frame["density"][j] == pytest.approx(float((f_BF[:, j] > 0).double().mean()))
        assert frame["max"][j] == pytest.approx(float(f_BF[:, j].max()))
    assert study.silent() == [j for j in range(f_BF.shape[1]) if not (f_BF[:, j] > 0).any()]
    assert frame["density"].is_monotonic_decreasing


def test_examples_are_the_strongest_contexts(study):
    latent = int(study.density().rows[0][0])
    frame = study.examples([latent], n=4).to_pandas()
    peaks = []
    for batch in study.batches():
        f_BTF = torch.zeros(*batch.keep_BT.shape, study.crosscoder.num_latents)
        f_BTF[batch.keep_BT] = study.crosscoder.encode(batch.x_BX).dense()
        peaks += f_BTF[..., latent].amax(dim=1).tolist()
    assert frame["peak"].tolist() == pytest.approx(sorted(peaks, reverse=True)[:4], rel=1e-5)
    assert frame["rank"].tolist() == [0, 1, 2, 3] and set(frame["heading"]) == {f"latent {latent}"}


def test_find_counts_how_rarely_a_latent_is_as_active(study):
    found = study.find("join the strings", n=5)
    _, _, f_BF = by_hand(study, ids_of("join the strings"))
    data_BF = torch.cat([study.crosscoder.encode(batch.x_BX).dense() for batch in study.batches()])
    for row in found:
        j, peak = row["latent"], float(f_BF[:, row["latent"]].max())
        # The same words in another batch give the same value but for rounding, so the count lies between two.
        most, least = (int((data_BF[:, j] >= peak + slack).sum()) for slack in (-1e-3, 1e-3))
        assert row["peak"] == pytest.approx(peak, rel=1e-4)
        share = 2.0 ** -row["surprise_bits"] * (1 + len(data_BF))
        assert 1 + least - 1e-6 <= share <= 1 + most + 1e-6
        mean = float(f_BF[1:, j].mean())
        assert row["lift"] == pytest.approx(mean / float(data_BF[:, j].mean()), rel=1e-3)
    assert found.column("surprise_bits") == sorted(found.column("surprise_bits"), reverse=True)


def test_logit_effects_are_the_direct_path(study):
    found = study.logit_effects(3, n=2)
    assert {row["site"] for row in found} == set(SITES)
    model = adapters()["chat"].model
    direction_D = study.crosscoder.direction(3, "chat/layers.2")
    effect_V = model.lm_head.weight @ (model.model.norm.weight * direction_D)
    effect_V = effect_V - effect_V.mean()
    rows = [row for row in found if row["site"] == "chat/layers.2"]
    promoted = [row for row in rows if row["kind"] == "promoted"]
    assert [row["id"] for row in promoted] == effect_V.topk(2).indices.tolist()
    assert [row["effect"] for row in promoted] == pytest.approx(effect_V.topk(2).values.tolist(), rel=1e-4)
    assert [row["id"] for row in rows if row["kind"] == "suppressed"] == (-effect_V).topk(2).indices.tolist()


def test_directions_are_in_raw_units(study):
    crosscoder = study.crosscoder
    latents = torch.zeros(2, crosscoder.num_latents)
    latents[1, 7] = 1.0
    written = crosscoder.split(crosscoder.decode(latents))
    for site in SITES:
        torch.testing.assert_close(
            crosscoder.direction(7, site), written[site][1] - written[site][0], atol=1e-5, rtol=1e-4
        )
    assert crosscoder.direction([7, 0], SITES[0]).shape == (2, 192)
    with pytest.raises(LatentError, match="no latent 48"):
        crosscoder.direction(48, SITES[0])
    with pytest.raises(LatentError, match="no latent 48"):
        study.examples([48])


def test_directions_of_groups_that_write_some_sites():
    sites = (Site("a/x", 3), Site("b/x", 2))
    groups = (LatentGroup("first", 2, ("a/x",), ("a/x",)), LatentGroup("both", 3, ("a/x", "b/x"), ("a/x", "b/x")))
    crosscoder = Crosscoder(Wiring(sites=sites, groups=groups))
    initialise(crosscoder, decoder_norm=1.0, generator=torch.Generator().manual_seed(0))
    crosscoder.normaliser.set_mean_norms(torch.tensor([2.0, 5.0]))
    rows_FD = crosscoder.decoder_rows("b/x") / crosscoder.normaliser.scale_S[1]
    torch.testing.assert_close(crosscoder.direction([4, 0, 2], "b/x"), rows_FD[[4, 0, 2]])
    assert not crosscoder.direction(1, "b/x").any()


# -- act


@pytest.mark.parametrize("change", [6.0, "ablate", ("scale", 2.0), ("clamp", 3.0), ("add", -1.0)])
def test_edits_of_latents_by_hand(study, change):
    """The activations move by the change of value times the direction in raw units; BOS is not told apart here."""
    crosscoder, site = study.crosscoder, "chat/layers.2"
    tokens, x, _ = by_hand(study, ids_of(PHRASE))
    f_BF = crosscoder.encode(x).dense()
    latent = int((f_BF[1:] > 0).sum(dim=0).argmax())
    f = f_BF[:, latent]
    new = {6.0: f + 6, "ablate": 0 * f, ("scale", 2.0): 2 * f, ("clamp", 3.0): 3.0 + 0 * f, ("add", -1.0): f - 1}[
        change
    ]
    moved = x[site] + (new - f)[:, None] * crosscoder.direction(latent, site)
    others = {name: value[None] for name, value in x.items() if name != site}
    edit = Edit.latents(crosscoder, {latent: change}, site=site, x=others)
    assert edit.point == "layers.2"
    torch.testing.assert_close(edit.apply(x[site][None])[0], moved, rtol=1e-4, atol=1e-4)
    chat = adapters()["chat"]
    torch.testing.assert_close(
        chat.logits(tokens, [edit]), chat.logits(tokens, [Edit.replace("layers.2", moved[None])]), rtol=1e-3, atol=1e-3
    )
    without_error = Edit.latents(crosscoder, {latent: change}, site=site, x=others, keep_error=False)
    rebuilt = crosscoder.split(crosscoder(x))[site] + (new - f)[:, None] * crosscoder.direction(latent, site)
    torch.testing.assert_close(without_error.apply(x[site][None])[0], rebuilt, rtol=1e-3, atol=1e-3)


def test_edits_say_what_they_need(study):
    with pytest.raises(SiteError, match=r"also depend on base/layers\.1, chat/layers\.1"):
        Edit.latents(study.crosscoder, {0: "ablate"}, site="chat/layers.2")
    with pytest.raises(LatentError, match="no latent 99"):
        Edit.latents(study.crosscoder, {99: 1.0}, site="chat/layers.2")
    with pytest.raises(LatentError, match="'ablated' of latent 0 is none of"):
        study.steer({0: "ablated"})
    with pytest.raises(AnalysisError, match="of one model"):
        study.steer({0: 1.0}, sites=["base/layers.1", "chat/layers.1"])
    with pytest.raises(AnalysisError, match="no site of a model 'q'"):
        study.steer({0: 1.0}, model="q")


def test_steering_adds_at_every_site_of_the_model(study):
    steered = study.steer({5: 4.0})
    assert steered.model == "chat" and steered.sites == ("chat/layers.1", "chat/layers.2")
    tokens, chat = rows_of(ids_of(PHRASE)), adapters()["chat"]
    edits = [Edit.add(f"layers.{i}", 4.0 * study.crosscoder.direction(5, f"chat/layers.{i}")) for i in (1, 2)]
    torch.testing.assert_close(steered.logits(PHRASE), chat.logits(tokens, edits), rtol=1e-3, atol=1e-3)
    base = study.steer({5: 4.0}, model="base").logits(PHRASE)
    edit = Edit.add("layers.1", 4.0 * study.crosscoder.direction(5, "base/layers.1"))
    torch.testing.assert_close(base, adapters()["base"].logits(tokens, [edit]), rtol=1e-3, atol=1e-3)


def greedy(steered, prompt, count):
    """The whole forward pass again for each token."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(steered.logits([TokenIds(tuple(ids))])[0, -1].argmax()))
        if ids[-1] in adapters()[steered.model].end_tokens():
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


@pytest.mark.parametrize("change", [8.0, "ablate", ("clamp", 9.0)])
def test_generation_with_a_cache_is_that_of_whole_passes(study, change):
    """Two prompts of unequal length, left-padded, latents that also read the other model."""
    chat = adapters()["chat"]
    steered = study.steer({5: change, 2: ("scale", 3.0)} if change != 8.0 else {5: change})
    prompts = ["What is join?", "Return the sum of a list, please, and say it"]
    found = steered.generate(prompts, max_new_tokens=4)
    assert found == [chat.text(greedy(steered, chat.prompt(prompt), 4)) for prompt in prompts]
    assert steered.generate(prompts[0], max_new_tokens=4) == found[0]


def test_no_change_is_the_plain_model_and_seeds_decide(study):
    plain = study.steer({})
    torch.testing.assert_close(plain.logits(PHRASE), adapters()["chat"].logits(rows_of(ids_of(PHRASE))))
    one, other = (plain.generate("What is join?", max_new_tokens=6, temperature=1.0, seed=seed) for seed in (0, 0))
    assert one == other
    assert plain.generate([Text("Return the"), [1, 5, 6]], max_new_tokens=2) != ["", ""]


def test_ablation_by_hand(study):
    _, x, f_BF = by_hand(study, ids_of(PHRASE))
    latent = int((f_BF > 0).sum(dim=0).argmax())
    effect = study.ablate([latent], PHRASE, sites=["chat/layers.2"])
    chat, tokens = adapters()["chat"], rows_of(ids_of(PHRASE))
    moved = x["chat/layers.2"] - f_BF[:, latent, None] * study.crosscoder.direction(latent, "chat/layers.2")
    changed = chat.logits(tokens, [Edit.replace("layers.2", moved[None])])[0].log_softmax(-1)
    clean = chat.logits(tokens)[0].log_softmax(-1)
    kl = (clean.exp() * (clean - changed)).sum(-1)[:-1]
    following = tokens.ids[0, 1:]
    frame = effect.to_pandas()
    assert frame["kl"].tolist() == pytest.approx(kl.tolist(), rel=1e-2, abs=1e-5)
    assert frame["loss"].tolist() == pytest.approx(
        (-changed[:-1].gather(1, following[:, None])[:, 0]).tolist(), rel=1e-3
    )
    assert effect.loss_increase == pytest.approx(float((frame["loss"] - frame["loss_clean"]).mean()), abs=1e-5)
    assert effect.kl > 0 and "<span" in effect._repr_html_()


def test_ablating_what_is_never_active_changes_nothing(study):
    silent = {**dict.fromkeys(study.silent(), "ablate"), 0: ("scale", 1.0)}
    steered = study.steer(silent)
    torch.testing.assert_close(steered.logits(PHRASE), study.steer({}).logits(PHRASE), rtol=1e-4, atol=1e-4)
    assert study.ablate([0]).kl_N.shape[0] == study.patch("chat", "base", [0]).kl_N.shape[0]


def test_patching_everything_with_the_error_is_the_source_itself(study):
    """E: x^base + Σ f (d^chat − d^base) + the rest of the difference is x^chat, so KL is 0."""
    whole = study.patch("chat", "base", with_error=True)
    assert whole.kl < 1e-5 and whole.recovered == pytest.approx(1.0, abs=1e-3)
    nothing = study.patch("chat", "base", [])
    assert nothing.recovered == pytest.approx(0.0, abs=1e-6) and nothing.kl > 0.01
    assert study.patch("chat", "chat", [1, 2]).kl < 1e-5


def test_a_patch_by_hand(study):
    latents = study.latents(PHRASE).strongest(3)
    _, x, f_BF = by_hand(study, ids_of(PHRASE))
    step = study.crosscoder.direction(latents, "chat/layers.1") - study.crosscoder.direction(latents, "base/layers.1")
    patched = x["base/layers.1"] + f_BF[:, latents] @ step
    patched[0] = x["chat/layers.1"][0]  # BOS has no latents and stays
    tokens, chat = rows_of(ids_of(PHRASE)), adapters()["chat"]
    clean = chat.logits(tokens)[0].log_softmax(-1)
    changed = chat.logits(tokens, [Edit.replace("layers.1", patched[None])])[0].log_softmax(-1)
    kl = (clean.exp() * (clean - changed)).sum(-1)[:-1]
    found = study.patch("chat", "base", latents, PHRASE)
    assert found.kl_N.tolist() == pytest.approx(kl.tolist(), rel=1e-2, abs=1e-4)
    assert "kl_without" in found.to_pandas()
    with pytest.raises(AnalysisError, match="no model 'q'"):
        study.patch("q", "base")


def test_generating_side_by_side_works_before_anything_else_was_run():
    """The first run of a model finds out about its points and positions; it must not change what is going on."""
    first = shared_study()
    fresh = {key: ModelChoice.of("transformers", model=f"tiny-pair/{key}").build() for key in ("base", "chat")}
    study = Study(first.crosscoder, fresh, Texts(), activations=first.activations, num_tokens=48)
    prompts = ["Return the sum", PHRASE]
    assert study.steer({0: "ablate"}).generate(prompts, max_new_tokens=3) == first.steer({0: "ablate"}).generate(
        prompts, max_new_tokens=3
    )


# -- measure


def test_evaluation_by_hand(study):
    metrics = evaluated()
    chat, site = adapters()["chat"], "chat/layers.2"
    sums, count = {}, 0
    mean_D = torch.cat([study.crosscoder.layout.unpack(b.x_BX)[site] for b in study.batches()]).mean(0)
    for batch in study.batches():
        x = study.crosscoder.layout.unpack(batch.x_BTX)[site]
        rebuilt = study.crosscoder.split(study.crosscoder(batch.x_BTX.flatten(0, 1)))[site].view_as(x)
        keep = batch.keep_BT[..., None]
        puts = {"clean": x, "spliced": rebuilt, "zero": torch.zeros_like(x), "mean": mean_D.expand_as(x)}
        valid = batch.tokens.attention[:, :-1] & batch.tokens.attention[:, 1:]
        logp = {
            way: chat.logits(batch.tokens, [Edit.replace("layers.2", torch.where(keep, put, x))]).log_softmax(-1)[
                :, :-1
            ]
            for way, put in puts.items()
        }
        for way, found in logp.items():
            loss = -found.gather(2, batch.tokens.ids[:, 1:, None])[..., 0]
            sums[f"ce_{way}"] = sums.get(f"ce_{way}", 0) + float(loss[valid].sum())
            kl = (logp["clean"].exp() * (logp["clean"] - found)).sum(-1)
            sums[f"kl_{way}"] = sums.get(f"kl_{way}", 0) + float(kl[valid].sum())
        count += int(valid.sum())
    found = metrics.spliced[site]
    for name in ("ce_clean", "ce_spliced", "kl_spliced", "ce_zero", "kl_zero", "ce_mean", "kl_mean"):
        assert found[name] == pytest.approx(sums[name] / count, rel=1e-3), name
    ce = {way: sums[f"ce_{way}"] for way in ("clean", "spliced", "zero", "mean")}
    assert found["(ce_mean-ce_spliced)/(ce_mean-ce_clean)"] == pytest.approx(
        (ce["mean"] - ce["spliced"]) / (ce["mean"] - ce["clean"]), rel=1e-3
    )
    assert found["1-kl_spliced/kl_zero"] == pytest.approx(1 - sums["kl_spliced"] / sums["kl_zero"], rel=1e-3)
    assert set(metrics.spliced) == {*SITES, "chat (all sites)"}
    assert metrics.to_pandas().set_index("site")["ce_clean"]["base/layers.1"] > 0


def test_a_perfect_reconstruction_loses_nothing():
    """As many latents as columns and their negatives, identity both ways: everything is recovered."""
    sites = (Site("chat/layers.1", 192),)
    crosscoder = Crosscoder(
        Wiring(sites=sites, groups=(LatentGroup("all", 384, ("chat/layers.1",), ("chat/layers.1",)),))
    )
    both = torch.cat([torch.eye(192), -torch.eye(192)])
    crosscoder.set_weights(0, both, both)
    study = Study(
        crosscoder, {"chat": adapters()["chat"]}, Texts(6), activations=shared_study().activations, num_tokens=140
    )
    metrics = study.evaluate()
    found = metrics.spliced["chat/layers.1"]
    assert metrics.explained_variance["chat/layers.1"] == pytest.approx(1.0, abs=1e-5)
    for formula in ("(ce_zero-ce_spliced)/(ce_zero-ce_clean)", "1-kl_spliced/kl_mean"):
        assert found[formula] == pytest.approx(1.0, abs=1e-4)


# -- compare


def test_a_permuted_copy_is_matched_exactly(study):
    first = study.crosscoder
    second = build_crosscoder("acausal", first.sites, num_latents=48)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    second.set_weights(0, first.W_enc[0][order], 3 * first.W_dec[0][order])
    found = match(first, second)
    pairs = dict(found.latent_P2.tolist())
    assert all(order[b] == a for a, b in pairs.items()) and found.mean == pytest.approx(1.0, abs=1e-5)
    assert found.random_mean < 0.5 and "<svg" in found._repr_html_()
    frame = found.to_pandas()
    assert list(frame.columns) == ["latent_a", "latent_b", "cosine", "random"] and len(frame) == 48


def test_cosines_are_of_joint_vectors_in_the_units_asked_for(study):
    crosscoder = study.crosscoder
    other = study_over(steps=2, num_latents=20).crosscoder
    for units in ("normalised", "raw"):
        found = match(crosscoder, other, units=units)
        assert len(found.cosine_P) == 20
        a, b = found.latent_P2[0].tolist()
        if units == "raw":
            rows = [torch.cat([c.direction(j, site) for site in SITES]) for c, j in ((crosscoder, a), (other, b))]
        else:
            rows = [torch.cat([c.decoder_rows(s)[j] for s in SITES]) for c, j in ((crosscoder, a), (other, b))]
        assert float(found.cosine_P[0]) == pytest.approx(float(torch.cosine_similarity(*rows, dim=0)), abs=1e-5)
    with pytest.raises(AnalysisError, match="different sites"):
        match(crosscoder, study_over(("chat/layers.1",), steps=1).crosscoder)
    with pytest.raises(AnalysisError, match="not 'metres'"):
        match(crosscoder, other, units="metres")


# -- what is kept between passes


def counted(study):
    calls = []
    for key, adapter in study.adapters.items():
        study.adapters[key] = _Counting(adapter, calls)
    return calls


class _Counting:
    def __init__(self, adapter, calls):
        self.adapter, self.calls = adapter, calls

    def __getattr__(self, name):
        return getattr(self.adapter, name)

    def activations(self, tokens, points):
        self.calls.append(len(tokens.ids))
        return self.adapter.activations(tokens, points)


def new_study(**options):
    return Study(
        shared_study().crosscoder,
        dict(adapters()),
        Texts(),
        activations=shared_study().activations,
        num_tokens=20 * 24,
        **options,
    )


def totals(study):
    return [float(batch.x_BX.double().sum()) for batch in study.batches()], study.density().rows


@pytest.mark.parametrize(("options", "harvests"), [({}, 1), ({"memory": 0}, 3), ({"memory": 0, "folder": "spill"}, 1)])
def test_the_second_pass_reads_and_harvests_nothing_that_is_kept(tmp_path, options, harvests):
    if "folder" in options:
        options = {**options, "folder": tmp_path / options["folder"]}
    study = new_study(**options)
    assert study.pack is not None  # trying whether the models read packed rows does not belong to a pass
    calls = counted(study)
    first = totals(study)
    read = study.source.read
    assert totals(study) == first
    assert study.source.read == read
    assert sum(calls) == 2 * 20 * harvests
    assert study.with_tokens(5 * 24).density().note.startswith("Shares of")
    assert study.source.read == read


def test_other_numbers_of_tokens_see_the_same_rows():
    study = new_study()
    short = study.with_tokens(10 * 24)
    few = torch.cat([batch.tokens.ids for batch in short.batches()])
    many = torch.cat([batch.tokens.ids for batch in study.batches()])
    assert len(few) == 10 and len(many) == 20 and torch.equal(many[:10], few)
    assert torch.equal(torch.cat([batch.tokens.ids for batch in short.batches()]), few)


def test_latents_are_encoded_once_and_anew_when_the_crosscoder_changes():
    study = study_over(steps=1)
    first = next(iter(study.batches()))
    kept = first.latents
    assert next(iter(study.batches())).latents is kept
    with torch.no_grad():
        study.crosscoder.b_enc_F += 1.0
    assert next(iter(study.batches())).latents is not kept
    assert study.density().rows != shared_study().density().rows
