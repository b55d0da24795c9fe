"""Saving, loading and pushing as methods of the crosscoder; the work is done in `checkpoints`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from ..plugins.registry import Registry
from ..processes import ALONE, Processes

if TYPE_CHECKING:
    from .module import Crosscoder


class Shareable:
    """What a crosscoder can do with folders and the Hub."""

    def save_pretrained(self, folder: str | Path, *, registry: Registry | None = None) -> Path:
        """Write `config.json`, `model.safetensors` and a README card with figures into `folder`.

        `registry` is where a gate that is not the host's own is looked up.
        """
        from ..checkpoints.checkpoint import save_crosscoder

        return save_crosscoder(cast("Crosscoder", self), Path(folder), registry=registry)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        format: str = "",
        revision: str | None = None,
        subfolder: str = "",
        sites: Mapping[str, str] | Sequence[str] = (),
        normalisation: str | Mapping[str, float] | None = None,
        answers: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        registry: Registry | None = None,
        processes: Processes = ALONE,
    ) -> Crosscoder:
        """Load a crosscoder, ours or another library's, from a folder, a Hub id, or a name of `pretrained()`.

        `name` may be `owner/name:folder`. Another library's format is found by what is in the files, or given. What
        they do not say is answered by `sites` (slot to site, or in order), `normalisation` (`"none"`, or what each
        site's activations are multiplied by; else it stays unknown) and `answers`; see `crosscoders inspect`.
        """
        from ..checkpoints.pretrained import Place, load_pretrained, make_answers

        place = Place(
            name=str(name),
            subfolder=subfolder,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        given = make_answers(sites, normalisation, answers)
        return load_pretrained(
            place, given, format=format, dtype=dtype, device=device, registry=registry, processes=processes
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        tag: str = "",
        branch: str = "",
        create_pr: bool = False,
        licence: str = "",
        datasets: Sequence[str] = (),
        base_models: Sequence[str] = (),
        commit_message: str = "Upload crosscoder",
        dashboard: str | Path | None = None,
        dashboard_space: str = "",
        token: str | bool | None = None,
    ) -> str:
        """Upload to the Hub in one commit, on a branch or as a pull request if asked; returns its URL.

        `licence`, `datasets` and `base_models` go into the card's head. `dashboard` is a folder that `write_dashboard`
        wrote: it goes into the repository's folder `dashboard`, or into the static Space `dashboard_space`, which is
        made if it is missing, and the card links to it. `CheckpointError` says what is wrong with a folder, and what
        the Hub refuses.
        """
        from ..checkpoints.pretrained import Publication, push_pretrained

        publication = Publication(
            private=private,
            tag=tag,
            branch=branch,
            create_pr=create_pr,
            licence=licence,
            datasets=datasets,
            base_models=base_models,
            commit_message=commit_message,
            dashboard=None if dashboard is None else Path(dashboard),
            dashboard_space=dashboard_space,
        )
        return push_pretrained(cast("Crosscoder", self), repo_id, publication, token=token)
