"""Running analyses on a study: one that fails leaves the reports of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from ..crosscoder.module import Crosscoder
from ..errors import AnalysisError, CrosscodersError
from ..plugins.choices import AnalysisChoice, structure
from ..plugins.registry import Registry
from ..reports import Report
from .study import Study


@runtime_checkable
class Analysis(Protocol):
    """Turns a study (crosscoder, models, tokens) into a report."""

    def run(self, study: Study) -> Report:
        """Run the analysis and return its report; raises `AnalysisError` if it is not defined for this study."""


@torch.no_grad()
def analyse(
    crosscoder: Crosscoder,
    analyses: Sequence[str | Mapping[str, Any]] = (),
    *,
    study: Study | None = None,
    registry: Registry | None = None,
    **options: Any,
) -> list[Report]:
    """Run analyses by name, or by `{"name": ..., **options}`, and return their reports.

    Without `analyses` they are `decoder_norms` and, where several sites are written, `latent_scaling`, which compares
    them.

    Unless a `study` is given, the remaining options are those of `Study.of`: other models or tokens, how many tokens,
    the seed, and `trust_recipe`. If some analyses fail, the others run all the same, and `AnalysesFailed` has their
    reports.
    """
    study = study or Study.of(crosscoder, registry=registry, **options)
    comparing = ("latent_scaling",) if len(crosscoder.written.sites) > 1 else ()
    analyses = analyses or ("decoder_norms", *comparing)
    chosen = [{"name": analysis} if isinstance(analysis, str) else analysis for analysis in analyses]
    choices = [structure(analysis, AnalysisChoice, registry=registry) for analysis in chosen]
    reports: list[Report] = []
    failures: list[tuple[str, Exception]] = []
    for choice in choices:
        study.doing = choice.name
        try:
            reports.append(choice.build(registry=registry).run(study))
        except Exception as error:
            failures.append((_said(choice, error, registry), error))
        finally:
            study.doing = "reading"
    if failures:
        raise AnalysesFailed([text for text, _ in failures], reports) from failures[0][1]
    return reports


class AnalysesFailed(AnalysisError):  # noqa: N818
    """Some of several analyses failed; `reports` are those of the others, `failures` a line for each that failed."""

    def __init__(self, failures: Sequence[str], reports: Sequence[Report]) -> None:
        super().__init__("; ".join(failures))
        self.failures, self.reports = list(failures), list(reports)


def _said(choice: AnalysisChoice, error: Exception, registry: Registry | None) -> str:
    """Which analysis of which plugin failed, and why; only errors that are meant for users speak for themselves."""
    offer = choice.offer(registry)
    reason = str(error) if isinstance(error, CrosscodersError) else f"{type(error).__name__}: {error}"
    return f"the analysis '{choice.name}' of the plugin '{offer.provider.plugin}' failed: {reason}"
