"""Random latents in an explorer's folder, by the same writer as real ones, to measure the folder and its page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from crosscoders.explorer.data_folder import CHUNK, FORMAT, Column, DataFolder, class_column
from crosscoders.explorer.records import ExampleRecord, Extremes, Histogram, Interval, LatentRecord
from crosscoders.explorer.views import diff_view, layers_view

HOSTILE = ("</script><script>alert(1)</script>", "<!--", "\u2028", '"\'`', "\u202eright to left", "\x00\x1b[31m",
           "\ud800", "<img src=x onerror=alert(1)>", "&amp;", "\n", " ", "")  # fmt: skip
SITES = ("base/layers.6", "base/layers.12", "chat/layers.6", "chat/layers.12")
VERDICTS = ("shared", "specific to chat/layers.12", "specific to base/layers.12", "mostly in chat/layers.12",
            "rotated", "undecided")  # fmt: skip
LENGTH, WINDOW = 256, 25


def vocabulary(size: int = 4000) -> dict[int, str]:
    """Words of a few letters by id, and a few tokens that would break a careless page."""
    draw = np.random.default_rng(0)
    words = ["".join(chr(97 + letter) for letter in draw.integers(0, 26, draw.integers(1, 8))) for _ in range(size)]
    return {number: f" {word}" for number, word in enumerate(words)} | dict(enumerate(HOSTILE))


class Synthetic:
    """Makes records of latents, each by its number alone."""

    def __init__(self, num_latents: int, num_tokens: int, *, top: int, per_range: int, shares: int) -> None:
        self.num_latents, self.top, self.per_range, self.shares = num_latents, top, per_range, shares
        self.texts = vocabulary()
        draw = np.random.default_rng(1)
        self.rows = draw.zipf(1.3, (num_tokens // LENGTH, LENGTH)) % len(self.texts)
        self.share_F = draw.beta(4, 4, num_latents)
        self.firings_F = np.minimum(num_tokens, draw.lognormal(5, 1.5, num_latents)).astype(np.int64)
        self.firings_F[draw.random(num_latents) < 0.03] = 0
        self.max_F = draw.lognormal(1, 0.5, num_latents) * (self.firings_F > 0)
        self.norms_FS = draw.lognormal(0, 0.3, (num_latents, len(SITES)))
        self.norms_FS[:, 2:] *= (self.share_F / (1 - self.share_F))[:, None]
        kind = draw.choice(len(VERDICTS), num_latents, p=(0.8, 0.03, 0.01, 0.04, 0.02, 0.1))
        self.verdict = [VERDICTS[k] if f else "undecided" for k, f in zip(kind, self.firings_F, strict=True)]

    def records(self, chunk: int) -> list[LatentRecord]:
        """The latents of one chunk."""
        return [self.record(j) for j in range(CHUNK * chunk, min(self.num_latents, CHUNK * (chunk + 1)))]

    def record(self, j: int) -> LatentRecord:
        """One latent."""
        draw = np.random.default_rng((2, j))
        largest, firings = float(self.max_F[j]), int(self.firings_F[j])
        counts = np.bincount(np.minimum(39, draw.exponential(8, min(firings, 10_000))).astype(int), minlength=40)
        ranges = [(largest * part / 10, largest * (part + 1) / 10, 0.7 * 0.5**part) for part in range(10)]
        near = draw.integers(0, self.num_latents, 16).tolist()
        return LatentRecord(
            latent=j,
            firings=firings,
            histogram=Histogram(low=0.0, high=largest, counts=counts.tolist()),
            top=[
                self.example(draw, largest * 0.97**rank, shares=rank < self.shares)
                for rank in range(min(firings, self.top))
            ],
            ranges=[
                Interval(
                    low=low,
                    high=high,
                    share=share,
                    examples=[self.example(draw, high) for _ in range(min(firings, self.per_range))],
                )
                for low, high, share in ranges
                if firings
            ],
            logits=[
                Extremes(
                    site=site,
                    promoted=[(int(i), float(3 - 0.2 * n)) for n, i in enumerate(draw.integers(0, 4000, 10))],
                    suppressed=[(int(i), float(0.2 * n - 3)) for n, i in enumerate(draw.integers(0, 4000, 10))],
                )
                for site in SITES
            ],
            norms=self.norms_FS[j].tolist(),
            nearest=[(k, 0.9 - 0.05 * n) for n, k in enumerate(near[:8])],
            together=[(k, 0.6 - 0.05 * n) for n, k in enumerate(near[8:])],
            facts=[
                ("explanation", f"a made-up explanation of the number {j}"),
                ("verdict", f"{self.verdict[j]}: active on {firings} tokens, of them 12 % of the template."),
                ("ν of the error at base/layers.12", f"{draw.random():.2f} (0.08 to 0.31)"),
                ("KL recovered", float(draw.random() / 10)),
                ("Not known", None),
            ],
        )

    def example(self, draw: np.random.Generator, peak: float, *, shares: bool = False) -> ExampleRecord:
        """A random place of the corpus."""
        sequence, start = int(draw.integers(len(self.rows))), int(draw.integers(0, LENGTH - WINDOW))
        values = (peak * draw.random(WINDOW) * (draw.random(WINDOW) < 0.2)).astype(np.float32)
        values[16] = peak
        ids = self.rows[sequence, start : start + WINDOW].tolist()
        return ExampleRecord(
            sequence=sequence,
            start=start,
            stop=start + WINDOW,
            peak=16,
            tokens=[self.texts[token] for token in ids],
            values=values,
            shares={
                model: (values * part + draw.normal(0, 0.2, WINDOW)).astype(np.float32)
                for model, part in (("base", 0.3), ("chat", 0.7))
                if shares
            },
        )

    def columns(self) -> list[Column]:
        """What the table has."""
        sites = [SITES[s] for s in self.norms_FS.argmax(axis=1)]
        chat_F = self.norms_FS[:, 2:].sum(axis=1) / self.norms_FS.sum(axis=1)
        tokens = len(self.rows) * LENGTH
        noise_F = np.random.default_rng(3).normal(0.5, 0.3, self.num_latents)
        noise_F[self.firings_F == 0] = np.nan
        return [
            Column(key="density", title="Density", help="The share of tokens on which the latent is active.",
                   kind="share", scale="log", values=self.firings_F / tokens),
            Column(key="firings", title="Firings", help="The number of tokens on which the latent is active.",
                   kind="count", scale="log", values=self.firings_F),
            Column(key="max", title="Max", help="The largest activation.", values=self.max_F),
            Column(key="mean_active", title="Mean", help="The mean activation where active.", values=self.max_F / 5),
            Column(key="norm_share_base", title="Share of base", kind="share", values=1 - chat_F,
                   help="The share of base in the norms of the decoder rows."),
            Column(key="norm_share_chat", title="Share of chat", kind="share", values=chat_F,
                   help="The share of chat in the norms of the decoder rows."),
            class_column("top_site", "Top site", "The written site with the largest decoder norm.", sites),
            class_column("verdict", "Verdict", "Where the concept of the latent is.", self.verdict),
            Column(key="nu_error_base", title="ν of the error", values=noise_F,
                   help="Near 0 the concept is missing at base, near 1 it is as present there."),
        ]  # fmt: skip


def write(
    folder: Path, num_latents: int, num_tokens: int, *, top: int, per_range: int, shares: int, first: int | None = None
) -> Iterator[int]:
    """Write the data files; yields the number of every chunk once it is written.

    With `first`, only so many chunks are: enough for a page that opens a few latents. Peak tokens of the others are
    words of the corpus.
    """
    made = Synthetic(num_latents, num_tokens, top=top, per_range=per_range, shares=shares)
    data = DataFolder(folder)
    peaks: list[str] = []
    chunks = -(-num_latents // CHUNK)
    for chunk in range(chunks if first is None else min(chunks, first)):
        records = made.records(chunk)
        data.write_chunk(chunk, records)
        peaks += [" ".join(dict.fromkeys(e.tokens[e.peak].strip() for e in record.top)) for record in records]
        yield chunk
    for j in range(len(peaks), num_latents):
        peaks.append(" ".join(made.texts[token].strip() for token in made.rows[j % len(made.rows), :15].tolist()))
    corpus_files, rows_per_file = data.write_corpus(made.rows, LENGTH)
    data.write_vocabulary(made.texts)
    data.write_search({j: f"a made-up explanation of the number {j}" for j in range(0, num_latents, 7)}, peaks)
    columns = made.columns()
    data.write_columns(columns)
    lines = {j: f"latent {j}: {verdict}" for j, verdict in enumerate(made.verdict) if verdict != "shared"}
    data.write("diff", diff_view(lines, "A made-up diff."))
    data.write("layers", layers_view(made.norms_FS))
    data.write_facts(
        {
            "format": FORMAT, "title": "Made-up latents", "name": "synthetic", "made": "2026-01-01", "version": "0",
            "num_latents": num_latents, "chunk": CHUNK, "latents": None, "num_tokens": made.rows.size,
            "sequences": len(made.rows), "corpus_files": corpus_files, "rows_per_file": rows_per_file,
            "sites": [
                {"name": site, "model": site.partition("/")[0], "point": site.partition("/")[2],
                 "layer": int(site.rpartition(".")[2]), "width": 64, "read": True, "written": True}
                for site in SITES
            ],
            "models": [{"key": "base", "name": "made/up-base"}, {"key": "chat", "name": "made/up-chat"}],
            "cards": [{"title": "Crosscoder", "rows": [["Latents", num_latents], ["Architecture", "acausal"]]}],
            "columns": [column.described() for column in columns],
            "intervals": "Ten parts of equal width of the activations from 0 to the largest.",
            "views": ["diff", "layers"], "graphs": [],
        }
    )  # fmt: skip
