"""The long fuzz, `make fuzz`: many mutants of each kind, in processes of their own so that a crash is only counted.

python tests/faults [--count N] [--seed S] [--kinds a,b]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

CHUNK = 1500
HERE = Path(__file__).parent


def one_chunk(kind: str, seeds: range) -> None:
    """Run in this process, one line of JSON for each mutant."""
    from faults.hub import HubAnswers
    from faults.targets import KINDS

    with tempfile.TemporaryDirectory(prefix="crosscoders-faults-") as scratch:
        target = {**KINDS, "hub": HubAnswers}[kind](Path(scratch) / "scratch")
        for seed in seeds:
            print(json.dumps([seed, target.run(seed)]), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="checkpoints,configs,caches,states,texts,hub")
    parser.add_argument("--chunk", default="")
    options = parser.parse_args()
    if options.chunk:
        kind, first, last = options.chunk.split(":")
        one_chunk(kind, range(int(first), int(last)))
        return 0
    faults = 0
    for kind in options.kinds.split(","):
        outcomes: Counter[str] = Counter()
        for first in range(options.seed, options.seed + options.count, CHUNK):
            last = min(first + CHUNK, options.seed + options.count)
            command = [sys.executable, str(HERE), "--chunk", f"{kind}:{first}:{last}"]
            path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
            environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
            found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            lines = [json.loads(line) for line in found.stdout.splitlines() if line.startswith("[")]
            if found.returncode:
                tail = found.stderr.strip().splitlines()[-1:]
                lines.append([first + len(lines), f"CRASH with exit code {found.returncode} {tail}"])
            for seed, outcome in lines:
                outcomes[outcome.split(" ")[0]] += 1
                if outcome not in ("refused", "same"):
                    faults += 1
                    print(f"{kind} seed {seed}: {outcome}", flush=True)
        print(f"{kind}: {sum(outcomes.values())} mutants, {dict(outcomes)}", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
