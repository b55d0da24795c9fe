"""Evaluation tokens: a sample of the held-out split, not its first rows."""

import itertools

import torch

from crosscoders import Chat, Message, Text, TokenIds, is_held_out
from crosscoders.activations import LiveActivations
from crosscoders.models.documents import number_of
from crosscoders.models.sample import SLACK, STRETCH, sample
from crosscoders.models.sequences import SequenceReader
from crosscoders.plugins.registry import get_registry
from crosscoders_adapters.synthetic import SyntheticAdapter, SyntheticConfig
from runs import config_of

SHARE = 0.2


class Numbered:
    """Documents of four tokens that say which they are; every seventh is the one before once more."""

    def __init__(self, count=10**6):
        self.count, self.read = count, 0

    def documents(self, *, skip=0):
        for i in range(skip, self.count):
            self.read = max(self.read, i)
            number = i - (i % 7 == 6)
            yield TokenIds((number, number, number, number))


def drawn(source, num_tokens, *, pack=True, context_length=16, share=SHARE):
    reader = SequenceReader(source, SyntheticAdapter(SyntheticConfig()), context_length=context_length, pack=pack,
                            split="held_out" if share else "train", held_out_share=share)  # fmt: skip
    return [document.ids[0] for document in sample(reader, num_tokens).documents()]


def test_documents_are_drawn_from_several_times_as_much_text():
    source = Numbered()
    found = drawn(source, 400)
    assert all(is_held_out(TokenIds((i,) * 4), SHARE) for i in found) and len(found) == len(set(found))
    assert found == sorted(found) and len(found) == 400 * SLACK / 4
    first_rows = [i for i in range(10_000) if i % 7 != 6 and is_held_out(TokenIds((i,) * 4), SHARE)][: len(found)]
    assert (STRETCH - 1) * first_rows[-1] < source.read < (STRETCH + 1) * first_rows[-1]
    quarters = [sum(1 for i in found if source.read * q / 4 <= i < source.read * (q + 1) / 4) for q in range(4)]
    assert min(quarters) >= len(found) / 8, quarters


def test_a_source_that_ends_is_drawn_from_as_a_whole():
    everything = drawn(Numbered(300), 10**6)
    assert everything == [i for i in range(300) if i % 7 != 6 and is_held_out(TokenIds((i,) * 4), SHARE)]
    few = drawn(Numbered(300), 40, pack=False, context_length=5)
    assert len(few) == 40 * SLACK / 5 and set(few) < set(everything)
    assert max(drawn(Numbered(300), 100, share=0.0)) > 100


def test_an_endless_source_of_a_few_documents_gives_those():
    class Round:
        def documents(self, *, skip=0):
            for i in itertools.count(skip):
                yield TokenIds((i % 40,) * 4)

    assert drawn(Round(), 10**6) == [i for i in range(40) if is_held_out(TokenIds((i,) * 4), SHARE)]


def test_a_run_evaluates_on_the_sample(tmp_path):
    config = config_of(tmp_path)
    live = LiveActivations(config.harvest, get_registry(), torch.device("cpu"))
    median_norm_S = live.calibrate().median_norm_S
    batches = list(live.held_out(median_norm_S, 2048))
    again = list(live.held_out(median_norm_S, 2048))
    assert len(batches) == len(again) and all(bool((a == b).all()) for a, b in zip(batches, again, strict=True))
    first = live._reader("held_out").read(4).ids
    rows = next(iter(live.held_out_rows(median_norm_S, 4 * first.shape[1]))).tokens.ids
    assert rows.shape == first.shape and not bool((rows == first).all())


def test_documents_keep_their_split():
    """The numbers by which they are parted, as they always were: another would mix what is held out into training."""
    assert number_of(TokenIds((1, 2, 3))) == 5791447146748467899
    assert number_of(Text("a text")) == 4306940360686581117
    turns = (Message("user", "Who?"), Message("assistant", "A parrot.", extra={"name": "p", "x": (1,)}))
    assert number_of(Chat(turns)) == 8357751171998000964
