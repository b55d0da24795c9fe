"""What is damaged: each target makes a good thing once, and a mutant of it by a seed."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from crosscoders import (
    Crosscoder,
    JumpReluGate,
    LossChoice,
    RunConfig,
    ScoreThresholdGate,
    Site,
    TokenSourceChoice,
    TopKGate,
    TrainingConfig,
    build_crosscoder,
)
from crosscoders.activations import CachedActivations, verify_cache
from crosscoders.activations.manifest import made_from_checksum
from crosscoders.checkpoints.tensors import tensors_checksum
from crosscoders.reading import checksum
from crosscoders.testing import synthetic_run
from crosscoders.training import Trainer, harvest
from crosscoders.training.resume import load_state, save_state
from faults.judge import judge
from faults.mutate import Mutator


class Target:
    """Files in a folder; a mutant is a copy with one of them changed."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.good = scratch / "good"
        self.good.mkdir(parents=True)
        (scratch / "canary").write_text("not to be read")
        self.make()
        self.expected = self.use(self.copied())

    def make(self) -> None:
        raise NotImplementedError

    def use(self, folder: Path) -> Any:
        raise NotImplementedError

    def same(self, found: Any) -> bool:
        return _equal(found, self.expected)

    def copied(self) -> Path:
        folder = self.scratch / "mutant"
        shutil.rmtree(folder, ignore_errors=True)
        return shutil.copytree(self.good, folder)

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.good)) for path in self.good.rglob("*") if path.is_file())

    def run(self, seed: int) -> str:
        mutator, folder = Mutator(seed), self.copied()
        path = folder / mutator.random.choice(self.files())
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if mutator.random.random() < 0.03:
            path.unlink()
            if mutator.random.random() < 0.5:
                path.mkdir()
        else:
            change = {".json": mutator.json, ".safetensors": mutator.safetensors, ".toml": mutator.toml}
            path.write_bytes(change.get(path.suffix, mutator.raw)(path.read_bytes()))
        if mutator.random.random() < 0.3:
            # Somebody who can write a file can write its checksum too: what is then read may be other numbers, and
            # still nothing may be read but as what it is.
            forge(path)
            return judge(lambda: self.use(folder), lambda found: True, size)
        return judge(lambda: self.use(folder), self.same, size)


class Checkpoints(Target):
    """Saved crosscoders of several architectures and gates, whole and in parts."""

    def make(self) -> None:
        sites = (Site("m/a", 6), Site("m/b", 5))
        made = {
            "acausal": (ScoreThresholdGate(0.3), {}),
            "per_layer_saes": (JumpReluGate(12), {}),
            "transcoder": (TopKGate(3), {"skip": True}),
        }
        for name, (gate, options) in made.items():
            crosscoder = build_crosscoder(name, sites, num_latents=12, **options)
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for parameter in crosscoder.parameters():
                    parameter.normal_(generator=generator)
            crosscoder.gate = gate
            folder = crosscoder.save_pretrained(self.good / name)
            for extra in (folder / "README.md", folder / "figures"):
                shutil.rmtree(extra) if extra.is_dir() else extra.unlink()
        in_parts(shutil.copytree(self.good / "acausal", self.good / "in_parts"))

    def use(self, folder: Path) -> Any:
        # Only what was changed needs to be read again.
        found = []
        for name in sorted(path.name for path in self.good.iterdir()):
            if not hasattr(self, "expected") or _differs(self.good / name, folder / name):
                crosscoder = Crosscoder.from_pretrained(folder / name)
                x_BX = torch.randn(16, crosscoder.layout.width, generator=torch.Generator().manual_seed(1))
                found.append({"f": crosscoder.encode(x_BX).dense(), "x_hat": crosscoder(x_BX)})
            else:
                found.append(self.expected[len(found)])
        return found


class Configs(Target):
    """A run's TOML file: whatever it says is understood or refused."""

    def make(self) -> None:
        (self.good / "run.toml").write_text(_toml(synthetic_run("out")))

    def use(self, folder: Path) -> Any:
        return RunConfig.from_toml(folder / "run.toml")

    def same(self, found: Any) -> bool:
        return isinstance(found, RunConfig)


class Caches(Target):
    """A finished cache of activations."""

    def make(self) -> None:
        data = synthetic_run(
            "unused", activations={"calibration_tokens": 64, "block_tokens": 256, "rows_per_forward": 4}
        )
        data["training"] |= {"num_tokens": 512, "batch_size": 64, "evaluation_tokens": 64}
        self.config = RunConfig.from_dict(data)
        harvest(self.config, self.good, quiet=True)
        # The sample is most of a small cache.
        assert verify_cache(self.good)

    def use(self, folder: Path) -> Any:
        cache = CachedActivations(folder, self.config.harvest)
        calibration = cache.calibrate()
        blocks, found = cache.blocks(calibration.median_norm_S), []
        position = blocks.start()
        for index in range(2):
            block, position = blocks.read(index, position)
            found += [block.x_RX, block.keep_N]
        found += list(cache.held_out(calibration.median_norm_S, 64))
        return [*found, calibration.mean_X, calibration.mean_norm_S, calibration.sample_BX]


class States(Target):
    """A run's state: what is refused has changed nothing."""

    def make(self) -> None:
        self.trainer = self._trainer()
        self.trainer.step([torch.randn(32, 11, generator=torch.Generator().manual_seed(0))])
        position = {"stream": {"block": 1}, "history": [{"step": 1, "loss": 0.5}]}
        extra = {"median_norm_S": torch.ones(2)}
        step = save_state(self.good, self.trainer, config={"k": 2}, position=position, extra=extra)
        self.name = step.name
        self.fresh = self._trainer()
        self.before = {key: value.clone() for key, value in self.fresh.module.state_dict().items()}

    def _trainer(self) -> Trainer:
        torch.manual_seed(0)
        crosscoder = build_crosscoder("acausal", (Site("m/a", 6), Site("m/b", 5)), num_latents=12)
        with torch.no_grad():
            for parameter in crosscoder.parameters():
                parameter.normal_()
        config = TrainingConfig(num_tokens=320, batch_size=32)
        return Trainer(crosscoder, LossChoice.of("batchtopk", k=2).build(), config)

    def use(self, folder: Path) -> Any:
        self.fresh.module.load_state_dict(self.before)
        self.fresh.step_number = 0
        try:
            position, extra, _ = load_state(folder / self.name, self.fresh, config={"k": 2})
        except Exception:
            if not _equal(dict(self.fresh.module.state_dict()), self.before) or self.fresh.step_number:
                raise AssertionError("refused, but half of it was loaded") from None
            raise
        assert isinstance(position["stream"], dict)
        assert isinstance(position["history"], list)
        moments = [self.fresh.optimizer.state[parameter] for parameter in self.fresh.parameters]
        state = {key: value.clone() for key, value in self.fresh.module.state_dict().items()}
        return [state, moments, position, extra, self.fresh.step_number, self.fresh.tokens_since_fired_F.clone()]


class Texts(Target):
    """Text and chat files: documents or an error."""

    def make(self) -> None:
        rows = [
            {"messages": [{"role": "user", "content": f"Ünïcode {i}?"}, {"role": "assistant", "content": "Yes. " * i}]}
            for i in range(6)
        ]
        (self.good / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        (self.good / "text.txt").write_text("A paragraph — of text.\n\n" * 40, encoding="utf-8")

    def use(self, folder: Path) -> Any:
        found = []
        for name, pattern in (("chat_files", "*.jsonl"), ("text_files", "*.txt")):
            source = TokenSourceChoice.of(name, paths=[str(folder)], pattern=pattern).build()
            found += list(source.documents())
        return found

    def same(self, found: Any) -> bool:
        return True


KINDS: dict[str, type[Target]] = {
    "checkpoints": Checkpoints,
    "configs": Configs,
    "caches": Caches,
    "states": States,
    "texts": Texts,
}


def forge(path: Path) -> None:
    """Make the checksum of a damaged file right, or take it away."""
    try:
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            (length,) = struct.unpack("<Q", data[:8])
            header = json.loads(data[8 : 8 + length])
            header["__metadata__"].pop("sha256")
            text = json.dumps(header).encode()
            path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        elif path.suffix == ".json":
            content = json.loads(data)
            if path.name == "manifest.json":
                content["checksum"] = made_from_checksum(content)
            else:
                content.pop("checksum")
                if path.name == "state.json":
                    content["checksum"] = checksum(content)
            path.write_text(json.dumps(content))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        return  # damaged too much for that


def in_parts(folder: Path) -> None:
    """Make two files of a checkpoint's one, as two processes that share latents would have written them."""
    tensors = load_file(folder / "model.safetensors")
    kinds = {"W_enc.0": "group", "W_dec.0": "group", "b_enc_F": "latents"}
    for part in range(2):
        mine = {key: value.chunk(2)[part].contiguous() if key in kinds else value for key, value in tensors.items()}
        name = f"model-{part + 1:05d}-of-00002.safetensors"
        save_file(mine, folder / name, metadata={"format": "pt", "sha256": tensors_checksum(mine)})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"shards": 2, "sharding": kinds}))
    (folder / "model.safetensors").unlink()


def _differs(first: Path, second: Path) -> bool:
    names = {path.name for folder in (first, second) for path in folder.iterdir()}
    return any(
        not (second / name).is_file() or (first / name).read_bytes() != (second / name).read_bytes() for name in names
    )


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    return bool(first == second)


def _toml(data: dict[str, Any], prefix: str = "") -> str:
    lines, tables = [], []
    for key, value in data.items():
        if isinstance(value, dict):
            tables.append(f"[{prefix}{key}]\n" + _toml(value, f"{prefix}{key}."))
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines + tables) + "\n"
