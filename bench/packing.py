"""What keeping documents apart costs, how right it is, and how fast documents of any length are read.

    python bench/packing.py [--markdown bench/results/packing.md]

Modes take turns, several times over, so that a machine that grows busier slows them all; medians are shown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from crosscoders import ActivationConfig, ModelChoice, Text, TokenBatch, TokenSourceChoice
from crosscoders.activations import Harvester
from crosscoders.activations.harvest import resolve_sites
from crosscoders.activations.masks import keep_mask
from crosscoders.models.sequences import SequenceReader
from crosscoders_adapters.transformers import TransformersAdapter

MODES: dict[str, bool | str] = {"apart": True, "across": "across", "single": False}


def shipped() -> dict[str, TransformersAdapter]:
    return {key: ModelChoice.of("transformers", model=f"tiny-pair/{key}").build() for key in ("base", "chat")}


def wide(attention: str) -> dict[str, TransformersAdapter]:
    """A random Llama wide enough for its products to matter, which reads rows of 1,024 tokens."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=4,
        num_attention_heads=8,
        max_position_embeddings=1024,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    tokenizer = ModelChoice.of("transformers", model="tiny-pair/chat").build().tokenizer
    return {"wide": TransformersAdapter.wrap(model, tokenizer, name="wide")}


def speeds(adapters: dict[str, TransformersAdapter], layer: int, context: int, rows: int, rounds: int) -> list[dict]:
    """Kept tokens per second of reading, running and masking, by mode."""
    source = TokenSourceChoice.of("python_library").build()
    layout = resolve_sites(adapters, [f"{key}/layers.{layer}" for key in adapters])
    harvester = Harvester(adapters, layout, rows_per_forward=max(1, 4096 // context), device=torch.device("cpu"))
    reading = list(adapters.values())[-1]
    masks = ActivationConfig().masks
    readers = {mode: SequenceReader(source, reading, context_length=context, pack=pack) for mode, pack in MODES.items()}
    found: dict[str, list[float]] = {mode: [] for mode in MODES}
    fill: dict[str, list[float]] = {mode: [] for mode in MODES}
    for turn in range(rounds + 1):
        for mode, reader in readers.items():
            begun = time.perf_counter()
            tokens = reader.read(rows)
            x_BTX = harvester(tokens)
            kept = int(keep_mask(masks, tokens, harvester.norms(x_BTX), None).sum())
            seconds = time.perf_counter() - begun
            if turn:  # the first round warms up
                found[mode].append(kept / seconds)
                fill[mode].append(float(tokens.attention.float().mean()))
    before = statistics.median(found["across"])
    return [
        {
            "mode": mode,
            "tokens_per_second": statistics.median(found[mode]),
            "share_of_before": statistics.median(found[mode]) / before,
            "places_filled": statistics.mean(fill[mode]),
        }
        for mode in MODES
    ]


def differences(rows: int) -> list[dict]:
    """Relative difference of a token's activations to those that its document has alone, shipped pair, layer 2."""
    adapters, source = shipped(), TokenSourceChoice.of("python_library").build()
    table = []
    for key, adapter in adapters.items():
        tokens = SequenceReader(source, adapters["chat"], context_length=128).read(rows)
        alone = torch.zeros(*tokens.ids.shape, adapter.width("layers.2"))
        after = torch.zeros_like(tokens.attention)  # tokens after a boundary inside their row
        for row in range(rows):
            numbers = tokens.document[row].tolist()
            for number in set(numbers) - {-1}:
                here = tokens.document[row] == number
                one = tokens.sequences(row, row + 1).mapped(lambda tensor, here=here: tensor[:, here])
                alone[row, here] = adapter.activations(one, ["layers.2"])["layers.2"][0]
                after[row, here] = numbers[0] != number
        plain = TokenBatch(tokens.ids, tokens.attention, tokens.bos, tokens.special)
        for mode, read in (("apart", tokens), ("across", plain)):
            found = adapter.activations(read, ["layers.2"])["layers.2"]
            relative = ((found - alone).norm(dim=-1) / alone.norm(dim=-1))[after & tokens.attention & ~tokens.bos]
            table.append(
                {
                    "model": key,
                    "mode": mode,
                    "median": float(relative.median()),
                    "largest": float(relative.max()),
                    "tokens": len(relative),
                    "share_after_a_boundary": float(after.sum() / tokens.attention.sum()),
                }
            )
    return table


class Documents:
    """The same text of the library, `total` characters, in documents of one length."""

    def __init__(self, characters: int, total: int) -> None:
        text = TokenSourceChoice.of("python_library", chat_share=0.0).build()
        pieces, size = [], 0
        for document in text.documents():
            pieces.append(document.text)
            size += len(document.text)
            if size >= total:
                break
        whole = "\n\n".join(pieces)[:total]
        self.found = [Text(whole[start : start + characters]) for start in range(0, total, characters)]

    def documents(self, *, skip: int = 0):
        return iter(self.found[skip:])


def reading_speeds(total: int) -> list[dict]:
    """Tokens per second of reading alone, and the size of a saved position, by length of documents."""
    adapter = shipped()["chat"]
    table = []
    for characters in (2_000, 100_000, 1_000_000, 4_000_000):
        source = Documents(characters, total)
        reader = SequenceReader(source, adapter, context_length=128, repeat=False)
        begun, count, position = time.perf_counter(), 0, 0
        while int((tokens := reader.read(512)).attention.sum()):
            count += int(tokens.attention.sum())
            position = max(position, len(json.dumps(reader.state())))  # as a block of a run does
        table.append(
            {
                "characters": characters,
                "tokens_per_second": count / (time.perf_counter() - begun),
                "largest_position_bytes": position,
            }
        )
    return table


def markdown(results: dict[str, list[dict]]) -> str:
    parts = [
        "# Packing, as measured",
        "",
        "`python bench/packing.py --markdown bench/results/packing.md`: one thread of a shared machine, medians.",
        "*across* is what packing was before documents were kept apart: `share_of_before` is the price of right ones.",
        "Reading is bounded by the tokenizers library, which takes twice as long for 4 MB in one piece as in 2,000.",
    ]
    for title, rows in results.items():
        parts += ["", f"### {title}", "", f"| {' | '.join(rows[0])} |", f"|{'---|' * len(rows[0])}"]
        for row in rows:
            cells = [
                f"{v:,.4g}" if isinstance(v, float) and v < 1000 else f"{v:,.0f}" if not isinstance(v, str) else v
                for v in row.values()
            ]
            parts.append(f"| {' | '.join(cells)} |")
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measures: dict[str, Callable[[], list[dict]]] = {
        "Harvest of the shipped pair, layer 2 of 4, rows of 128": lambda: speeds(shipped(), 2, 128, 64, options.rounds),
        "Harvest of a random Llama (width 512, 4 layers, sdpa), rows of 1,024": lambda: speeds(
            wide("sdpa"), 3, 1024, 4, options.rounds
        ),
        "The same with eager attention": lambda: speeds(wide("eager"), 3, 1024, 4, options.rounds),
        "Difference to the document alone, tokens after a boundary": lambda: differences(48),
        "Reading documents of any length": lambda: reading_speeds(4_000_000),
    }
    results = {}
    for title, measure in measures.items():
        results[title] = measure()
        print(title, *results[title], sep="\n  ", flush=True)
    if options.markdown:
        options.markdown.write_text(markdown(results), encoding="utf-8")


if __name__ == "__main__":
    main()
