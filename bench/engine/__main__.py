"""Our training step and pipeline next to one encoder product and next to other packages, side by side in one run.

    python bench/engine                      everything; peers that are not installed are skipped
    python bench/engine --install            first install the peers, each into an environment of its own
    python bench/engine --parts steps,memory only these

Writes `bench/results/engine.json` and `engine.md`. On a GPU the Gemma-sized shape is added.
"""

import argparse
import json
import os
import subprocess
import sys
import venv
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
SHAPES = [(2, 256, 4096, 2048, 32), (2, 512, 8192, 2048, 32), (4, 768, 16384, 1024, 32)]
GPU_SHAPES = [(2, 2304, 73728, 4096, 100)]
PEERS = {
    "dictionary-learning": ("run_dictionary_learning.py", "dictionary-learning==0.1.0"),
    "crosscoder_learning": (
        "run_crosscoder_learning.py",
        "git+https://github.com/science-of-finetuning/crosscoder_learning",
    ),
    "sae-lens": ("run_sae_lens.py", "sae-lens==6.54.12"),
    "eai-sparsify": ("run_eai_sparsify.py", "eai-sparsify==1.3.3"),
}
ALLOCATORS = {
    "kept": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "THP_MEM_ALLOC_ENABLE": "1"},
    "default": {},
}
"""`kept`: the C library keeps freed memory, in huge pages where it can, so that nobody pays for page faults."""


def main():
    options = parse()
    every = SHAPES + (GPU_SHAPES if torch.cuda.is_available() else [])
    shapes = [every[int(number)] for number in options.shapes.split(",")] if options.shapes else every
    if options.install:
        for name in PEERS:
            install(options.environments, name)
    record = {"date": str(date.today()), "allocator": options.allocator, "machine": own("machine", options)}
    record["versions"] = {name: peer_version(options.environments, name) for name in PEERS}
    record["versions"]["crosscoders"] = version("crosscoders")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{options.record}.json"
    if path.exists():
        record = {**json.loads(path.read_text()), **record}
    for part in options.parts.split(","):
        record |= {part: PARTS[part](shapes, options)}
        # After each part: a bench that is stopped has not measured in vain.
        path.write_text(json.dumps(record, indent=1) + "\n")
        path.with_suffix(".md").write_text(report(record))
    print(report(record))


def steps_at(shapes, options):
    return [steps(shape, options) for shape in shapes]


def losses(shapes, options):
    return {name: own("step", options, *SHAPES[0], name) for name in ("l1", "jumprelu", "topk")}


def wirings(shapes, options):
    chosen = ["weakly causal", "cross-layer transcoder", "per-layer SAEs"]
    return {name: own("step", options, *SHAPES[2], "batchtopk", name) for name in chosen}


def memory(shapes, options):
    return [
        {"shape": shape, "preselect": preselect, **own("memory", options, *shape, preselect)}
        for shape in shapes
        for preselect in ("fp32", "bf16")
    ]


def pipeline(shapes, options):
    return {n: script(sys.executable, HERE / "pipeline.py", [n], options) for n in ("4096", "8192")}


PARTS = {"steps": steps_at, "losses": losses, "wirings": wirings, "memory": memory, "pipeline": pipeline}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--shapes", default="", help="only these, by their numbers from 0, such as 1,3")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--passes", type=int, default=3, help="processes for each step, in turns")
    parser.add_argument("--allocator", choices=list(ALLOCATORS), default="kept")
    parser.add_argument("--environments", type=Path, default=HERE.parent / ".peers", help="folder of the peers' ones")
    parser.add_argument("--install", action="store_true", help="install the peers first")
    parser.add_argument("--record", default="engine", help="name of the files in bench/results")
    return parser.parse_args()


def steps(shape, options):
    """Ours and all peers at one shape, one after the other, there and back: machines get slower and faster.

    Every process times the encoder product beside its step; of several, the medians.
    """
    measures = {
        name: partial(own, "step", options, *shape, name) for name in ("batchtopk", "batchtopk, bf16 pre-selection")
    }
    if torch.cuda.is_available():
        measures["batchtopk, bf16 autocast"] = partial(own, "step", options, *shape, "batchtopk", "acausal", "autocast")
    arguments = [*shape, options.rounds]
    dense = HERE / "peers" / "run_dense_einsum.py"
    measures["dense einsum (no package)"] = partial(script, sys.executable, dense, arguments, options)
    for peer, (file, _) in PEERS.items():
        python = options.environments / peer / "bin" / "python"
        if python.exists():
            measures[peer] = partial(script, python, HERE / "peers" / file, arguments, options)
        else:
            print(f"{peer} is skipped: not installed in {options.environments} (--install)", file=sys.stderr)
    found = {name: [] for name in measures}
    for number in range(options.passes):
        for name in list(measures)[:: -1 if number % 2 else 1]:
            found[name] += filter(None, [measures[name]()])
    return {"shape": shape, "seconds": {name: medians(results) for name, results in found.items() if results}}


def medians(results):
    """The median of each number over several results."""
    return {key: median(result[key] for result in results) for key in results[0]}


def own(what, options, *arguments):
    """Measure ours in a process of its own."""
    return script(sys.executable, HERE / "own.py", [what, options.rounds, *arguments], options)


def script(python, file, arguments, options):
    """What a script prints behind RESULT; None, with a message, where it fails."""
    environment = {**os.environ, **ALLOCATORS[options.allocator], "PYTHONPATH": str(HERE)}
    command = [str(python), str(file), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        print(f"{file.name} {arguments} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    return json.loads(lines[-1].removeprefix("RESULT "))


def install(folder, name):
    """A peer in an environment of its own, with our version of torch."""
    environment = folder / name
    if (environment / "bin" / "python").exists():
        return
    venv.create(environment, with_pip=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip"]
    torch_version = f"torch=={version('torch').partition('+')[0]}"
    constraints = environment / "constraints.txt"
    constraints.write_text(torch_version + "\n")
    for command in (["install", torch_version], ["install", "-c", str(constraints), PEERS[name][1]]):
        done = subprocess.run([*pip, "-q", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name} could not be installed and is skipped: {done.stderr[-300:]}", file=sys.stderr)
            (environment / "bin" / "python").unlink()
            return
    # Builds for other versions of torch come along and break imports.
    subprocess.run([*pip, "uninstall", "-q", "-y", "torchvision", "torchaudio"], capture_output=True, check=False)


def peer_version(folder, name):
    """The version in a peer's environment, or that it is not there."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        return "not installed"
    code = f"from importlib.metadata import version; print(version({name.replace('_', '-')!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def report(record):
    """The record as a page."""
    machine = ", ".join(f"{key} {value}" for key, value in (record["machine"] or {}).items())
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    lines = [
        "# The engine, measured",
        "",
        f"Made by `python bench/engine`, last on {record['date']}. {machine}; freed memory: {record['allocator']}; "
        f"{versions}.",
    ]
    if "steps" in record:
        lines += [
            "",
            "## One training step",
            "",
            "Median milliseconds over several processes, all packages in turns; in brackets over one fp32 "
            "encoder product of the same shape, timed in turns in the same process. Shapes are sites × width, "
            "latents, tokens, k.",
            "",
        ]
        names = list(dict.fromkeys(name for entry in record["steps"] for name in entry["seconds"]))
        heads = ["", *(shape_text(entry["shape"]) for entry in record["steps"])]
        rows = [[name, *(cell(entry["seconds"].get(name)) for entry in record["steps"])] for name in names]
        lines += table(heads, rows)
        floors = [entry["seconds"]["batchtopk"] for entry in record["steps"]]
        lines += [
            "",
            "The floor, product + gathers + gradients + Adam and nothing else, in milliseconds; and our fp32 "
            "step over it:",
            "",
        ]
        floor_row = [f"{1000 * f['floor']:.0f} [{f['floor'] / f['product']:.2f}]" for f in floors]
        lines += table(
            heads, [["floor", *floor_row], ["step / floor", *(f"{f['step'] / f['floor']:.2f}" for f in floors)]]
        )
        less = [f"{(f['step'] - f['adam']) / f['product in bf16']:.2f}" for f in floors]
        lines += ["", "Over one product in bf16, with and without the optimizer's share of the step:", ""]
        lines += table(
            heads, [["step", *(f"{f['step'] / f['product in bf16']:.2f}" for f in floors)], ["step less Adam", *less]]
        )
        lines += ["", "How many times as long as ours others take:", ""]
        ours = ("batchtopk", "batchtopk, bf16 pre-selection")
        peers = [name for name in names if not name.startswith("batchtopk")]
        lines += table(
            ["", *(f"{shape_text(entry['shape'])}: fp32, bf16" for entry in record["steps"])],
            [
                [name, *(", ".join(times(entry["seconds"], name, mine) for mine in ours) for entry in record["steps"])]
                for name in peers
            ],
        )
    for key, title in (("losses", "Other losses"), ("wirings", "Other wirings")):
        if record.get(key):
            shape = SHAPES[0] if key == "losses" else SHAPES[2]
            lines += ["", f"## {title}", "", f"At {shape_text(shape)}, as above.", ""]
            lines += table(["", "step"], [[name, cell(value)] for name, value in record[key].items()])
    if record.get("memory"):
        lines += [
            "",
            "## Peak memory of a step",
            "",
            "Allocated bytes at the worst moment, and the formula (`crosscoders.training.memory`).",
            "",
        ]
        lines += table(
            ["shape", "pre-selection", "measured MB", "formula MB", "ratio"],
            [
                [
                    shape_text(m["shape"]),
                    m["preselect"],
                    f"{m['measured'] / 1e6:.1f}",
                    f"{m['formula'] / 1e6:.1f}",
                    f"{m['measured'] / m['formula']:.3f}",
                ]
                for m in record["memory"]
                if "measured" in m
            ],
        )
    if record.get("pipeline"):
        lines += [
            "",
            "## Pipeline",
            "",
            "Tokens per second on the shipped pair, models and crosscoder on a device "
            "each (on a CPU, one core each); a crosscoder of 4,096 and one of 8,192 latents.",
            "",
        ]
        first = next(iter(record["pipeline"].values()))
        lines += table(
            ["", *(f"{n} latents" for n in record["pipeline"])],
            [
                [name, *(f"{p[name]:.2f}" if "/" in name else f"{p[name]:,.0f}" for p in record["pipeline"].values())]
                for name in first
            ],
        )
    return "\n".join(lines) + "\n"


def table(head, rows):
    """Rows of a Markdown table."""
    return ["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows)]


def shape_text(shape):
    """A shape in words."""
    sites, width, latents, batch, k = shape
    return f"{sites} × {width}, {latents}, {batch}, {k}"


def cell(found):
    """Milliseconds and the ratio to the product."""
    return f"{1000 * found['step']:.0f} [{found['step'] / found['product']:.2f}]" if found else "–"


def times(seconds, name, mine):
    """How many times as long, or a dash."""
    return f"{seconds[name]['step'] / seconds[mine]['step']:.1f}" if name in seconds and mine in seconds else "–"


if __name__ == "__main__":
    main()
