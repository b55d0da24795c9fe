"""Draw the figures of the page on analyses, by running the analyses on crosscoders.

    python docs/make_analysis_figures.py pair=demo/crosscoder layers=runs/layers/crosscoder \\
        snapshots=runs/snapshots/crosscoder other=runs/other-seed/crosscoder

The first figure that each analysis makes, as SVG, into docs/images/analyses/.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from crosscoders import Crosscoder, Figure, Study, analyse
from crosscoders.demo.config import TINY_PATTERNS

HERE = Path(__file__).parent / "images" / "analyses"
SAMPLING = {"max_new_tokens": 16, "plausibility": 0.001}


def wanted(other: str) -> dict[str, list[dict[str, Any]]]:
    """The analyses on each crosscoder."""
    return {
        "pair": [
            {"name": "decoder_norms"},
            {"name": "latent_scaling"},
            {"name": "causal_kl", "num_tokens": 8192},
            {"name": "amplification", "patterns": TINY_PATTERNS, "sampling": SAMPLING, "num_prompts": 50},
            {"name": "latent_amplification", "patterns": TINY_PATTERNS, "sampling": SAMPLING, "num_prompts": 30},
            *([{"name": "universality", "others": [other]}] if other else []),
        ],
        "layers": [{"name": "layers"}, {"name": "functional_coherence"}, {"name": "representations", "stitch": False}],
        # Those of `examples/tiny-pair/train.py --base-steps 640 --snapshots ...`.
        "snapshots": [{"name": "snapshots", "steps": [0, 10, 20, 40, 80, 160, 320, 640]}],
    }


def main() -> None:
    folders = dict(argument.split("=", 1) for argument in sys.argv[1:])
    HERE.mkdir(exist_ok=True)
    for key, tables in wanted(folders.pop("other", "")).items():
        if key not in folders:
            continue
        crosscoder = Crosscoder.from_pretrained(folders[key])
        study = Study.of(crosscoder, num_tokens=32_768, trust_recipe=True)
        for table in tables:
            (report,) = analyse(crosscoder, [table], study=study)
            figure = next(part for part in report.parts if isinstance(part, Figure))
            (HERE / f"{table['name']}.svg").write_text(figure.svg, encoding="utf-8")
            print(f"{table['name']}: {report.summary}")


if __name__ == "__main__":
    main()
