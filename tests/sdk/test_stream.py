"""The activation stream: every row once, well mixed, bounded, resumable, and the same for any number of processes."""

import pytest
import torch

from crosscoders import ConfigError, ModelChoice, Text, TokenIds, TrainingError
from crosscoders.activations import ActivationConfig, ActivationStream, Harvester, LiveBlocks, MaskConfig, calibrate
from crosscoders.activations.harvest import resolve_sites
from crosscoders.errors import SiteError
from crosscoders.models.documents import is_held_out
from crosscoders.models.sequences import SequenceReader
from crosscoders.processes import ALONE, Processes

CPU = torch.device("cpu")


class Counting:
    """Activations that say which token they are of: its id, three times."""

    def __init__(self, spikes=()):
        self.spikes, self.seen = set(spikes), 0

    def width(self, point):
        return 3

    def tokenize(self, document):
        from crosscoders import Tokenized

        ids = list(document.ids)
        return Tokenized(ids, [i % 50 == 0 for i in ids], [i % 10 == 0 for i in ids])

    def activations(self, tokens, points):
        self.seen += len(tokens.ids)
        x = tokens.ids.float()[..., None].expand(*tokens.ids.shape, 3).clone()
        for spike in self.spikes:
            x[tokens.ids == spike] *= 1e4
        return {"x": x}


class Numbers:
    def __init__(self, documents=10**6, length=10):
        self.count, self.length = documents, length

    def documents(self, *, skip=0):
        for number in range(skip, self.count):
            yield TokenIds(tuple(range(number * self.length + 1, (number + 1) * self.length + 1)))


def stream_of(*, processes=ALONE, adapter=None, batch_size=16, source=None, median=None, options=None, **config):
    adapter = adapter or Counting()
    config = ActivationConfig(
        **{
            "context_length": 8,
            "block_tokens": 64,
            "pack": "across",  # every place of a row has a token, which makes the sums below easy
            "masks": MaskConfig(drop_bos=False, max_norm_multiple=0.0),
            **config,
        }
    )
    reader = SequenceReader(source or Numbers(), adapter, context_length=config.context_length, pack=config.pack)
    layout = resolve_sites({"m": adapter}, ["m/x"])
    harvester = Harvester({"m": adapter}, layout, rows_per_forward=4, device=CPU)
    blocks = LiveBlocks(reader, harvester, config, median_norm_S=median, processes=processes)
    return ActivationStream(blocks, batch_size=batch_size, seed=0, **(options or {}))


def take(stream, count):
    batches = iter(stream)
    return [next(batches)[:, 0].long().tolist() for _ in range(count)]


def test_every_row_comes_exactly_once():
    rows = [row for batch in take(stream_of(), 40) for row in batch]
    assert len(rows) == 640 and len(set(rows)) == 640
    # All blocks but the last two have been used up.
    assert set(range(1, 640 - 2 * 64)) <= set(rows)


def test_every_refill_reads_new_rows():
    """Some public buffers re-shuffle their first fill for ever."""
    batches = take(stream_of(), 60)
    assert min(batches[-1]) > max(batches[0])


def test_rows_are_mixed_within_and_across_blocks():
    for batch in take(stream_of(), 20)[4:]:
        blocks = {(row - 1) // 64 for row in batch}
        assert batch != sorted(batch) and len(blocks) >= 2


def test_memory_is_bounded():
    stream = stream_of()
    batches = iter(stream)
    for _ in range(100):
        next(batches)
        assert len(stream._held) <= 2 and len(stream._positions) <= 3


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7, 16, 33])
def test_resuming_goes_on_exactly(steps):
    whole = take(stream_of(), steps + 10)
    first = stream_of()
    take(first, steps)
    second = stream_of()
    second.restore(first.state())
    assert take(second, 10) == whole[steps:]


def test_state_is_small_json():
    import json

    stream = stream_of()
    take(stream, 50)
    assert len(json.dumps(stream.state())) < 1000


def test_processes_share_the_batches_of_one(monkeypatch):
    """Each rank yields its rows of the very batches that one process would yield."""
    single = take(stream_of(batch_size=16), 30)
    shares = []
    for rank in range(2):
        # Nothing is masked here, so the other rank's mask is all true as well.
        monkeypatch.setattr(Processes, "gather_for_harvest", lambda self, t: torch.cat([t, torch.ones_like(t)]))
        stream = stream_of(processes=Processes(rank=rank, world=2))
        shares.append(take(stream, 30))
    for whole, first, second in zip(single, *shares):
        assert sorted(first + second) == sorted(whole)
        assert set(first).isdisjoint(second)


def test_masks_drop_bos_special_and_outliers():
    rows = {row for batch in take(stream_of(masks=MaskConfig(max_norm_multiple=0.0)), 20) for row in batch}
    assert all(row % 50 for row in rows) and any(row % 10 == 0 for row in rows)
    rows = {row for b in take(stream_of(masks=MaskConfig(drop_special=True, max_norm_multiple=0.0)), 20) for row in b}
    assert all(row % 10 for row in rows)
    spiky = stream_of(
        adapter=Counting(spikes=[33]), masks=MaskConfig(max_norm_multiple=100.0), median=torch.tensor([300.0])
    )
    assert 330_000 not in {row for batch in take(spiky, 10) for row in batch}


def test_outliers_are_dropped_at_both_sites_or_neither():
    calm, spiky = Counting(), Counting(spikes=[7])
    layout = resolve_sites({"a": calm, "b": spiky}, ["a/x", "b/x"])
    harvester = Harvester({"a": calm, "b": spiky}, layout, rows_per_forward=4, device=CPU)
    config = ActivationConfig(context_length=8, block_tokens=64)
    reader = SequenceReader(Numbers(), calm, context_length=8)
    blocks = LiveBlocks(reader, harvester, config, median_norm_S=torch.tensor([60.0, 60.0]))
    stream = ActivationStream(blocks, batch_size=16, seed=0)
    for batch in (next(iter(stream)) for _ in range(5)):
        assert torch.equal(batch[:, :3], batch[:, 3:]) and 7 not in batch[:, 0]


def test_masks_that_leave_nothing_are_an_error():
    with pytest.raises(TrainingError, match="three consecutive blocks have no kept token"):
        take(stream_of(masks=MaskConfig(max_norm_multiple=1e-9), median=torch.tensor([1.0])), 1)


def test_calibration_uses_up_no_data():
    adapter = Counting()
    config = ActivationConfig(
        context_length=8, calibration_tokens=400, masks=MaskConfig(drop_bos=False, max_norm_multiple=0.0)
    )
    reader = SequenceReader(Numbers(), adapter, context_length=8, pack="across")
    harvester = Harvester({"m": adapter}, resolve_sites({"m": adapter}, ["m/x"]), rows_per_forward=4, device=CPU)
    before = reader.state()
    found = calibrate(reader, harvester, config, processes=ALONE)
    assert reader.state() == before and found.num_tokens == 400
    assert found.mean_X.tolist() == pytest.approx([200.5] * 3)
    assert found.mean_norm_S.item() == pytest.approx(200.5 * 3**0.5, rel=1e-5)


def test_infinite_activations_name_the_site():
    class Broken(Counting):
        def activations(self, tokens, points):
            x = super().activations(tokens, points)["x"]
            x[tokens.ids == 21, 1] = float("inf")
            return {"x": x}

    with pytest.raises(TrainingError, match=r"site m/x are not finite, first at token 4 .*token id 21"):
        take(stream_of(adapter=Broken()), 10)


def test_rows_hold_whole_documents_or_run_on_or_hold_one():
    across = SequenceReader(Numbers(), Counting(), context_length=8, pack="across").read(3)
    assert across.ids.tolist() == [list(range(1, 9)), list(range(9, 17)), list(range(17, 25))]
    assert across.document is None and not across.is_packed
    single = SequenceReader(Numbers(length=3), Counting(), context_length=4, pack=False).read(2)
    assert single.ids.tolist() == [[1, 2, 3, 0], [4, 5, 6, 0]] and single.attention.sum() == 6
    assert single.document.tolist() == [[0, 0, 0, -1], [1, 1, 1, -1]] and not single.is_packed
    cut = SequenceReader(Numbers(length=9), Counting(), context_length=4, pack=False).read(4)
    assert cut.ids.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 0, 0, 0], [10, 11, 12, 13]]
    apart = SequenceReader(Numbers(length=3), Counting(), context_length=7).read(2)
    assert apart.ids.tolist() == [[1, 2, 3, 4, 5, 6, 0], [7, 8, 9, 10, 11, 12, 0]] and apart.is_packed
    assert apart.document.tolist() == [[0, 0, 0, 1, 1, 1, -1], [2, 2, 2, 3, 3, 3, -1]]


class Uneven:
    """Documents of 2 to 40 tokens, each beginning with 0; a token says which document and place it is."""

    def __init__(self, count=400, lengths=(3, 17, 40, 2, 9, 25, 6, 12)):
        self.count, self.lengths = count, lengths

    def documents(self, *, skip=0):
        for number in range(skip, self.count):
            length = self.lengths[number % len(self.lengths)]
            yield TokenIds((0, *(number * 100 + place for place in range(1, length))))


class WithBos(Counting):
    def tokenize(self, document):
        from crosscoders import Tokenized

        ids = list(document.ids)
        return Tokenized(ids, [i == 0 for i in ids], [i == 0 for i in ids])


def documents_of(tokens):
    """Document numbers and ids of all segments."""
    found = []
    for row in range(len(tokens.ids)):
        numbers = tokens.document[row].tolist()
        for number in dict.fromkeys(n for n in numbers if n >= 0):
            places = [place for place, n in enumerate(numbers) if n == number]
            assert places == list(range(places[0], places[-1] + 1))
            found.append((number, tokens.ids[row, places[0] : places[-1] + 1].tolist()))
    return found


@pytest.mark.parametrize("pack", [True, False])
def test_documents_that_fit_stay_whole_and_long_ones_are_cut_into_pieces_that_begin_alike(pack):
    source = Uneven()
    reader = SequenceReader(source, WithBos(), context_length=16, pack=pack, repeat=False)
    found = documents_of(reader.read(10**4))
    whole = {number: list(document.ids) for number, document in enumerate(source.documents())}
    pieces = {}
    for number, ids in sorted(found, key=lambda entry: (entry[0], entry[1][1:])):
        assert ids[0] == 0 and len(ids) <= 16
        pieces.setdefault(number, []).append(ids)
    for number, ids in whole.items():
        assert ids == [0] + [i for piece in pieces[number] for i in piece[1:]]
        assert len(pieces[number]) == (1 if len(ids) <= 16 else -(-(len(ids) - 1) // 15))


def test_few_places_of_packed_rows_stay_empty():
    tokens = SequenceReader(Uneven(), WithBos(), context_length=64).read(60)
    assert tokens.attention.float().mean() > 0.97


@pytest.mark.parametrize("pack", [True, False, "across"])
@pytest.mark.parametrize("rows", [1, 2, 5, 23, 171])
def test_readers_go_on_exactly_where_they_were_also_within_documents(pack, rows):
    def reader():
        return SequenceReader(Uneven(90), WithBos(), context_length=16, pack=pack)

    first = reader()
    first.read(rows)
    state = first.state()
    expected = first.read(120)
    second = reader()
    second.restore(state)
    assert second.state() == state
    found = second.read(120)
    assert torch.equal(found.ids, expected.ids) and torch.equal(found.attention, expected.attention)
    assert second.state() == first.state()


def test_a_position_is_small_and_a_long_document_is_read_in_linear_time():
    import json
    import time

    source = Numbers(2, length=400_000)
    reader = SequenceReader(source, Counting(), context_length=128)
    reader.read(1)
    seconds, state = [], reader.state()
    for _ in range(2):
        begun = time.process_time()
        reader.read(1000)
        seconds.append(time.process_time() - begun)
        assert len(json.dumps(reader.state())) < 200
    assert seconds[1] < 10 * seconds[0] and seconds[0] < 5
    again = SequenceReader(source, Counting(), context_length=128)
    again.restore(state)
    assert again.read(1).ids[0, 0] == 129


@pytest.mark.parametrize("change", [{"open": 3}, {"waiting": [[1]]}, {"passes": None}, {"next_document": -1}])
def test_a_damaged_position_is_said_to_be(change):
    reader = SequenceReader(Uneven(), WithBos(), context_length=16)
    with pytest.raises(ConfigError, match="the saved position in the token source is damaged"):
        reader.restore({**reader.state(), **change})


def test_a_source_that_has_become_shorter_is_said_to_be():
    reader = SequenceReader(Uneven(50), WithBos(), context_length=16)
    reader.read(40)
    with pytest.raises(ConfigError, match=r"had 50 documents when its position was saved and has fewer now"):
        SequenceReader(Uneven(5), WithBos(), context_length=16).restore(reader.state())


def test_finite_sources_repeat_or_end():
    reader = SequenceReader(Numbers(documents=2, length=5), Counting(), context_length=4, pack="across")
    assert reader.read(5).ids.flatten().tolist() == [*range(1, 11), *range(1, 11)]
    ending = SequenceReader(Numbers(documents=2, length=5), Counting(), context_length=4, repeat=False)
    assert ending.read(9).ids.tolist() == [[1, 2, 3, 4], [6, 7, 8, 9], [5, 10, 0, 0]]
    assert len(ending.read(1).ids) == 0


def test_held_out_documents_never_train():
    splits = {}
    for split in ("train", "held_out"):
        reader = SequenceReader(
            Numbers(500), Counting(), context_length=10, split=split, held_out_share=0.2, repeat=False
        )
        splits[split] = set(reader.read(10**3).ids[:, 0].tolist())
    assert splits["train"].isdisjoint(splits["held_out"]) and len(splits["train"] | splits["held_out"]) == 500
    assert 60 < len(splits["held_out"]) < 140
    assert not is_held_out(Text("x"), 0.0)


def test_an_empty_split_says_what_to_do():
    reader = SequenceReader(Numbers(1), Counting(), context_length=4, split="held_out", held_out_share=1e-9)
    with pytest.raises(ConfigError, match="no document in its held_out split that gives tokens, among its 1 documents"):
        reader.read(1)


def test_a_split_that_never_comes_is_given_up_also_in_an_endless_source():
    class Endless:
        def documents(self, *, skip=0):
            while True:
                yield TokenIds((1, 2, 3))

    options = {"context_length": 4, "split": "held_out", "held_out_share": 0.05}
    assert not is_held_out(TokenIds((1, 2, 3)), 0.05)
    for repeat in (True, False):
        reader = SequenceReader(Endless(), Counting(), repeat=repeat, **options)
        with pytest.raises(ConfigError, match="in its held_out split .* first 10,000 documents; .*held_out_share"):
            reader.read(1)


def test_documents_without_tokens_do_not_make_an_endless_search():
    class Nothing(Counting):
        def tokenize(self, document):
            from crosscoders import Tokenized

            return Tokenized([], [], [])

    with pytest.raises(ConfigError, match="no document in its train split that gives tokens, among its first 10,000"):
        SequenceReader(Numbers(), Nothing(), context_length=4).read(1)
    with pytest.raises(ConfigError, match="among its 3 documents"):
        SequenceReader(Numbers(3), Nothing(), context_length=4).read(1)


def test_unknown_sites_are_named():
    adapter = ModelChoice.of("synthetic").build()
    with pytest.raises(SiteError, match="MODEL/POINT, where MODEL is one of a"):
        resolve_sites({"a": adapter}, ["b/x"])
    with pytest.raises(SiteError, match="no point 'y'"):
        resolve_sites({"a": adapter}, ["a/y"])
