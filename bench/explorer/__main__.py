"""An explorer's folder of random latents, and what it takes.

python bench/explorer --latents 131072 --output FOLDER
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

from synthetic import write
from tqdm import tqdm

from crosscoders.explorer.data_folder import CHUNK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=131_072)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument("--per-range", type=int, default=5)
    parser.add_argument("--shares", type=int, default=20, help="examples with what each model brings")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    begin = time.monotonic()
    chunks = write(
        given.output, given.latents, given.tokens, top=given.top, per_range=given.per_range, shares=given.shares
    )
    for _ in tqdm(chunks, total=-(-given.latents // CHUNK), unit="chunk"):
        pass
    size = sum(path.stat().st_size for path in given.output.rglob("*") if path.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"latents": given.latents, "seconds": round(time.monotonic() - begin, 1),
                      "megabytes": round(size / 1e6, 1), "peak_mb": round(peak)}))  # fmt: skip


if __name__ == "__main__":
    main()
