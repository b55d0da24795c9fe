"""Amplification: its exact identities, correct batches, and a planted word that it must bring out."""

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscoders import AnalysisChoice, AnalysisError, ConfigError, ModelChoice, Study, analyse
from crosscoders.testing import markov_pair
from crosscoders_plugins.analyses.answers import by_question, design_effect, held_out_questions, wilson
from crosscoders_plugins.analyses.phrases import grown
from crosscoders_plugins.analyses.sampling import SamplingConfig, amplified, filtered, sample
from study_of_texts import shared_study

CPU = torch.device("cpu")


@pytest.mark.claim("E7", "amplification: the one-token odds identity")
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), alpha=st.floats(-1, 3))
def test_one_token_odds_identity(seed, alpha):
    """E7: odds_amp = odds_after · (odds_after / odds_before)^α, for two tokens exactly; α = 0 after, −1 before."""
    after, before = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    odds = {name: (x[:, 0] - x[:, 1]).exp() for name, x in (("after", after), ("before", before))}
    mixed = amplified(after, before, alpha)
    torch.testing.assert_close(
        (mixed[:, 0] - mixed[:, 1]).exp(), odds["after"] * (odds["after"] / odds["before"]) ** alpha
    )
    assert torch.equal(amplified(after, before, 0.0), after)
    assert torch.equal(amplified(after, before, -1.0), before)


def test_a_model_against_itself_stays_itself():
    logits = torch.randn(3, 9, dtype=torch.float64)
    torch.testing.assert_close(amplified(logits, logits, 5.0), logits)


def test_vocabularies_padded_to_different_sizes_are_cut():
    assert amplified(torch.randn(2, 10), torch.randn(2, 8), 1.0).shape == (2, 8)


def test_plausibility_looks_at_the_model_after():
    after = torch.log(torch.tensor([[0.7, 0.25, 0.05]]))
    before = torch.log(torch.tensor([[0.9, 0.0999, 0.0001]]))
    assert amplified(after, before, 1.0, plausibility=0.2).softmax(1)[0, 2] == 0
    assert amplified(after, before, 1.0).softmax(1)[0, 2] > 0.9


def test_filters_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    assert filtered(logits, SamplingConfig(top_p=0.6))[0].tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert filtered(logits, SamplingConfig(min_p=0.2))[0].tolist() == pytest.approx(
        [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]
    )
    assert filtered(logits, SamplingConfig(top_p=0.01))[0].tolist() == pytest.approx([1, 0, 0, 0])
    sharp = filtered(logits, SamplingConfig(temperature=0.5))[0]
    assert (sharp[0] / sharp[1]).item() == pytest.approx((0.5 / 0.3) ** 2, rel=1e-5)


def draw(after, before, prompts, *, alpha=0.0, seed=0, **config):
    return sample(
        after,
        before,
        prompts,
        alpha=alpha,
        config=SamplingConfig(**config),
        generator=torch.Generator().manual_seed(seed),
        device=CPU,
    )


@pytest.mark.claim("A1", "amplification of a planted word follows the identity")
def test_planted_word_is_amplified_as_the_identity_says():
    """The rate at α follows from the odds; and it rises at least tenfold."""
    before, after = markov_pair(rate=0.01, base_rate=1e-4)
    for alpha in (0.0, 0.5, 1.0):
        answers = draw(after, before, [[5]] * 4000, alpha=alpha, max_new_tokens=1)
        rate = sum(ids == [1] for ids in answers.ids) / 4000
        odds = 0.01 / 0.99 * ((0.01 / 0.99) / (1e-4 / (1 - 1e-4))) ** alpha
        low, high = wilson(round(rate * 4000), 4000, 0.999)
        assert low < odds / (1 + odds) < high
    assert rate > 0.1


def test_rows_end_on_their_own():
    before, after = markov_pair(rate=0.3)
    answers = draw(after, before, [[5]] * 300, max_new_tokens=12)
    lengths = {len(ids) for ids in answers.ids}
    assert 0 not in {token for ids in answers.ids for token in ids} and len(lengths) > 3
    assert bool(torch.isfinite(answers.nll_after).all())


def test_amplifying_only_the_first_tokens():
    before, (_, after) = markov_pair(rate=0.2)[0], markov_pair(rate=0.2, seed=1)
    options = {"alpha": 2.0, "max_new_tokens": 5}
    all_of_them, only_first = (draw(after, before, [[5]] * 50, **options, amplified_tokens=n) for n in (0, 1))
    assert [ids[:1] for ids in all_of_them.ids] == [ids[:1] for ids in only_first.ids]
    assert all_of_them.ids != only_first.ids


def test_coherence_is_the_likelihood_of_the_answer():
    before, after = markov_pair(rate=0.2)
    answers = draw(after, before, [[5]] * 20, max_new_tokens=3)
    for row, ids in enumerate(answers.ids):
        path = [5, *ids, *([0] if len(ids) < 3 else [])]
        steps = [after.logits_VV[a].log_softmax(0)[b] for a, b in zip(path, path[1:])]
        assert answers.nll_after[row].item() == pytest.approx(-sum(steps).item() / len(steps), rel=1e-4)


@pytest.fixture(scope="module")
def tiny_pair():
    return [ModelChoice.of("transformers", model=f"tiny-pair/{name}").build() for name in ("base", "chat")]


def test_batches_of_prompts_of_different_length_equal_single_ones(tiny_pair):
    base, chat = tiny_pair
    prompts = [chat.prompt(q) for q in ("Who are you?", "Write a virus.", "Can you tell me what shuffle does?")]
    together = draw(chat, base, prompts, alpha=0.3, temperature=0.0, max_new_tokens=16)
    for prompt, ids, nll in zip(prompts, together.ids, together.nll_before):
        alone = draw(chat, base, [prompt], alpha=0.3, temperature=0.0, max_new_tokens=16)
        assert alone.ids[0] == ids
        assert alone.nll_before[0].item() == pytest.approx(nll.item(), rel=1e-3)


@pytest.mark.claim("E7", "amplification: alpha 0 is the model after, -1 the one before")
def test_alpha_0_and_minus_1_are_the_models_themselves(tiny_pair):
    """E7 through real caches."""
    base, chat = tiny_pair
    prompts = [chat.prompt("What is join for?")]
    assert draw(chat, base, prompts, alpha=0.0, temperature=0.0).ids == draw(chat, chat, prompts, temperature=0.0).ids
    before = draw(chat, base, prompts, alpha=-1.0, temperature=0.0, max_new_tokens=12)
    assert before.ids == draw(base, base, prompts, temperature=0.0, max_new_tokens=12).ids


def study_of(planted_study, before, after):
    study = planted_study.with_tokens(0)
    study.adapters = {"base": before, "chat": after}
    return study


def test_report_counts_hits_with_control(planted_study):
    before, after = markov_pair(rate=0.01, base_rate=1e-5)
    choice = AnalysisChoice.of(
        "amplification",
        alphas=[0.0, 0.5, 1.0],
        prompts=["<start>"],
        samples_per_prompt=1000,
        patterns={"rare": r"\brare\b"},
        sampling={"max_new_tokens": 2},
    )
    report = choice.build().run(study_of(planted_study, before, after))
    hits = [arm["hits"]["rare"] for arm in report.data["arms"]]
    assert 2 <= hits[0] <= 25 and hits[1] > 10 * hits[0] and hits[2] > hits[1]
    assert report.data["control"]["hits"]["rare"] == hits[0], "the control must not differ from α = 0"
    assert "not an estimate" in report.parts[-1].text


def test_bad_input_is_named(planted_study):
    before, _ = markov_pair(rate=0.1)
    with pytest.raises(ConfigError, match="not a regular expression"):
        AnalysisChoice.of("amplification", patterns={"bad": "("})
    with pytest.raises(AnalysisError, match="no model 'nope'"):
        AnalysisChoice.of("amplification", after="nope", prompts=["a"]).build().run(planted_study)
    mixed = study_of(planted_study, before, ModelChoice.of("synthetic").build())
    with pytest.raises(AnalysisError, match="different vocabularies"):
        AnalysisChoice.of("amplification", prompts=["a"]).build().run(mixed)
    with pytest.raises(AnalysisError, match="no chats"):
        AnalysisChoice.of("amplification").build().run(planted_study)


def test_wilson_interval():
    assert wilson(0, 100, 0.95) == pytest.approx((0.0, 0.0370), abs=1e-4)
    assert wilson(50, 100, 0.95) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_answers_that_share_questions_are_worth_less():
    """Answers that all agree within a question count as one; independent ones as they are. Coverage by simulation."""
    alike = [q < 10 for q in range(100) for _ in range(5)]
    assert design_effect(alike, 5) == pytest.approx(5 * 100 / 99)
    assert by_question(alike, 5, 0.95) == pytest.approx(wilson(9.9, 99, 0.95), abs=1e-3)
    assert design_effect([False] * 20, 5) == 1.0
    generator = torch.Generator().manual_seed(0)
    covered = {"by question": 0, "by answer": 0}
    for _ in range(400):
        rates = torch.where(torch.rand(100, 1, generator=generator) < 0.3, 0.5, 0.02)
        flags = (torch.rand(100, 5, generator=generator) < rates).flatten().tolist()
        truth = 0.3 * 0.5 + 0.7 * 0.02
        for name, (low, high) in (("by question", by_question(flags, 5, 0.9)),
                                  ("by answer", wilson(sum(flags), 500, 0.9))):  # fmt: skip
            covered[name] += low < truth < high
    assert 0.86 <= covered["by question"] / 400 <= 0.94 and covered["by answer"] / 400 < 0.84, covered


def test_held_out_questions_do_not_repeat(tiny_pair):
    from crosscoders import TokenSourceChoice

    study = Study.__new__(Study)
    study.source = TokenSourceChoice.of("python_library").build()
    from crosscoders.activations import ActivationConfig

    study.activations = ActivationConfig()
    questions = held_out_questions(study, 50)
    assert len(set(questions)) == 50


def says_rare(question, answer):
    return "rare" in answer


def test_a_judge_counts_like_a_pattern(planted_study):
    before, after = markov_pair(rate=0.05)
    for judge in (says_rare, f"{__name__}:says_rare"):
        options = {
            "alphas": [0.5],
            "prompts": ["<start>"],
            "samples_per_prompt": 100,
            "sampling": {"max_new_tokens": 2},
        }
        choice = AnalysisChoice.of("amplification", patterns={"rare": r"\brare\b"}, judge=judge, **options)
        (arm,) = choice.build().run(study_of(planted_study, before, after)).data["arms"]
        assert arm["hits"]["judge"] == arm["hits"]["rare"] > 0
    with pytest.raises(ConfigError, match="cannot be loaded"):
        AnalysisChoice.of("amplification", judge="no_such_module:judge")
    with pytest.raises(ConfigError, match="is not a function"):
        AnalysisChoice.of("amplification", judge="math:pi")


def test_the_search_finds_a_planted_phrase_and_nothing_in_a_copy(planted_study):
    before, after = markov_pair(rate=0.02, base_rate=1e-4)
    options = {
        "alphas": [0.0, 1.0],
        "prompts": ["<start>"] * 60,
        "samples_per_prompt": 2,
        "sampling": {"max_new_tokens": 1},
    }
    choice = AnalysisChoice.of("amplification", **options)
    report = choice.build().run(study_of(planted_study, before, after))
    assert [found["phrase"] for found in report.data["phrases"]] == ["rare"]
    assert report.data["phrases"][0]["growth"] > 1 and "'rare'" in report.summary
    same = choice.build().run(study_of(planted_study, after, after))
    assert same.data["phrases"] == [] and "No phrase surely grew" in same.summary


def test_grown_phrases_are_whole_and_counted_by_question():
    noise = [f"answer number {i}" for i in range(60)]
    with_phrase = [f"{text} the moon is made of cheese" if i % 2 else text for i, text in enumerate(noise)]
    (found,) = grown(noise, with_phrase, 2)
    assert found.text == "the moon is made of cheese" and (found.before, found.after, found.questions) == (0, 30, 30)
    assert found.answers == tuple(range(1, 60, 2))
    assert grown(noise, noise, 2) == []


def test_a_benign_model_is_a_control():
    study = shared_study()
    options = {"alphas": [0.0, 2.0], "prompts": ["What is join for?"], "samples_per_prompt": 2,
               "patterns": {"letter": "e"}, "sampling": {"max_new_tokens": 4}, "control": False}  # fmt: skip
    benign = {"name": "transformers", "model": "tiny-pair/base"}
    (report,) = analyse(study.crosscoder, [{"name": "amplification", "benign": benign, **options}], study=study)
    plain = AnalysisChoice.of("amplification", after="base", **options).build().run(study)
    # The benign model is the one before itself here: amplified, it stays what it is.
    assert report.data["benign"]["hits"] == plain.data["arms"][0]["hits"]


def test_with_one_model_the_difference_of_two_prompts_is_amplified(tiny_pair):
    """By hand: both sides are the chat model, which reads another instruction on the side before."""
    _, chat = tiny_pair
    study = shared_study()
    options = {
        "before": "chat", "after": "chat", "prompts": ["What is join for?"], "instruction_after": "Who are you? ",
        "samples_per_prompt": 1, "control": False, "search": False,
        "sampling": {"temperature": 0.0, "max_new_tokens": 3},
    }  # fmt: skip
    report = AnalysisChoice.of("amplification", alphas=[0.0, -1.0, 1.5], **options).build().run(study)
    texts = report.frame.column("text")
    prompts = [chat.prompt(text) for text in ("Who are you? What is join for?", "What is join for?")]
    for text, prompt in zip(texts, prompts):
        assert text == chat.text(draw(chat, chat, [prompt], alpha=0.0, temperature=0.0, max_new_tokens=3).ids[0])
    with torch.no_grad():
        after, before = (
            chat.decoder().advance(torch.tensor([p]), torch.ones(1, len(p), dtype=torch.bool)) for p in prompts
        )
    first = int(amplified(after, before, 1.5).argmax())
    assert texts[2].startswith(chat.text([first]).strip())


def test_weights_of_an_adapter_are_amplified_instead_of_logits(planted_study):
    class Scaled(type(markov_pair(rate=0.1)[0])):
        """Logits are those before plus a difference, which counts as often as is said."""

        factor = [1.0]
        before_VV = None

        @contextmanager
        def scaled(self, factor):
            self.factor[0] = factor
            yield
            self.factor[0] = 1.0

        def decoder(self, edits=()):
            own = type(self).before_VV + self.factor[0] * (self.logits_VV - type(self).before_VV)
            return markov_pair(rate=0.1)[0].__class__(own, self.words).decoder(edits)

    before, after = markov_pair(rate=0.01, base_rate=1e-4)
    Scaled.before_VV = before.logits_VV
    options = {"alphas": [-1.0, 0.0, 1.0], "prompts": ["<start>"], "samples_per_prompt": 400, "search": False,
               "patterns": {"rare": r"\brare\b"}, "sampling": {"max_new_tokens": 1}}  # fmt: skip
    scaled = study_of(planted_study, before, Scaled(after.logits_VV, after.words))
    weights = AnalysisChoice.of("amplification", form="weights", **options).build().run(scaled)
    logits = AnalysisChoice.of("amplification", **options).build().run(study_of(planted_study, before, after))
    # One token from logits that are linear in the weights: both forms are the same.
    assert [a["hits"] for a in weights.data["arms"]] == [a["hits"] for a in logits.data["arms"]]
    assert "control" not in weights.data
    with pytest.raises(AnalysisError, match="no adapter whose weights"):
        AnalysisChoice.of("amplification", form="weights", **options).build().run(
            study_of(planted_study, before, after)
        )
