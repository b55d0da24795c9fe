"""The activation stream: every row once, well mixed, bounded, resumable, and the same for any number of processes."""

import pytest
import torch

from crosscoders import ConfigError, ModelChoice, Text, TokenIds, TrainingError
from crosscoders.activations import ActivationConfig, ActivationStream, Harvester, LiveBlocks, MaskConfig, calibrate
from crosscoders.activations.harvest import resolve_sites
from crosscoders.errors import SiteError
from crosscoders.models.sequences import SequenceReader, is_held_out
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
    reader = SequenceReader(Numbers(), adapter, context_length=8)
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


def test_packing_wastes_nothing_and_padding_keeps_documents_apart():
    packed = SequenceReader(Numbers(), Counting(), context_length=8).read(3)
    assert packed.ids.tolist() == [list(range(1, 9)), list(range(9, 17)), list(range(17, 25))]
    padded = SequenceReader(Numbers(length=3), Counting(), context_length=4, pack=False).read(2)
    assert padded.ids.tolist() == [[1, 2, 3, 0], [4, 5, 6, 0]] and padded.attention.sum() == 6
    cut = SequenceReader(Numbers(length=9), Counting(), context_length=4, pack=False).read(2)
    assert cut.ids.tolist() == [[1, 2, 3, 4], [10, 11, 12, 13]]


def test_finite_sources_repeat_or_end():
    reader = SequenceReader(Numbers(documents=2, length=5), Counting(), context_length=4)
    assert reader.read(5).ids.flatten().tolist() == [*range(1, 11), *range(1, 11)]
    ending = SequenceReader(Numbers(documents=2, length=5), Counting(), context_length=4, repeat=False)
    assert ending.read(9).ids.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 0, 0]]
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
    with pytest.raises(ConfigError, match="no document in its held_out split"):
        reader.read(1)


def test_unknown_sites_are_named():
    adapter = ModelChoice.of("synthetic").build()
    with pytest.raises(SiteError, match="MODEL/POINT, where MODEL is one of a"):
        resolve_sites({"a": adapter}, ["b/x"])
    with pytest.raises(SiteError, match="no point 'y'"):
        resolve_sites({"a": adapter}, ["a/y"])
