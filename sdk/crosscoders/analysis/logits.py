"""What latents say in the logits directly: the tokens that each promotes and suppresses most, by written site."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from attrs import frozen
from torch import Tensor

from ..crosscoder.module import Crosscoder
from ..errors import AnalysisError, CrosscodersError
from ..models.adapter import ModelAdapter, ReadsOut
from ..models.capabilities import token_texts
from ..reports import Table


@frozen(eq=False)
class LogitExtremes:
    """The `count` largest and smallest direct effects of K latents at one site, per unit of activation."""

    site: str
    adapter: ModelAdapter
    """The site's model, whose tokens these are."""
    promoted: tuple[Tensor, Tensor]
    """Token ids (K, count) and effects, largest first."""
    suppressed: tuple[Tensor, Tensor]
    """The same, most negative first."""


def logit_extremes(
    crosscoder: Crosscoder,
    adapters: Mapping[str, ModelAdapter],
    latents: Sequence[int],
    *,
    count: int,
    sites: Collection[str] | None = None,
) -> Iterator[LogitExtremes]:
    """The extreme effects at each written site, or those of them in `sites`, that has a way to the logits.

    The direct effect: the decoder row in raw units through the last norm's weight and the unembedding, less its mean
    over the vocabulary, as a norm of scale 1 would pass it on.
    """
    for site in crosscoder.written.sites:
        adapter = adapters.get(site.model)
        if not isinstance(adapter, ReadsOut) or (sites is not None and site.name not in sites):
            continue
        try:
            effect_KV = adapter.read_out(site.point, crosscoder.direction(latents, site.name)).float()
        except CrosscodersError:
            # A point off the residual stream, or an encoder.
            continue
        effect_KV = effect_KV - effect_KV.mean(dim=1, keepdim=True)
        size = min(count, effect_KV.shape[1])
        high, low = effect_KV.topk(size), effect_KV.topk(size, largest=False)
        yield LogitExtremes(
            site.name, adapter, (high.indices.cpu(), high.values.cpu()), (low.indices.cpu(), low.values.cpu())
        )


def logit_effects(
    crosscoder: Crosscoder, adapters: Mapping[str, ModelAdapter], latents: Sequence[int], *, count: int
) -> Table:
    """The `count` tokens that each latent promotes and suppresses most, by written site: see `logit_extremes`."""
    rows: list[tuple[int, str, str, int, str, int, float]] = []
    for found in logit_extremes(crosscoder, adapters, latents, count=count):
        for place, latent in enumerate(latents):
            for kind, (ids_KN, effect_KN) in (("promoted", found.promoted), ("suppressed", found.suppressed)):
                ids, effects = ids_KN[place].tolist(), effect_KN[place].tolist()
                texts = token_texts(found.adapter, ids)
                rows += [
                    (latent, found.site, kind, rank, text, token, effect)
                    for rank, (token, text, effect) in enumerate(zip(ids, texts, effects, strict=True))
                ]
    if not rows:
        raise AnalysisError(f"none of the sites {', '.join(crosscoder.written.names)} has a read-out into logits")
    return Table(
        title="Direct effects on the logits",
        columns=("latent", "site", "kind", "rank", "token", "id", "effect"),
        rows=rows,
        note="Per unit of activation, less the mean over the vocabulary, with the last norm's scale left at 1.",
    )
