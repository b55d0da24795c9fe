"""Decoder norms: which latents belong to which site, and what the most specific ones respond to.

Definitions: `norm_classes`. Everything is in normalised space, where every site has a mean norm of √D, and in units
of √D, so that sites of different width compare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from crosscoders import Crosscoder, Example, Examples, Figure, Note, Part, Report, Study, Table
from crosscoders.authoring import Activity, activity
from crosscoders.reports.figures import histogram

from .norm_classes import classes_of, delta_norm, entropy_share, norm_share, width_free_norms

TERMS = {
    "decoder row": "The direction that a latent writes at a site. Its length, the norm, says how strongly.",
    "norm share": "A latent's norm at a site over the sum at all sites. Of two sites, 0.5 is as strongly at both, "
    "near 1 is at this one alone.",
    "Δnorm": "The same question for two sites, by the larger of the norms: 0 only the first, 0.5 both, 1 only the "
    "second.",
    "class by norms": "What norms alone suggest: shared, only at one site, or other. They can mislead; the verdict of "
    "latent scaling looks at activations.",
}


@frozen(kw_only=True)
class DecoderNormsConfig:
    """How much the report shows."""

    top: int = field(default=12, validator=ge(0))
    """Number of latents of each site, the most specific ones, that are shown with examples."""
    examples: int = field(default=6, validator=ge(1))
    """Number of contexts shown for each of these latents."""
    min_firings: int = field(default=16, validator=ge(0))
    """Latents that are active on fewer tokens of the study than this are not shown with examples."""


class DecoderNorms:
    """Analysis `decoder_norms`."""

    def __init__(self, options: DecoderNormsConfig) -> None:
        self.options = options

    @torch.no_grad()
    def run(self, study: Study) -> Report:
        """Report shares, Δnorm, classes and cosines of all latents, with examples of the most specific ones."""
        crosscoder = study.crosscoder
        names = crosscoder.written.names
        norms_FS = width_free_norms(crosscoder)
        share_FS = norm_share(norms_FS)
        classes = classes_of(crosscoder)
        # With one site there is nothing to lean to, and the largest norms are shown.
        leaning_FS = share_FS if len(names) > 1 else norms_FS
        # Which latents fire often enough is known only after the pass over the tokens, so collect examples for more
        # latents than are shown.
        candidates = {name: _leaning(leaning_FS[:, i])[: 10 * self.options.top] for i, name in enumerate(names)}
        pool = sorted({latent for latents in candidates.values() for latent in latents})
        seen = activity(study, pool, per_latent=self.options.examples)
        ranked = {name: self._shown(latents, seen) for name, latents in candidates.items()}
        cosines = pair_cosines(crosscoder, seed=study.seed)
        parts: list[Part] = [self._class_table(classes, seen), *self._figures(names, norms_FS, cosines)]
        if cosines:
            parts.append(_cosine_table(cosines, classes))
        else:
            why = "The sites have different widths" if len(names) > 1 else "One site is written"
            parts.append(Note(text=f"{why}, so decoder directions cannot be compared."))
        # Begin with the last site: in a diff it belongs to the model after fine-tuning, which the reader asks about.
        for i, name in reversed(list(enumerate(names))):
            parts.append(self._examples(name, ranked[name], share_FS[:, i], classes, seen, study.explanations))
        data: dict[str, Any] = {
            "sites": list(names),
            "norms": crosscoder.decoder_norms().detach().cpu().tolist(),
            "norms_over_root_width": norms_FS.tolist(),
            "share": share_FS.tolist(),
            "class": classes,
            "firings": seen.firings_F.tolist(),
            "num_tokens": seen.num_tokens,
            "most_specific": ranked,
        }
        if len(names) == 2:
            data[f"delta_norm (0: only {names[0]}, 1: only {names[1]})"] = delta_norm(norms_FS).tolist()
        elif len(names) > 2:
            entropy_F = entropy_share(share_FS)
            data["entropy"] = entropy_F.tolist()
            data["effective_sites"] = (entropy_F * torch.tensor(float(len(names))).log()).exp().tolist()
            data["largest_site"] = [names[i] for i in share_FS.nan_to_num().argmax(dim=1).tolist()]
        counts = Counter(classes)
        summary = ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts, key=counts.__getitem__, reverse=True))
        frame = Table(
            title="Latents",
            columns=(
                "latent",
                "class",
                *(f"norm {name}" for name in names),
                *(f"share {name}" for name in names),
                "firings",
            ),
            rows=[
                (j, kind, *norms, *shares, firings)
                for j, (kind, norms, shares, firings) in enumerate(
                    zip(classes, data["norms"], data["share"], data["firings"], strict=True)
                )
            ],
        )
        return Report(
            title="Decoder norms",
            summary=f"Latents by class: {summary}.",
            parts=parts,
            data=data,
            frame=frame,
            terms=TERMS,
        )

    def _shown(self, candidates: list[int], seen: Activity) -> list[int]:
        alive = [latent for latent in candidates if seen.firings_F[latent] >= self.options.min_firings]
        return alive[: self.options.top]

    def _class_table(self, classes: list[str], seen: Activity) -> Table:
        rows = []
        for kind in sorted(set(classes)):
            members = torch.tensor([c == kind for c in classes])
            firing = seen.firings_F[members].float() / max(1, seen.num_tokens)
            rows.append((kind, int(members.sum()), int((firing > 0).sum()), float(firing.median())))
        return Table(
            title="Classes",
            columns=("class", "latents", "active in this study", "median firing rate"),
            rows=rows,
            note=f"Firing rates over {seen.num_tokens} tokens, with the inference gate.",
        )

    def _figures(self, names: tuple[str, ...], norms_FS: Tensor, cosines: dict[tuple[str, str], Any]) -> list[Part]:
        if len(names) == 1:
            label = "decoder norm, in units of √width"
            values = {names[0]: norms_FS[:, 0].tolist()}
        elif len(names) == 2:
            label = f"Δnorm (0: only {names[0]}, 1: only {names[1]})"
            values = {"latents": delta_norm(norms_FS).tolist()}
        else:
            label = "share of the decoder norm"
            values = {name: norm_share(norms_FS)[:, i].tolist() for i, name in enumerate(names)}
        figures: list[Part] = [
            Figure(title="Where latents write", svg=histogram(values, xlabel=label, ylabel="latents").svg())
        ]
        if cosines:
            first = next(iter(cosines))
            found, random = cosines[first]
            both = {"same latent": found.tolist(), "random pairs": random.tolist()}
            title = f"Cosine of decoder rows, {first[0]} with {first[1]}"
            figures.append(Figure(title=title, svg=histogram(both, xlabel="cosine", ylabel="latents").svg()))
        return figures

    def _examples(
        self,
        name: str,
        ranked: list[int],
        share_F: Tensor,
        classes: list[str],
        seen: Activity,
        said: Mapping[int, str],
    ) -> Examples:
        entries = [
            Example(
                heading=f"latent {latent}",
                note=(f"{said[latent]}; " if latent in said else "")
                + f"{share_F[latent]:.3f} of its norm at {name} ({classes[latent]}), "
                f"active on {int(seen.firings_F[latent])} tokens",
                contexts=seen.contexts[latent],
            )
            for latent in ranked
        ]
        return Examples(
            title=f"Most {name}-leaning latents"
            if len(set(classes) - {"only site"})
            else "Latents of the largest norms",
            note="Where each is most active; hover for the activation. At most one context per sequence.",
            entries=entries,
        )


def _leaning(share_F: Tensor) -> list[int]:
    """The latents with a nonzero decoder norm, by decreasing share."""
    order: list[int] = share_F.nan_to_num(-1.0).argsort(descending=True).tolist()
    return [latent for latent in order if share_F[latent].isfinite()]


def pair_cosines(crosscoder: Crosscoder, *, seed: int) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """Cosines of decoder rows for each pair of sites of equal width: for the same latent, and for random pairs."""
    sites = crosscoder.written.sites
    shuffled = torch.randperm(crosscoder.num_latents, generator=torch.Generator().manual_seed(seed))
    cosines = {}
    for i, first in enumerate(sites):
        for second in sites[i + 1 :]:
            if first.width == second.width:
                a_FD = torch.nn.functional.normalize(crosscoder.decoder_rows(first.name).cpu(), dim=1)
                b_FD = torch.nn.functional.normalize(crosscoder.decoder_rows(second.name).cpu(), dim=1)
                cosines[first.name, second.name] = ((a_FD * b_FD).sum(1), (a_FD * b_FD[shuffled]).sum(1))
    return cosines


def _cosine_table(cosines: dict[tuple[str, str], tuple[Tensor, Tensor]], classes: list[str]) -> Table:
    shared = torch.tensor([kind == "shared" for kind in classes])
    rows = [
        (
            first,
            second,
            float(found.median()),
            float(found[shared].median()) if bool(shared.any()) else None,
            float(random.abs().median()),
            float(random.abs().quantile(0.95)) if len(random) < 2**24 else None,
        )
        for (first, second), (found, random) in cosines.items()
    ]
    return Table(
        title="Decoder cosines",
        columns=("site", "site", "median", "median of shared", "random pairs, median |cos|", "random pairs, 95 %"),
        rows=rows,
        note="A latent's decoder rows at two sites against rows of different latents paired at random.",
    )
