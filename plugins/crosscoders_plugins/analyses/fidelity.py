"""Fidelity: how well the crosscoder reconstructs, and what each model loses when it runs on the reconstruction.

    CE recovered = (CE_ablated − CE_spliced) / (CE_ablated − CE_clean)        KL recovered = 1 − KL_spliced / KL_ablated

with zero and mean ablation, by site and by model; see `Study.evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen
from attrs.validators import ge

from crosscoders import Note, Part, Report, Study, Table

CE, KL = "(ce_mean-ce_spliced)/(ce_mean-ce_clean)", "1-kl_spliced/kl_mean"

TERMS = {
    "spliced": "The model runs with the reconstruction in the place of its activations.",
    "ablated": "The model runs with zeros, or the mean activation, in that place: as if nothing were known of it.",
    "recovered": "The share of what ablation costs the model, in cross-entropy or KL, that splicing gives back.",
}


@frozen(kw_only=True)
class FidelityConfig:
    """On how much of the study."""

    num_tokens: int = field(default=0, validator=ge(0))
    """Tokens to measure on, since the models run many times; 0 takes all of the study's."""


class Fidelity:
    """Analysis `fidelity`."""

    def __init__(self, options: FidelityConfig) -> None:
        self.options = options

    def run(self, study: Study) -> Report:
        """Explained variance, L0, silent latents; cross-entropy and KL clean, spliced, zero- and mean-ablated."""
        study = study.with_tokens(self.options.num_tokens) if self.options.num_tokens else study
        metrics = study.evaluate([])
        table, errors = metrics.table(), metrics.mean_squared_error
        kinds = list(dict.fromkeys(name for numbers in metrics.spliced.values() for name in numbers))
        losses = [name for name in kinds if name.startswith(("ce_", "kl_"))]
        parts: list[Part] = [
            Table(
                title="Reconstruction",
                columns=("site", "explained variance", "mean squared error"),
                rows=[(site, value, errors[site]) for site, value in metrics.explained_variance.items()],
                note=f"Over {metrics.num_tokens} tokens with the inference gate: L0 {metrics.l0:.2f}, "
                f"{metrics.silent_share:.1%} of latents silent, that is, active on none of them.",
            )
        ]
        if metrics.spliced:
            parts += [
                _spliced("Recovered", metrics.spliced, [name for name in kinds if name not in losses]),
                _spliced("Cross-entropy and KL, nats per token", metrics.spliced, losses),
            ]
        else:
            parts.append(Note(text="None of the models gives next-token logits, so nothing was spliced in."))
        data: dict[str, object] = {
            "num_tokens": metrics.num_tokens,
            "l0": metrics.l0,
            "silent_share": metrics.silent_share,
            "explained_variance": dict(metrics.explained_variance),
            "mean_squared_error": dict(metrics.mean_squared_error),
            "spliced": {site: dict(numbers) for site, numbers in metrics.spliced.items()},
        }
        lines = [
            f"{site}: explained variance {value:.4f}" + _recovered(metrics.spliced.get(site, {}))
            for site, value in metrics.explained_variance.items()
        ]
        return Report(
            title="Fidelity", summary="; ".join(lines) + ".", parts=parts, data=data, frame=table, terms=TERMS
        )


def _spliced(title: str, spliced: Mapping[str, Mapping[str, float]], names: list[str]) -> Table:
    rows = [(site, *(numbers.get(name) for name in names)) for site, numbers in spliced.items()]
    return Table(title=title, columns=("site", *names), rows=rows)


def _recovered(numbers: Mapping[str, float]) -> str:
    found = [f"{label} recovered {numbers[name]:.4f}" for label, name in (("CE", CE), ("KL", KL)) if name in numbers]
    return f", {', '.join(found)}" if found else ""
