"""What the live pages are told: latents of a text, and answers of models plain and changed."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import Any

import torch
from torch import Tensor

from ..analysis.act import Acting
from ..analysis.generate import AmplifiedLogits, generate
from ..analysis.inputs import prompt_ids
from ..analysis.look import token_latents
from ..analysis.passes import StudyBatch
from ..analysis.shares import shares_by_model
from ..analysis.study import Study
from ..crosscoder.latents import Latents
from ..crosscoder.module import Crosscoder
from ..errors import AnalysisError, CrosscodersError
from ..models.adapter import Decoder, Generates, ModelAdapter
from ..models.capabilities import generates, lays_out_chats, reads_text, tokenized, vocabulary_of
from ..models.documents import Text
from .serve_requests import LONGEST_TEXT, MOST_NEW_TOKENS, Amplify, GenerateRequest, LatentsRequest

MOST_TOKENS = 1_024
"""Of a text or prompt."""
STRONGEST = 24
"""Latents whose activations are told on all tokens."""
DOING = "the live page"


class Gone(Exception):  # noqa: N818
    """Whoever asked is not there any more."""


class Live:
    """A study that answers requests, one at a time."""

    def __init__(self, study: Study, *, name: str = "") -> None:
        self.study, self.name = study, name

    def about(self) -> dict[str, Any]:
        """What the panels need to know of the crosscoder and its models."""
        crosscoder, adapters = self.study.crosscoder, self.study.adapters
        written = crosscoder.written.points_by_model
        return {
            "name": self.name,
            "num_latents": crosscoder.num_latents,
            "reads": list(crosscoder.wiring.read.points_by_model),
            "models": [
                {
                    "key": key,
                    "name": str(adapter.describe().get("model", "")),
                    "answers": isinstance(adapter, Generates),
                    "chats": lays_out_chats(adapter),
                    "written": key in written,
                }
                for key, adapter in adapters.items()
            ],
            "before": crosscoder.sites[0].model,
            "after": crosscoder.sites[-1].model,
            "explanations": {str(latent): text for latent, text in self.study.explanations.items()},
            "longest_text": LONGEST_TEXT,
            "most_new_tokens": MOST_NEW_TOKENS,
        }

    @torch.no_grad()
    def latents(self, asked: LatentsRequest, stop: Event) -> dict[str, Any]:
        """The strongest latents of each token and of the whole, with each model's part of the pre-activation.

        Strength is the activation times Σ_s‖d^s‖, by which different latents can be compared. Activations are plain.
        """
        study = self.study
        _check_length(len(tokenized(study.reading, asked.document).ids))
        batch = study.batch(asked.document)
        if stop.is_set():
            raise Gone
        found = token_latents(batch, study.reading, top=asked.top)
        texts, latents = found.texts[0], found.latents
        position_B = found.place_B2[:, 1].tolist()
        shares = _Shares(study.crosscoder, batch)
        strongest: list[dict[str, Any]] = []
        chosen = found.strongest(STRONGEST)
        by_latent = shares.everywhere(chosen)
        for latent in chosen:
            values_T = found.activation(latent)[0]
            parts: dict[str, list[float]] = {}
            for model, part_B in by_latent[latent].items():
                parts[model] = [0.0] * len(texts)
                for position, part in zip(position_B, part_B, strict=True):
                    parts[model][position] = part
            score = max(values_T) * float(found.score_norm_F[latent])
            strongest.append({"latent": latent, "values": values_T, "score": score, "parts": parts})
        by_token: list[list[dict[str, Any]]] = [[] for _ in texts]
        of_entry = shares.where_active()
        for row in found.table():
            position, latent = int(row["position"] or 0), int(row["latent"] or 0)
            told = {"latent": latent, "value": row["activation"], "score": row["score"]}
            by_token[position].append({**told, "parts": of_entry[position, latent]})
        counted = set(position_B)
        return {
            "tokens": list(texts),
            "counted": [position in counted for position in range(len(texts))],
            "latents": by_token,
            "strongest": strongest,
            "bias": {str(latent): float(study.crosscoder.b_enc_F[latent]) for latent in chosen},
            "l0": latents.l0,
        }

    def generate(self, asked: GenerateRequest, stop: Event) -> dict[str, Any]:
        """Answers of each model plain, and changed where something is; where it cannot be, a note says why."""
        keys = asked.models or [key for key, each in self.study.adapters.items() if isinstance(each, Generates)]
        if not keys:
            raise AnalysisError("none of the models writes text")
        answers = []
        for key in keys:
            adapter = self.study.adapter(key)
            ids = self._prompt(asked, adapter)
            plain = self._answer(generates(adapter, DOING).decoder(), adapter, ids, asked, stop)
            answer: dict[str, Any] = {"model": key, "plain": plain, "changed": None, "note": ""}
            try:
                decoder = self._changed(asked, key)
                if decoder is not None:
                    answer["changed"] = self._answer(decoder, adapter, ids, asked, stop)
            except CrosscodersError as error:
                answer["note"] = str(error)
            answers.append(answer)
        return {"answers": answers}

    def _changed(self, asked: GenerateRequest, key: str) -> Decoder | None:
        """The decoder of a model with what is asked; None where nothing is asked of it."""
        if asked.changes:
            return self.study.steer(asked.changes, model=key).decoder()
        if asked.amplify is None or key != self.study.crosscoder.sites[-1].model:
            return None
        return self._amplified(asked.amplify)

    def _amplified(self, amplify: Amplify) -> Decoder:
        if amplify.of == "latents":
            acting: Acting = self.study.amplify(amplify.latents, alpha=amplify.alpha)
            return acting.decoder()
        sites = self.study.crosscoder.sites
        before, after = self.study.adapter(sites[0].model), self.study.adapter(sites[-1].model)
        if before is after or vocabulary_of(before) != vocabulary_of(after):
            raise AnalysisError("logits are amplified between two models of one vocabulary")
        return AmplifiedLogits(generates(after, DOING).decoder(), generates(before, DOING).decoder(), amplify.alpha)

    def _prompt(self, asked: GenerateRequest, adapter: ModelAdapter) -> list[int]:
        ids = prompt_ids(Text(asked.text) if asked.as_it_is else asked.text, adapter)
        _check_length(len(ids) + asked.max_new_tokens)
        return ids

    def _answer(
        self, decoder: Decoder, adapter: ModelAdapter, ids: Sequence[int], asked: GenerateRequest, stop: Event
    ) -> str:
        found = generate(
            _Stoppable(decoder, stop),
            [ids],
            ends=generates(adapter, DOING).end_tokens(),
            device=self.study.crosscoder.device,
            max_new_tokens=asked.max_new_tokens,
            temperature=asked.temperature,
            seed=asked.seed,
        )
        return reads_text(adapter, DOING).text(found[0])


class _Shares:
    """What each model brings to latents on the tokens of one batch that count."""

    def __init__(self, crosscoder: Crosscoder, batch: StudyBatch) -> None:
        self.crosscoder, self.batch = crosscoder, batch

    def where_active(self) -> dict[tuple[int, int], dict[str, float]]:
        """By position and latent, each model's part."""
        latents = self.batch.latents
        position_N = self.batch.place_B2[latents.token_N, 1].tolist()
        parts = self._parts(latents)
        return {
            key: {model: part_N[n] for model, part_N in parts.items()}
            for n, key in enumerate(zip(position_N, latents.latent_N.tolist(), strict=True))
        }

    def everywhere(self, chosen: Sequence[int]) -> dict[int, dict[str, list[float]]]:
        """By latent and model, the part on every token, also where the latent is not active."""
        count, latent_K = self.batch.latents.num_tokens, torch.tensor(sorted(chosen), device=self.crosscoder.device)
        token_N = torch.arange(count, device=latent_K.device).repeat_interleave(len(latent_K))
        latent_N = latent_K.repeat(count)
        everywhere = Latents(
            token_N, latent_N, torch.zeros(len(token_N), device=latent_K.device), count, self.crosscoder.num_latents
        )
        parts = self._parts(everywhere) if len(token_N) else {}
        return {
            latent: {model: part_N[k :: len(latent_K)] for model, part_N in parts.items()}
            for k, latent in enumerate(latent_K.tolist())
        }

    def _parts(self, latents: Latents) -> dict[str, list[float]]:
        found = shares_by_model(self.crosscoder, self.batch.x_BX, latents)
        return {model: part_N.cpu().tolist() for model, part_N in found.items()}


class _Stoppable:
    """A decoder that ends where nobody waits for it any more."""

    def __init__(self, decoder: Decoder, stop: Event) -> None:
        self.decoder, self.stop = decoder, stop

    def advance(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Read the next tokens of every row."""
        if self.stop.is_set():
            raise Gone
        return self.decoder.advance(ids, attention)


def _check_length(count: int) -> None:
    if count > MOST_TOKENS:
        raise AnalysisError(
            f"the text should have {MOST_TOKENS:,} tokens at most, new ones included, and has {count:,}"
        )
