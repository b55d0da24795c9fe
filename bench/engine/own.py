"""One measurement of ours, in a process of its own: `machine`, `step` or `memory`."""

import json
import os
import sys

import torch


def main():
    what, rounds, *rest = sys.argv[1:]
    if os.environ.get("BENCH_THREADS"):
        torch.set_num_threads(int(os.environ["BENCH_THREADS"]))
    if what == "machine":
        from timing import machine

        return machine()
    shape = [int(value) for value in rest[:5]]
    if what == "memory":
        from memory import measure

        return measure(*shape, preselect=rest[5])
    from steps import measure as step

    loss, wiring, autocast = [*rest[5:], "acausal", ""][:3] if len(rest) < 8 else rest[5:8]
    return step(*shape, int(rounds), loss=loss, wiring=wiring, autocast=autocast == "autocast")


print("RESULT " + json.dumps(main()))
