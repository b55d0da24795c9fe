"""Harvested activations on disk: the same run as live, written by one or several, refused where they do not fit."""

import json

import attrs
import pytest
import torch
from safetensors.torch import load_file

from crosscoders import CacheError, ConfigError, RunConfig, train
from crosscoders.activations import verify_cache
from crosscoders.activations.cache import CachedActivations
from crosscoders.processes import Processes
from crosscoders.training import Runner, harvest, sweep, sweep_configs
from runs import assert_bit_equal, config_of, launch, weights


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "activations"
    harvest(config_of("unused"), folder, quiet=True)
    return folder


def copy_of(cache, tmp_path):
    import shutil

    return shutil.copytree(cache, tmp_path / "copy")


def test_a_run_from_the_cache_is_the_live_run(planted_run, cache, tmp_path, monkeypatch):
    config = attrs.evolve(config_of(tmp_path), cache=cache)
    monkeypatch.setattr("crosscoders.training.runner.live_activations", lambda *a: pytest.fail("models were built"))
    train(config, quiet=True)
    assert_bit_equal(weights(planted_run), weights(tmp_path))
    then, now = (json.loads((folder / "history.json").read_text()) for folder in (planted_run, tmp_path))
    assert then == now


def test_bf16_in_the_cache_is_bf16_in_the_buffer(tmp_path):
    config = config_of(tmp_path / "live", activations={"buffer_dtype": "bfloat16"}, training={"num_tokens": 2048})
    train(config, quiet=True)
    harvest(config, tmp_path / "cache", quiet=True)
    assert load_file(next((tmp_path / "cache").glob("train*.safetensors")))["x_RX"].dtype == torch.bfloat16
    train(attrs.evolve(config, cache=tmp_path / "cache", output=tmp_path / "cached"), quiet=True)
    assert_bit_equal(weights(tmp_path / "live"), weights(tmp_path / "cached"))


def test_a_stopped_harvest_goes_on(cache, tmp_path, monkeypatch):
    from crosscoders.activations.blocks import LiveBlocks

    harvested, done = LiveBlocks.harvest, []

    def stop(self, position):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(position)
        return harvested(self, position)

    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(LiveBlocks, "harvest", stop)
        with pytest.raises(KeyboardInterrupt):
            harvest(config_of("unused"), folder, quiet=True)
    with pytest.raises(CacheError, match="not finished"):
        CachedActivations(folder, config_of("unused").harvest)
    first = [path.stat().st_mtime_ns for path in sorted(folder.glob("*.safetensors"))]
    harvest(config_of("unused"), folder, quiet=True)
    assert set(first) <= {path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    whole, again = (json.loads((f / "manifest.json").read_text()) for f in (cache, folder))
    assert whole == again and not list(folder.glob("*.part.json")) and not list(folder.glob(".partial*"))


def test_what_one_of_two_processes_wrote_of_a_block_is_dropped(cache, tmp_path):
    """Two processes were stopped, one of them having written its rows; now there is one, which writes all rows."""
    folder = copy_of(cache, tmp_path)
    whole = json.loads((folder / "manifest.json").read_text())
    last = whole["shards"][-1]
    half = {**last, "file": last["file"].replace(f"{last['rows'][1]:06d}.", "000001."), "rows": [0, 1]}
    (folder / last["file"]).rename(folder / half["file"])
    (folder / half["file"].replace(".safetensors", ".part.json")).write_text(json.dumps(half))
    (folder / "manifest.json").write_text(json.dumps({**whole, "shards": whole["shards"][:-1]}))
    harvest(config_of("unused"), folder, quiet=True)
    assert json.loads((folder / "manifest.json").read_text()) == whole
    assert {path.name for path in folder.glob("*-*.*")} == {shard["file"] for shard in whole["shards"]}


def test_blocks_stay_as_they_were_begun(cache, tmp_path):
    """By three processes, with rows for each; then one goes on, in forward passes of another size."""
    folder = copy_of(cache, tmp_path)
    whole = json.loads((folder / "manifest.json").read_text())
    rows = {"train": whole["block_sequences"]["train"] + 1, "held_out": whole["block_sequences"]["held_out"]}
    for shard in whole["shards"]:
        (folder / shard["file"]).unlink()
    (folder / "manifest.json").write_text(json.dumps({**whole, "block_sequences": rows, "shards": []}))
    config = config_of("unused", activations={"rows_per_forward": 3})
    harvest(config, folder, quiet=True)
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    assert {(shard["split"], *shard["rows"]) for shard in shards} == {(split, 0, rows[split]) for split in rows}
    CachedActivations(folder, config.harvest).blocks(torch.zeros(2)).read(1, {})


def test_more_tokens_can_be_added(cache, tmp_path):
    folder = copy_of(cache, tmp_path)
    longer = config_of(tmp_path / "run", training={"num_tokens": 25_600})
    with pytest.raises(CacheError, match="fewer than this run needs"):
        train(attrs.evolve(longer, cache=folder), quiet=True)
    harvest(longer, folder, quiet=True)
    train(attrs.evolve(longer, cache=folder), quiet=True, resume=False)
    train(attrs.evolve(longer, output=tmp_path / "live"), quiet=True)
    assert_bit_equal(weights(tmp_path / "run"), weights(tmp_path / "live"))


def test_another_config_is_refused(cache):
    config = config_of("unused", activations={"block_tokens": 512})
    with pytest.raises(CacheError, match="activations.block_tokens was .* and is now 512"):
        CachedActivations(cache, config.harvest)
    with pytest.raises(CacheError, match="made from another config"):
        harvest(config, cache, quiet=True)
    # What has no influence on activations may differ.
    changed = config_of("unused", activations={"rows_per_forward": 3}, training={"lr": 1.0, "seed": 5})
    CachedActivations(cache, changed.harvest)


def test_damage_is_found(cache, tmp_path):
    folder = copy_of(cache, tmp_path)
    assert verify_cache(folder) == len(list(folder.glob("*-*.safetensors")))
    shard = sorted(folder.glob("train-*.safetensors"))[1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CacheError, match=shard.name):
        verify_cache(folder)
    with pytest.raises(CacheError, match="checksum"):
        train(attrs.evolve(config_of(tmp_path / "run"), cache=folder), quiet=True)
    shard.unlink()
    with pytest.raises(CacheError, match="cannot be read"):
        CachedActivations(folder, config_of("unused").harvest).blocks(torch.zeros(2)).read(1, {})
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CacheError, match="not an activation cache"):
        CachedActivations(folder, config_of("unused").harvest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda shard: shard.update(rows=[1, 64]), "all rows of block 0 once"),
        (lambda shard: shard.update(rows=[0, 1]), "all rows of block 0 once"),
        (lambda shard: shard.update(kept=1), "not what the manifest says of it"),
        (lambda shard: shard.update(after={}), "not what the manifest says of it"),
        (lambda shard: shard.update(file="../../../etc/passwd"), "malformed shard"),
        (lambda shard: shard.update(block="x"), "malformed shard"),
        (lambda shard: shard.pop("kept"), "malformed shard"),
    ],
)
def test_a_row_that_was_changed_is_found(cache, tmp_path, change, message):
    folder = copy_of(cache, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    change(next(shard for shard in manifest["shards"] if shard["split"] == "train"))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CacheError):
        verify_cache(folder)
    with pytest.raises(CacheError, match=message):
        CachedActivations(folder, config_of("unused").harvest).blocks(torch.zeros(2)).read(0, {})


def test_a_changed_calibration_is_found(cache, tmp_path):
    from safetensors.torch import save_file

    folder = copy_of(cache, tmp_path)
    tensors = load_file(folder / "calibration.safetensors")
    save_file({**tensors, "mean_norm_S": tensors["mean_norm_S"] * 7}, folder / "calibration.safetensors")
    for use in (verify_cache, lambda folder: CachedActivations(folder, config_of("unused").harvest).calibrate()):
        with pytest.raises(CacheError, match="calibration"):
            use(folder)


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_read_shares_of_what_one_wrote(cache, world):
    config = config_of("unused")
    whole = CachedActivations(cache, config.harvest).blocks(torch.zeros(2)).read(1, {})[0]
    parts = [
        CachedActivations(cache, config.harvest, processes=Processes(rank=rank, world=world))
        .blocks(torch.zeros(2))
        .read(1, {})[0]
        for rank in range(world)
    ]
    assert torch.equal(torch.cat([part.x_RX for part in parts]), whole.x_RX)
    for part in parts:
        assert torch.equal(part.keep_N, whole.keep_N)
        mine = part.local_of_slot >= 0
        assert torch.equal(whole.x_RX[whole.local_of_slot[mine]], part.x_RX[part.local_of_slot[mine]])


@pytest.mark.slow
def test_two_processes_write_what_one_reads(cache, tmp_path):
    script = (
        "from crosscoders import RunConfig; from crosscoders.training import harvest;"
        "from crosscoders.testing import synthetic_run; import sys;"
        "harvest(RunConfig.from_dict(synthetic_run('unused')), sys.argv[1], quiet=True)"
    )
    (tmp_path / "write.py").write_text(script)
    launch(tmp_path / "write.py", tmp_path / "two", processes=2)
    config = config_of("unused")
    one, two = (CachedActivations(f, config.harvest).blocks(torch.zeros(2)) for f in (cache, tmp_path / "two"))
    assert len(two.shards[0]) == 2 and one.shards.keys() == two.shards.keys()
    for number in one.shards:
        (a, after_a), (b, after_b) = one.read(number, {}), two.read(number, {})
        assert torch.equal(a.x_RX, b.x_RX) and torch.equal(a.keep_N, b.keep_N) and after_a == after_b


# -- prefetching and sweeps ---------------------------------------------------------------------------------------


def test_prefetching_changes_nothing(planted_run, tmp_path):
    runner = Runner(config_of(tmp_path, activations={"prefetch": "on"}))
    runner.run(quiet=True)
    assert_bit_equal(weights(planted_run), weights(tmp_path))


def test_a_sweep_trains_what_each_config_would_alone(tmp_path):
    config = config_of(tmp_path / "sweep", training={"num_tokens": 2048, "save_every": 16})
    values = {"loss.k": [1, 2], "training.seed": [0, 7]}
    found = sweep(config, values, quiet=True)
    assert {folder.name for folder in found} == {"k=1,seed=0", "k=1,seed=7", "k=2,seed=0", "k=2,seed=7"}
    for alone in sweep_configs(config, values)[1:3]:
        train(attrs.evolve(alone, output=tmp_path / "alone"), quiet=True, resume=False)
        assert_bit_equal(weights(tmp_path / "alone"), weights(alone.output))


def test_a_stopped_sweep_goes_on_where_all_were(tmp_path, monkeypatch):
    from crosscoders.training.run import TrainingRun

    config = config_of(tmp_path / "a", training={"num_tokens": 2048, "save_every": 3})
    values = {"architecture.num_latents": [16, 24]}
    whole = sweep(config, values, quiet=True)
    config = attrs.evolve(config, output=tmp_path / "b")
    saved = TrainingRun.save

    def stop(self, *arguments):
        if self.trainer.step_number == 6 and self.config.architecture.options.num_latents == 24:
            raise KeyboardInterrupt
        saved(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            sweep(config, values, quiet=True)
    again = sweep(config, values, quiet=True)
    for first, second in zip(whole, again):
        assert_bit_equal(weights(first), weights(second))


def test_what_a_sweep_cannot_vary_is_refused():
    config = config_of("unused")
    with pytest.raises(ConfigError, match="'training.batch_size' cannot be swept"):
        sweep_configs(config, {"training.batch_size": [1, 2]})
    with pytest.raises(ConfigError, match="unknown option nothing"):
        sweep_configs(config, {"nothing.k": [1]})
    with pytest.raises(ConfigError, match="loss"):
        sweep_configs(config, {"loss.width": [1]})
    with pytest.raises(ConfigError, match="was given no values"):
        sweep_configs(config, {"loss.k": []})
    assert isinstance(sweep_configs(config, {})[0], RunConfig)


def test_evaluating_while_a_thread_harvests(planted_run, tmp_path):
    train(config_of(tmp_path, activations={"prefetch": "on"}, training={"evaluate_every": 3}), quiet=True)
    assert_bit_equal(weights(planted_run), weights(tmp_path))


def test_no_block_too_many_is_harvested(tmp_path, monkeypatch):
    from crosscoders.activations.blocks import LiveBlocks

    read, numbers = LiveBlocks.read, {}
    monkeypatch.setattr(LiveBlocks, "read", lambda self, number, at: (seen.append(number), read(self, number, at))[1])
    for prefetch in ("off", "on"):
        seen = []
        train(config_of(tmp_path / prefetch, activations={"prefetch": prefetch}), quiet=True)
        numbers[prefetch] = seen
    assert numbers["on"] == numbers["off"] == list(range(len(numbers["off"])))


@pytest.mark.parametrize("stop", [2, 40])
def test_a_run_may_go_from_cache_to_live_and_back(planted_run, cache, tmp_path, stop, monkeypatch):
    """Checkpoints say where in the tokens a run is, whichever way they came."""
    from crosscoders.training.run import TrainingRun

    step, config = TrainingRun.step, config_of(tmp_path, training={"save_every": 1})

    def stopped(self, parts):
        if self.trainer.step_number == limit:
            raise KeyboardInterrupt
        return step(self, parts)

    for limit, found in ((stop, cache), (stop + 9, None), (-1, cache)):
        with monkeypatch.context() as patch:
            patch.setattr(TrainingRun, "step", stopped)
            try:
                train(attrs.evolve(config, cache=found), quiet=True)
            except KeyboardInterrupt:
                assert limit > 0
    assert_bit_equal(weights(planted_run), weights(tmp_path))


def test_models_that_have_changed_are_not_mixed_in(cache, tmp_path, monkeypatch):
    from crosscoders.activations.source import LiveActivations

    made = LiveActivations.__init__

    def changed(self, *arguments, **options):
        made(self, *arguments, **options)
        self.models = {**self.models, "base": {**self.models["base"], "revision": "another"}}

    monkeypatch.setattr(LiveActivations, "__init__", changed)
    with pytest.raises(CacheError, match="other models: base.revision"):
        harvest(config_of("unused"), copy_of(cache, tmp_path), quiet=True)


def test_stopped_before_the_parts_were_removed(cache, tmp_path):
    """The manifest is whole and its parts are still there: nothing is listed twice when harvesting goes on."""
    folder = copy_of(cache, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    for shard in manifest["shards"]:
        (folder / shard["file"].replace(".safetensors", ".part.json")).write_text(json.dumps(shard))
    harvest(config_of("unused"), folder, quiet=True)
    assert json.loads((folder / "manifest.json").read_text()) == manifest
