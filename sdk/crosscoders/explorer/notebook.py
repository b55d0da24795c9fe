"""Latents as notebooks show them: what a dashboard's page of a latent has, in one piece of HTML without scripts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from attrs import field, frozen

from ..converters import as_tuple
from ..pages import visible, word
from ..reports.frames import data_frame
from ..reports.report import environment
from .choosing import LatentDetail
from .gathering import Gatherer
from .records import ExampleRecord, LatentRecord

if TYPE_CHECKING:
    import pandas
    from numpy import ndarray

    from ..analysis.study import Study

DETAIL = LatentDetail(top=10, per_range=3, ranges=5, shares=5, neighbours=6)
"""What is shown of a latent if nothing else is said."""


def view_latent(study: Study, latent: int, *, detail: LatentDetail | None = None) -> LatentView:
    """A latent over a study's tokens, to be shown in a notebook: all that a dashboard shows of it.

    Two passes over the tokens, which a study keeps, so the second look is quick. A view shows itself; `record` has its
    numbers. `LatentError` for a latent that is not there, `AnalysisError` where no token counts.
    """
    return view_latents(study, [latent], detail=detail)[0]


def view_latents(study: Study, latents: Sequence[int], *, detail: LatentDetail | None = None) -> LatentViews:
    """Several latents over a study's tokens, to be shown in a notebook: a line for each, and all of it on a click.

    See `view_latent`; they are looked at in the same two passes.
    """
    detail = detail or DETAIL
    with tempfile.TemporaryDirectory(prefix="crosscoders-") as folder:
        gatherer = Gatherer(study, latents, detail=detail, folder=Path(folder))
        records = [record for chunk in gatherer.chunks for record in gatherer.records(chunk)]
        ids = {token for each in records for site in each.logits for token, _ in (*site.promoted, *site.suppressed)}
        texts = dict(zip(sorted(ids), gatherer.vocabulary.texts(sorted(ids)), strict=True))
        num_tokens = gatherer.firings.num_tokens
    views = {
        record.latent: LatentView(
            record=record,
            sites=study.crosscoder.written.names,
            num_tokens=num_tokens,
            texts=texts,
            explanation=study.explanations.get(record.latent, ""),
            intervals=detail.intervals(),
        )
        for record in records
    }
    return LatentViews(views=[views[latent] for latent in latents])


@frozen(kw_only=True, eq=False, repr=False)
class LatentView:
    """One latent, which shows itself in notebooks: where it is active, what it promotes, its norms and neighbours."""

    record: LatentRecord
    sites: tuple[str, ...] = field(converter=as_tuple)
    """The written sites, in the order of the record's norms."""
    num_tokens: int
    """Tokens that were looked through."""
    texts: Mapping[int, str]
    """Of the ids of promoted and suppressed tokens."""
    explanation: str = ""
    intervals: str = ""
    """What an interval means, in a sentence."""

    def __repr__(self) -> str:
        said = f", {self.explanation!r}" if self.explanation else ""
        return f"LatentView({self.record.latent}{said}, active on {self.density:.3%} of tokens, at {self.peaks(3)!r})"

    @property
    def latent(self) -> int:
        """Its number."""
        return self.record.latent

    @property
    def density(self) -> float:
        """The share of tokens on which it is active."""
        return self.record.firings / max(1, self.num_tokens)

    def peaks(self, count: int = 5) -> list[str]:
        """The tokens where it is strongest, each once."""
        return list(dict.fromkeys(example.tokens[example.peak] for example in self.record.top))[:count]

    def _repr_html_(self) -> str:
        return environment("crosscoders.explorer").get_template("latents.html").render(views=[self], part=_Parts)


@frozen(kw_only=True, eq=False, repr=False)
class LatentViews(Sequence[LatentView]):
    """Several latents, which show themselves in notebooks: a line for each, and all of it on a click."""

    views: tuple[LatentView, ...] = field(converter=as_tuple)

    def __repr__(self) -> str:
        return f"LatentViews({', '.join(str(view.latent) for view in self.views)})"

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[LatentView]:
        return iter(self.views)

    @overload
    def __getitem__(self, index: int) -> LatentView: ...
    @overload
    def __getitem__(self, index: slice) -> LatentViews: ...
    def __getitem__(self, index: int | slice) -> LatentView | LatentViews:
        if isinstance(index, slice):
            return LatentViews(views=self.views[index])
        return self.views[index]

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each latent: `latent`, `density`, `firings`, `max`, `norm SITE` for each written site, `peaks`
        and `explanation` (needs the extra `pandas`)."""
        columns: dict[str, list[Any]] = {
            "latent": [view.latent for view in self.views],
            "density": [view.density for view in self.views],
            "firings": [view.record.firings for view in self.views],
            "max": [view.record.histogram.high for view in self.views],
        }
        for place, site in enumerate(self.views[0].sites if self.views else ()):
            columns[f"norm {site}"] = [view.record.norms[place] for view in self.views]
        columns["peaks"] = [view.peaks() for view in self.views]
        columns["explanation"] = [view.explanation for view in self.views]
        return data_frame(columns)

    def _repr_html_(self) -> str:
        return environment("crosscoders.explorer").get_template("latents.html").render(views=self.views, part=_Parts)


class _Parts:
    """What the template asks of records."""

    visible, word = staticmethod(visible), staticmethod(word)

    @staticmethod
    def tokens(example: ExampleRecord) -> list[tuple[str, float, float]]:
        """Text, strength of the colour and activation of each token."""
        return _coloured(example, example.values, example.max)

    @staticmethod
    def share(example: ExampleRecord, model: str) -> list[tuple[str, float, float]]:
        """The same of what one model brings; colours compare the models."""
        largest = max(float(abs(values_T).max()) for values_T in example.shares.values())
        return _coloured(example, example.shares[model], largest)

    @staticmethod
    def bars(counts: Sequence[int]) -> list[tuple[float, float]]:
        """Place and height of the bars of a histogram 100 wide and 100 high."""
        tallest, width = max((*counts, 1)), 100 / max(1, len(counts))
        # What is there must be seen, however rare it is beside the most frequent.
        return [(n * width, max(2.0, 100 * count / tallest)) for n, count in enumerate(counts) if count]


def _coloured(example: ExampleRecord, values_T: ndarray, largest: float) -> list[tuple[str, float, float]]:
    return [
        (visible(token), float(value) / largest if largest > 0 else 0.0, float(value))
        for token, value in zip(example.tokens, values_T, strict=True)
    ]
