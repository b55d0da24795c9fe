"""What an export says about its model, its set of latents and who made it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from attrs import field, frozen

from ...errors import AnalysisError, listed
from .rules import body_problems, model_id_problems, set_name_problems
from .sources import Source


@frozen(kw_only=True)
class NeuronpediaListing:
    """Names under which latents are listed; `AnalysisError` says what Neuronpedia would not take of them."""

    model_id: str
    """The model as the site calls it, `gemma-2-2b`."""
    source_set: str
    """The set of latents, `crosscoder-16k`."""
    creator_id: str = ""
    """The id of a user of the site that imports; the bulk layout needs it, and it cannot be guessed."""
    creator_name: str = ""
    suffix: str = ""
    """What distinguishes a source from others of the same set and layer."""
    title: str = ""
    """Of the release; the name of the set if it is empty."""
    description: str = ""
    url: str = ""
    model_name: str = ""
    """The model's name to be shown; its id if it is empty."""
    owner: str = ""
    """Who made the model; the creator's name if it is empty."""
    instruct: bool = False
    """Whether the model follows instructions."""
    repository: str = ""
    """Of the weights on the Hub."""
    dataset: str = ""
    explained_by: str = ""
    """The name of the kind of explanations, which the site has to know."""
    explaining_model: str = ""
    created: str = field(factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """An ISO time."""

    def __attrs_post_init__(self) -> None:
        problems = [
            *model_id_problems(self.model_id, "model_id"),
            *set_name_problems(self.source_set, "source_set"),
            *body_problems("new-model", self.new_model(1), "listing"),
            *body_problems("new-source-set", self.new_source_set(), "listing"),
        ]
        if problems:
            raise AnalysisError(f"Neuronpedia does not take these names: {listed(list(dict.fromkeys(problems)))}")

    def new_model(self, layers: int) -> dict[str, Any]:
        """The body of `POST /api/model/new`."""
        return {"id": self.model_id, "layers": layers, "displayName": self.model_name or self.model_id, **self._url()}

    def new_source_set(self) -> dict[str, Any]:
        """The body of `POST /api/source-set/new`, which makes one source for each layer."""
        described = {"description": self.description} if self.description else {}
        return {"name": self.source_set, "modelId": self.model_id, **described, **self._url()}

    def heads(self, source: Source, *, layers: int, prompts: int, prompt_tokens: int, notes: str) -> Mapping[str, Any]:
        """The lines of `release.jsonl`, `model.jsonl`, `sourceset.jsonl` and `source.jsonl` of one source."""
        title, name = self.title or self.source_set, self.model_name or self.model_id
        common = {"creatorId": self.creator_id, "createdAt": self.created, "visibility": "PUBLIC"}
        release = f"{self.model_id}-{self.source_set}"
        urls = [self.url] if self.url else []
        return {
            "release": {
                **common,
                "name": release,
                "description": title,
                "descriptionShort": title,
                "creatorName": self.creator_name,
                "creatorNameShort": self.creator_name,
                "urls": urls,
                "defaultSourceSetName": self.source_set,
            },
            "model": {
                **common,
                "id": self.model_id,
                "displayName": name,
                "displayNameShort": name,
                "owner": self.owner or self.creator_name,
                "instruct": self.instruct,
                "layers": layers,
                "neuronsPerLayer": 0,
                "updatedAt": self.created,
            },
            "sourceset": {
                **common,
                "modelId": self.model_id,
                "name": self.source_set,
                "creatorName": self.creator_name,
                "description": self.description or title,
                "releaseName": release,
                "hasDashboards": True,
                "urls": urls,
            },
            "source": {
                **common,
                "id": source.name(self.source_set, self.suffix),
                "modelId": self.model_id,
                "setName": self.source_set,
                "hfRepoId": self.repository or None,
                "num_prompts": prompts,
                "num_tokens_in_prompt": prompt_tokens,
                "dataset": self.dataset or None,
                "notes": notes,
                "hasDashboards": True,
            },
        }

    def _url(self) -> dict[str, str]:
        return {"url": self.url} if self.url else {}
