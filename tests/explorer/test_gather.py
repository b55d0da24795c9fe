"""What an explorer shows of latents, against a naive version that holds everything, on several wirings."""

import math
from collections import defaultdict
from functools import cache

import numpy as np
import pytest
import torch

from crosscoders import LatentError
from crosscoders.explorer import gathering, neighbours, windows
from crosscoders.explorer.choosing import LatentDetail
from crosscoders.explorer.gathering import gather
from explorer_studies import random_study
from study_of_texts import shared_study

DETAIL = LatentDetail(top=4, per_range=2, shares=3, ranges=5, bins=7, before=3, after=2, neighbours=3, logits=2)


@cache
def studies():
    return {
        "trained, two models": shared_study(),
        "causal, three layers": random_study("weakly_causal", [f"chat/layers.{i}" for i in range(3)], 36),
        "autoencoder": random_study("sae", ["base/layers.1"], 20),
        "dedicated": random_study("dedicated", ["base/layers.1", "chat/layers.1"], 30),
    }


@cache
def naive_of(name):
    return Naive(studies()[name])


class Naive:
    """Everything dense, one token after the other."""

    def __init__(self, study):
        self.study, self.rows, self.keep, self.x = study, [], [], []
        batches = list(study.batches())
        self.tokens = [(batch, row) for batch in batches for row in range(len(batch.keep_BT))]
        self.f = np.zeros((len(self.tokens), batches[0].keep_BT.shape[1], study.crosscoder.num_latents), np.float32)
        for number, (batch, row) in enumerate(self.tokens):
            keep_T = batch.keep_BT[row]
            f = study.crosscoder.encode(batch.x_BTX[row][keep_T]).dense()
            self.f[number, keep_T.numpy()] = f.detach().numpy()
        self.documents = [
            (
                batch.tokens.attention[row].int() - 1 if batch.tokens.document is None else batch.tokens.document[row]
            ).tolist()
            for batch, row in self.tokens
        ]
        self.ids = [batch.tokens.ids[row].tolist() for batch, row in self.tokens]

    def document(self, sequence, position):
        return self.documents[sequence][position]

    def window(self, sequence, position):
        here, length = self.document(sequence, position), self.f.shape[1]
        start = stop = position
        while start > max(0, position - DETAIL.before) and self.document(sequence, start - 1) == here:
            start -= 1
        while stop < min(length - 1, position + DETAIL.after) and self.document(sequence, stop + 1) == here:
            stop += 1
        return start, stop + 1


@pytest.mark.parametrize("name", ["trained, two models", "causal, three layers", "autoencoder", "dedicated"])
def test_records_are_what_a_naive_pass_finds(name):
    study = studies()[name]
    naive, crosscoder = naive_of(name), study.crosscoder
    records = list(gather(study, detail=DETAIL))
    every = sorted({token for row in naive.ids for token in row})
    texts = dict(zip(every, study.reading.token_texts(every)))
    assert [record.latent for record in records] == list(range(crosscoder.num_latents))
    assert sum(record.firings > 10 for record in records) > 5
    for record in records:
        f = naive.f[:, :, record.latent]
        values = f[f > 0]
        assert record.firings == len(values)
        assert record.histogram.high == pytest.approx(values.max(initial=0.0))
        if len(values):
            edges = np.linspace(0, values.max(), 8)
            assert [
                int(((values > low) & (values <= high * (1 + 1e-6))).sum()) for low, high in zip(edges, edges[1:])
            ] == (pytest.approx(record.histogram.counts, abs=1))
        assert sum(record.histogram.counts) == len(values)
        peaks = sorted(((row.max(), -number) for number, row in enumerate(f) if row.max() > 0), reverse=True)
        distinct = {}
        for peak, number in peaks[: 8 * 4]:
            start, stop = naive.window(-number, int(f[-number].argmax()))
            distinct.setdefault(tuple(naive.ids[-number][start:stop]), (peak, -number))
        top = list(distinct.values())[:4]
        assert [example.values[example.peak] for example in record.top] == pytest.approx([p for p, _ in top], rel=1e-4)
        assert [example.sequence for example in record.top] == [number for _, number in top]
        shares = defaultdict(float)
        for part in record.ranges:
            inside = (f > part.low * (1 + 1e-6)) & (f <= part.high * (1 + 1e-6))
            assert part.share == pytest.approx(inside.sum() / len(values), abs=1.5 / len(values))
            shares["all"] += part.share
            sequences = [example.sequence for example in part.examples]
            assert len(set(sequences)) == len(sequences) == min(2, int(inside.any(axis=1).sum()))
            for example in part.examples:
                assert part.low - 1e-6 <= example.values[example.peak] <= part.high + 1e-6
        assert not len(values) or shares["all"] == pytest.approx(1)
        for example in [*record.top, *(each for part in record.ranges for each in part.examples)]:
            position = example.start + example.peak
            assert (example.start, example.stop) == naive.window(example.sequence, position)
            assert np.allclose(example.values, f[example.sequence, example.start : example.stop], atol=1e-4)
            ids = naive.ids[example.sequence][example.start : example.stop]
            assert [texts[token] for token in ids] == list(example.tokens)


@pytest.mark.parametrize("name", ["trained, two models", "dedicated"])
def test_what_models_bring_adds_up_to_the_pre_activation(name):
    study = studies()[name]
    naive, crosscoder = naive_of(name), study.crosscoder
    seen = 0
    for record in gather(study, detail=DETAIL):
        assert all(set(example.shares) == {"base", "chat"} for example in record.top[:3])
        assert all(not example.shares for example in record.top[3:])
        for example in record.top[:3]:
            batch, row = naive.tokens[example.sequence]
            x_TX = crosscoder.normalised(batch.x_BTX[row, example.start : example.stop])
            pre_T = crosscoder.pre_activations(x_TX)[:, record.latent] - crosscoder.b_enc_F[record.latent]
            keep_T = batch.keep_BT[row, example.start : example.stop]
            expected = torch.where(keep_T, pre_T, 0).detach().numpy()
            assert sum(example.shares.values()) == pytest.approx(expected, abs=1e-4)
            seen += 1
    assert seen > 20
    if name == "dedicated":
        first = next(gather(study, [0], detail=DETAIL))  # of the group that reads base alone
        assert all(not example.shares["chat"].any() and example.shares["base"].any() for example in first.top[:3])


def test_one_model_has_no_shares():
    records = list(gather(studies()["causal, three layers"], detail=DETAIL))
    assert all(not example.shares for record in records for example in record.top)


@pytest.mark.parametrize("name", ["trained, two models", "causal, three layers", "dedicated"])
def test_neighbours_norms_and_logits_are_those_of_dense_matrices(name):
    study = studies()[name]
    naive, crosscoder = naive_of(name), study.crosscoder
    keep = np.stack([batch.keep_BT[row].numpy() for batch, row in naive.tokens])
    on = (naive.f[keep] > 0).astype(float)
    rows = torch.cat([crosscoder.decoder_rows(site) for site in crosscoder.written.names], dim=1).detach()
    cosine = torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(rows, dim=1).T
    with np.errstate(all="ignore"):
        correlation = np.corrcoef(on.T)
    both = on.T @ on
    for record in gather(study, detail=DETAIL):
        j = record.latent
        expected = cosine[j].clone()
        expected[j] = -2
        assert [value for _, value in record.nearest] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-5)
        assert all(expected[k] == pytest.approx(value, abs=1e-5) for k, value in record.nearest)
        able = [k for k in range(len(on.T)) if k != j and both[j, k] >= 2 and correlation[j, k] > 1e-12]
        best = sorted(able, key=lambda k: (-round(correlation[j, k], 9), k))[:3]
        assert [k for k, _ in record.together] == best
        assert [value for _, value in record.together] == pytest.approx([correlation[j, k] for k in best])
        for site, norm in zip(crosscoder.written.names, record.norms):
            assert norm == pytest.approx(float(crosscoder.direction(j, site).norm()), rel=1e-5, abs=1e-7)
        table = study.logit_effects(j, n=2)
        sites = [site for site, norm in zip(crosscoder.written.names, record.norms) if norm > 0]
        assert [each.site for each in record.logits] == sites
        for each in record.logits:
            for kind in ("promoted", "suppressed"):
                said = [(row["id"], row["effect"]) for row in table if row["site"] == each.site and row["kind"] == kind]
                assert [effect for _, effect in getattr(each, kind)] == pytest.approx(
                    [effect for _, effect in said], rel=1e-4
                )


def test_pieces_of_every_size_give_the_same(monkeypatch):
    study = studies()["trained, two models"]
    expected = list(gather(study, detail=DETAIL))
    monkeypatch.setattr(neighbours, "GATHERED", 7)
    monkeypatch.setattr(windows, "WINDOWS_AT_ONCE", 3)
    monkeypatch.setattr(gathering, "LATENTS_OF_LOGITS", 5)
    monkeypatch.setattr("crosscoders.explorer.firings.BUFFERED", 100)
    for one, other in zip(expected, gather(study, detail=DETAIL), strict=True):
        assert one.together == other.together
        assert [each.site for each in one.logits] == [each.site for each in other.logits]
        for a, b in zip(one.top, other.top, strict=True):
            assert (a.sequence, a.start, a.values.tolist()) == (b.sequence, b.start, b.values.tolist())
            for model in a.shares:
                assert a.shares[model] == pytest.approx(b.shares[model], abs=1e-4)


def test_only_some_latents_are_what_they_are_among_all():
    study = studies()["trained, two models"]
    every = {record.latent: record for record in gather(study, detail=DETAIL)}
    some = list(gather(study, [40, 3, 3, 11], detail=DETAIL))
    assert [record.latent for record in some] == [3, 11, 40]
    for record in some:
        other = every[record.latent]
        assert record.together == other.together and record.histogram == other.histogram
        assert [example.sequence for part in record.ranges for example in part.examples] == (
            [example.sequence for part in other.ranges for example in part.examples]
        )
    with pytest.raises(LatentError, match="there is no latent 48"):
        list(gather(study, [48]))


def test_silent_latents_have_empty_records():
    study = random_study("sae", ["base/layers.1"], 20)
    with torch.no_grad():
        study.crosscoder.b_enc_F[7] = -1e6
    record = next(gather(study, [7]))
    assert record.firings == 0 and not record.top and not record.ranges and not record.together
    assert record.histogram.high == 0 and math.isfinite(record.norms[0]) and len(record.nearest) == 8


def test_packed_rows_do_not_mix_documents():
    study = random_study("sae", ["base/layers.1"], 20)
    assert study.packing == "apart"
    naive = Naive(study)
    crossing = 0
    for record in gather(study, detail=LatentDetail(before=20, after=20)):
        for example in record.top:
            documents = {naive.document(example.sequence, position) for position in range(example.start, example.stop)}
            assert len(documents) == 1 and -1 not in documents
            crossing += len({naive.document(example.sequence, t) for t in range(24)} - {-1}) > 1
    assert crossing > 0
