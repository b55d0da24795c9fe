"""Kill runs and harvests by SIGKILL at random moments.

The next one that ends has the bits of one that was never killed, and leaves nothing behind. By itself
`python tests/faults/kills.py --kills 200`; three in four are of runs, the others of harvests.

Every attempt is a fork of this process, which has everything imported and has done nothing yet.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import torch

from crosscoders import RunConfig, harvest, train
from crosscoders.testing import synthetic_run

RUN = {"crosscoder", "checkpoints", "history.json", "finished.json"}


def training(folder: Path) -> None:
    """A run that saves after every step."""
    data = synthetic_run(str(folder), training={"save_every": 1, "num_tokens": 8192, "evaluation_tokens": 512})
    train(RunConfig.from_dict(data), quiet=True)


def harvesting(folder: Path) -> None:
    """A harvest of small blocks."""
    data = synthetic_run("unused", training={"num_tokens": 8192, "evaluation_tokens": 512})
    data["activations"].update(block_tokens=512)
    harvest(RunConfig.from_dict(data), folder, quiet=True)


def fork(work, folder: Path) -> int:
    """A process that does `work` in `folder`."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with Path(os.devnull).open("w") as nothing:
                os.dup2(nothing.fileno(), 2)
                torch.set_num_threads(1)
                work(folder)
                code = 0
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    """The exit code of a process, once it has one."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def contents(folder: Path) -> dict[str, str]:
    """What is in a folder, to the bit; where it is and when it was made aside."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = "folder"
        elif path.suffix == ".safetensors":
            found[name] = sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "file"
    return found


def kill_until(work, folder: Path, kills: int, draw: random.Random, seconds: float, found: Counter) -> list[str]:
    """Kill `work` at random moments until it has had `kills`; what was wrong after those that came to their end."""
    reference, wrong, number, killed = folder / f"{work.__name__}-reference", [], 0, 0
    while killed < kills:
        place = folder / f"{work.__name__}-{number}"
        pid = fork(work, place)
        deadline = time.monotonic() + draw.random() * seconds
        code = None
        while code is None and time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if done else None
            time.sleep(0.001)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            code = ended(pid)
        if code == -signal.SIGKILL:
            killed += 1
            found["killed"] += 1
            found["left behind by a kill until the next"] += len(list(place.rglob(".partial-*")))
            # Now and then let the next one come to its end, so that runs end after one kill as well as after many.
            if killed < kills and draw.random() < 0.7:
                continue
            code = ended(fork(work, place))
        found["ended"] += 1
        if code:
            wrong.append(f"{place} ended with {code}")
        elif contents(place) != contents(reference):
            difference = contents(place).items() ^ contents(reference).items()
            wrong.append(f"{place} differs: {sorted(name for name, _ in difference)[:5]}")
        number += 1
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, found, wrong = random.Random(options.seed), Counter(), []
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        for work, kills in ((training, options.kills - options.kills // 4), (harvesting, options.kills // 4)):
            began = time.monotonic()
            assert ended(fork(work, Path(name) / f"{work.__name__}-reference")) == 0, "it ends where nobody kills it"
            seconds = time.monotonic() - began
            wrong += kill_until(work, Path(name), kills, draw, seconds, found)
    print(", ".join(f"{count} {what}" for what, count in found.items()) + f", {len(wrong)} wrong")
    for line in wrong:
        print(line)
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
