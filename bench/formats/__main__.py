"""Files that we write for other libraries, loaded by those libraries' own loaders, against our numbers.

    python bench/formats                      peers that are not installed are skipped
    python bench/formats --install            first install them, each into an environment or a checkout of its own

Results go to `bench/results/formats.json` and `formats.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from importlib.util import find_spec
from pathlib import Path

import torch
from cases import CASES
from safetensors.torch import load_file, save_file

from crosscoders import Crosscoder
from crosscoders.checkpoints.foreign import export

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
PEERS = {"saelens": "sae-lens==6.54.12", "circuit_tracer": "circuit-tracer==0.5.0"}
"""Peers that a registry has."""
CHECKOUTS = {
    "ckkissane": "ckkissane/crosscoder-model-diff-replication@e221e8d",
    "crosscoder_learning": "science-of-finetuning/crosscoder_learning@b2363ed",
}
"""Peers that only a repository has; of their requirements the loaders need torch, einops and the Hub's client."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, default=HERE.parent / ".peers", help="folder of the peers' ones")
    parser.add_argument("--install", action="store_true", help="install the peers first")
    arguments = parser.parse_args()
    rows = []
    for peer, requirement in PEERS.items():
        environment = arguments.environments / requirement.partition("==")[0]
        if arguments.install and not environment.exists():
            install(environment, requirement)
        python = environment / "bin" / "python"
        if not python.exists():
            print(f"{peer}: not installed (--install does it), skipped")
            continue
        rows += measured(peer, requirement, [python], [case for case in CASES if case[1].startswith(peer)])
    for peer, repository in CHECKOUTS.items():
        checkout = arguments.environments / peer
        if arguments.install and not checkout.exists():
            clone(checkout, repository)
        if not checkout.exists() or not find_spec("einops"):
            print(f"{peer}: no checkout in {checkout}, or no einops here (--install does it), skipped")
            continue
        python = ["env", f"PYTHONPATH={checkout.resolve()}:{os.environ.get('PYTHONPATH', '')}", sys.executable]
        rows += measured(peer, repository, python, [case for case in CASES if case[1] == peer])
    if rows:
        write(rows)


def install(environment: Path, requirement: str) -> None:
    """Torch first, in our version, so that nothing pulls another build."""
    venv.create(environment, with_pip=True)
    for what in (
        [f"torch=={torch.__version__.partition('+')[0]}"],
        ["-c", str(HERE.parents[1] / "constraints.txt"), requirement],
    ):
        subprocess.run([environment / "bin" / "pip", "install", "-q", *what], check=True)


def clone(checkout: Path, repository: str) -> None:
    """The repository at the commit that is named."""
    name, _, commit = repository.partition("@")
    subprocess.run(["git", "clone", "-q", f"https://github.com/{name}", checkout], check=True)
    subprocess.run(["git", "-C", checkout, "checkout", "-q", commit], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "einops"], check=True)


def measured(peer: str, requirement: str, python: list, cases: list) -> list[dict]:
    """What the peer makes of our files, all in one process, since importing a peer takes longest."""
    with tempfile.TemporaryDirectory() as scratch:
        prepared = [(Path(scratch) / str(number), *case) for number, case in enumerate(cases)]
        made = [prepare(folder, format_name, make()) for folder, _, format_name, make in prepared]
        arguments = [f"{format_name}:{folder}" for folder, _, format_name, _ in prepared]
        found = subprocess.run(
            [*python, HERE / f"load_{peer}.py", *arguments], capture_output=True, text=True, check=False
        )
        if found.returncode:
            print(found.stderr[-2000:], file=sys.stderr)
        return [
            compared(requirement, name, folder, *one) for (folder, name, *_), one in zip(prepared, made, strict=True)
        ]


def prepare(folder: Path, format_name: str, crosscoder: Crosscoder) -> tuple[Crosscoder, dict, list[str]]:
    """Our files and an input."""
    folder.mkdir()
    changes = export(crosscoder, folder / "files", format_name)
    reads = crosscoder.wiring.read
    x = {site.name: torch.randn(64, site.width) for site in reads.sites}
    save_file({str(n): x[key] for n, key in enumerate(reads.names)}, folder / "x.safetensors")
    return crosscoder, x, changes


def compared(requirement: str, name: str, folder: Path, crosscoder: Crosscoder, x: dict, changes: list[str]) -> dict:
    """The peer's numbers beside ours."""
    if not (folder / "out.safetensors").exists():
        return {"peer": requirement, "case": name, "result": "its loader failed"}
    theirs = load_file(folder / "out.safetensors")
    with torch.no_grad():
        latents = crosscoder.encode(x)
        given = {**{site.name: torch.zeros(64, site.width) for site in crosscoder.sites}, **x}
        x_hat = crosscoder.decode(latents, given)
    f_BF = latents.dense()
    norm_F = crosscoder.score_norms() if "topk by score" in name else 1.0
    row = {
        "peer": requirement,
        "case": name,
        "f": relative(theirs["f"], f_BF * norm_F),
        "x_hat": relative(theirs["x_hat"], x_hat),
        "same_gate": bool(torch.equal(theirs["f"] > 0, f_BF > 0)),
        "l0": latents.l0,
        "notes": changes,
    }
    print(f"{requirement:24s} {name:34s} f {row['f']:.1e}  x̂ {row['x_hat']:.1e}  same gate {row['same_gate']}")
    return row


def relative(theirs: torch.Tensor, ours: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((theirs - ours).abs().max() / ours.abs().max())


def write(rows: list[dict]) -> None:
    """As JSON and as a table, with the rows of before for peers that were not here this time."""
    RESULTS.mkdir(exist_ok=True)
    before = RESULTS / "formats.json"
    seen = {row["peer"] for row in rows}
    if before.exists():
        rows = [row for row in json.loads(before.read_text())["rows"] if row["peer"] not in seen] + rows
    (RESULTS / "formats.json").write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")
    lines = [
        "# Our exports in other libraries",
        "",
        "Written by `python bench/formats`: files that we wrote, loaded by each library's own loader. Differences are",
        "the largest, relative to the largest value. What only a repository has is at the commit named; of Kissane et",
        "al.'s code the class is loaded as its `load` does, since that one has its folder in the code.",
        "",
        "| library | crosscoder | f | x̂ | same latents fire |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if "result" in row:
            lines.append(f"| {row['peer']} | {row['case']} | {row['result']} | | |")
        else:
            fires = "yes" if row["same_gate"] else "no"
            lines.append(f"| {row['peer']} | {row['case']} | {row['f']:.0e} | {row['x_hat']:.0e} | {fires} |")
    (RESULTS / "formats.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
