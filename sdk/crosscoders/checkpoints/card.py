"""The README card of a saved crosscoder: what the Hub shows, with tags, sites, recipe, metrics and a figure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, Template

from ..privacy.local import published
from ..reports.figures import histogram

if TYPE_CHECKING:
    from torch import Tensor

from ..crosscoder.module import Crosscoder
from .description import by_provider, number_at

_CARD = """\
---
library_name: crosscoders
tags:
- crosscoders
- sparse-crosscoder
- interpretability
{%- for model in base_models %}
{%- if loop.first %}
base_model:
{%- endif %}
- {{ model | tojson }}
{%- endfor %}
---

# Crosscoder over {{ sites | length }} site{{ "s" if sites | length > 1 }}

{{ crosscoder.num_latents }} latents, architecture `{{ info.architecture.name }}`
{%- if info.loss %}, loss `{{ info.loss.name }}`{% endif %}, gate `{{ crosscoder.gate.name }}`.

```python
from crosscoders import Crosscoder

crosscoder = Crosscoder.from_pretrained("THIS_REPOSITORY")
latents = crosscoder.encode({ {%- for site in sites %}"{{ site.name }}": ...{{ ", " if not loop.last }}{% endfor -%} })
```

Activations go in raw; each site's scale is stored with the weights.
{%- if loading or training %}

**Needs** {{ "to be loaded: " ~ loading if loading }}{{ "; " if loading and training -}}
{{ "to be trained again: " ~ training if training }}.
{%- endif %}

| site | width | scale |{% if metrics %} explained variance | mean squared error |{% endif %}
|---|---|---|{% if metrics %}---|---|{% endif %}
{%- for site in sites %}
| `{{ site.name }}` | {{ site.width }} | {{ scales[loop.index0] }} |
{%- if metrics %} {{ number("explained_variance", site.name) }} | {{ number("mean_squared_error", site.name) }} |
{%- endif %}
{%- endfor %}
{% if metrics %}
Held-out tokens: {{ number("num_tokens", form=".0f") }}, with the inference gate: L0 {{ number("l0", form=".2f") }},
silent latents (active on none of them) {{ number("silent_share", form=".1%") }}. Explained variance is a ratio of sums
over the whole set.
{% endif %}
{%- if spliced %}
With the reconstruction in the place of the activations, nats per token; *recovered* is
(CE ablated − CE spliced) / (CE ablated − CE clean) and 1 − KL spliced / KL ablated.

| site |{% for title in losses %} {{ title }} |{% endfor %}
|---|{% for title in losses %}---|{% endfor %}
{%- for site in spliced %}
| `{{ site }}` |{% for name in losses.values() %} {{ number("spliced", site, name) }} |{% endfor %}
{%- endfor %}
{% endif %}
{%- if metrics.further %}
| further metric | value |
|---|---|
{%- for metric, values in metrics.further.items() %}{% for name in values %}
| `{{ metric }}`: {{ name }} | {{ number("further", metric, name) }} |
{%- endfor %}{% endfor %}
{% endif %}
{%- for name in figures %}
![{{ name }}](figures/{{ name }}.png)
{% endfor %}
{%- if info.origin %}
## Origin

Weights that another library trained, read from its format `{{ info.origin.format }}`
{%- if info.origin.repository %} of
[{{ info.origin.repository }}](https://huggingface.co/{{ info.origin.repository }}) at `{{ info.origin.revision }}`
{%- if info.origin.subfolder %}, folder `{{ info.origin.subfolder }}`{% endif %}
{%- endif %}. Its own licence applies. `config.json` has the digest of every file and the original config.
{% for change in info.origin.changes %}
- {{ change }}
{%- endfor %}
{% endif %}
{%- if models %}
## Models

| key | model | revision |
|---|---|---|
{%- for key, model in models.items() %}
| {{ key }} | {{ model.model }} | {{ model.revision }} |
{%- endfor %}
{% endif %}
{%- if info.reading %}
## Tokens

{{ packing[info.reading.packing] }}
{%- if info.reading.passes %} The token source was read to its end {{ info.reading.passes }} times.{% endif %}
{%- if info.reading.skipped %} {{ info.reading.skipped }} bad rows of it were skipped.{% endif %}
{%- if info.reading.stopped %} Training was {{ info.reading.stopped }}.{% endif %}
{% endif %}
{%- if recipe %}
## Recipe

```json
{{ recipe }}
```
{% endif %}
Made with crosscoders {{ info.made_with.crosscoders }} and torch {{ info.made_with.torch }}; architecture by
`{{ info.architecture.distribution }}` {{ info.architecture.version }}.
"""

_LOSSES = {
    "CE clean": "ce_clean",
    "CE spliced": "ce_spliced",
    "CE zero-ablated": "ce_zero",
    "CE mean-ablated": "ce_mean",
    "CE recovered, zero": "(ce_zero-ce_spliced)/(ce_zero-ce_clean)",
    "CE recovered, mean": "(ce_mean-ce_spliced)/(ce_mean-ce_clean)",
    "KL recovered, zero": "1-kl_spliced/kl_zero",
    "KL recovered, mean": "1-kl_spliced/kl_mean",
}
"""Columns of the card, and what the metrics call them."""
LOADED = ("architecture ", "gate ")
"""Components without which a crosscoder cannot be loaded."""
PACKING = {
    "apart": "Rows hold several documents, each read by the models as if it were alone.",
    "single": "Each row holds one document or a part of one.",
    "across": "Rows hold several documents as one text: models read over their ends.",
}
"""How documents share rows, for people."""


def write_card(
    crosscoder: Crosscoder,
    norms_FS: Tensor,
    needs: Sequence[Mapping[str, str]],
    folder: Path,
    *,
    drawn_in: Path | None = None,
) -> None:
    """Write `README.md` and `figures/` for `crosscoder` into `folder`.

    `norms_FS` are its latents' decoder norms, `needs` the components of other distributions, `drawn_in` a folder with
    the card of the same weights, whose figures are taken.
    """
    info = crosscoder.info
    assert info is not None
    recipe, models = published(info.recipe, info.models)
    figures = folder / "figures"
    figures.mkdir()
    total_F = norms_FS.sum(dim=1).clamp_min(1e-30)
    names = crosscoder.written.names
    if len(names) == 2:
        values = {"latents": (norms_FS[:, 1] / total_F).tolist()}
        label = f"share of the decoder norm at {names[1]} (0: only {names[0]})"
        name = "norm-share"
    else:
        values = {site: (norms_FS[:, i] / total_F).tolist() for i, site in enumerate(names)}
        label, name = "share of the decoder norm", "norm-shares"
    if len(names) == 1:
        values, label, name = {names[0]: norms_FS[:, 0].tolist()}, "decoder norm", "decoder-norms"
    figure = figures / f"{name}.png"
    if drawn_in is not None and (drawn_in / "figures" / figure.name).is_file():
        shutil.copyfile(drawn_in / "figures" / figure.name, figure)
    else:
        figure.write_bytes(histogram(values, xlabel=label, ylabel="latents").png())

    def number(*keys: str, form: str = ".4g") -> str:
        value = number_at(info.metrics, *keys)
        return "–" if value is None else format(value, form)

    models_written = dict.fromkeys(site.model for site in crosscoder.written.sites)
    rows = [*names, *(f"{model} (all sites)" for model in models_written)]
    text = _template().render(
        number=number,
        losses=_LOSSES,
        crosscoder=crosscoder,
        info=info,
        sites=crosscoder.sites,
        scales=["unknown" if isnan(scale) else f"{scale:.5g}" for scale in crosscoder.normaliser.scale_S.tolist()],
        metrics=info.metrics,
        packing=PACKING,
        spliced=[row for row in rows if number_at(info.metrics, "spliced", row, "ce_clean") is not None],
        figures=[name],
        # The Hub links to base models by id; local folders and the shipped pair have no page there.
        models=models,
        loading=_grouped(each for each in needs if each["component"].startswith(LOADED)),
        training=_grouped(each for each in needs if not each["component"].startswith(LOADED)),
        base_models=sorted({m["model"] for m in models.values() if _is_hub_id(str(m.get("model", "")))}),
        recipe=json.dumps(recipe, indent=2) if recipe else "",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


@cache
def _template() -> Template:
    return Environment(autoescape=False).from_string(_CARD)  # noqa: S701 - Markdown, not HTML


def _grouped(needs: Iterable[Mapping[str, str]]) -> str:
    return ", ".join(f"`{distribution}` {version} ({what})" for (distribution, version, _), what in by_provider(needs))


def with_metadata(text: str, licence: str, datasets: Sequence[str], base_models: Sequence[str]) -> str:
    """The card with a licence, datasets and base models in its head, beside what is there."""
    import yaml

    _, head, body = text.split("---\n", 2)
    data = yaml.safe_load(head)
    if licence:
        data["license"] = licence
    if datasets:
        data["datasets"] = list(dict.fromkeys([*data.get("datasets", []), *datasets]))
    if base_models:
        data["base_model"] = list(dict.fromkeys([*data.get("base_model", []), *base_models]))
    return f"---\n{yaml.safe_dump(data, sort_keys=False)}---\n{body}"


def with_section(text: str, section: str) -> str:
    """The card with a section more, before the words that it ends with."""
    body, made, end = text.rpartition("\nMade with crosscoders ")
    return f"{body}\n{section}{made}{end}" if made else f"{text.rstrip()}\n\n{section}"


def _is_hub_id(model: str) -> bool:
    return model.count("/") == 1 and " " not in model and not model.startswith(("/", ".", "tiny-pair/"))
