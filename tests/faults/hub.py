"""Answers of a hub, damaged on their way: what is fetched is what was pushed, or refused and not kept."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

# The Hub's client reads its environment when it is imported.
if "HF_ENDPOINT" not in os.environ:
    from hub_server import HubServer

    _server = HubServer()
    os.environ.update(
        HF_ENDPOINT=_server.url,
        HF_HOME=tempfile.mkdtemp(prefix="crosscoders-faults-hub-"),
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HUB_ETAG_TIMEOUT="2",
        HF_HUB_DOWNLOAD_TIMEOUT="2",
    )
    _server.start()
else:
    _server = None

import torch

from crosscoders import Crosscoder, Site, build_crosscoder
from faults.judge import judge
from faults.mutate import Mutator


class HubAnswers:
    """A repository whose every answer, in turn, may be changed."""

    def __init__(self, scratch: Path, server: Any = None) -> None:
        self.server = server or _server
        crosscoder = build_crosscoder("acausal", (Site("m/a", 6), Site("m/b", 5)), num_latents=12)
        with torch.no_grad():
            for parameter in crosscoder.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(0))
        self.x_BX = torch.randn(16, 11, generator=torch.Generator().manual_seed(1))
        crosscoder.push_to_hub("alice/damaged", token="hf_alice")
        self.expected = self._use(crosscoder)

    def _use(self, crosscoder: Crosscoder) -> Any:
        return crosscoder.encode(self.x_BX).dense(), crosscoder(self.x_BX)

    def _same(self, found: Any) -> bool:
        return all(map(torch.equal, found, self.expected))

    def run(self, seed: int) -> str:
        mutator = Mutator(seed)
        which, answers = mutator.random.randrange(8), [0]

        def change(body: bytes) -> bytes:
            answers[0] += 1
            if answers[0] - 1 != which:
                return body
            return mutator.json(body) if body[:1] in b"[{" else mutator.raw(body)

        self.server.change = change
        try:
            found = judge(lambda: self._use(Crosscoder.from_pretrained("alice/damaged")), self._same, 10_000)
        finally:
            self.server.change = None
        if found == "refused" and mutator.random.random() < 0.1:
            # What was damaged is not left in the cache: the next try succeeds.
            again = judge(lambda: self._use(Crosscoder.from_pretrained("alice/damaged")), self._same, 10_000)
            found = found if again == "same" else f"KEPT {again}"
        shutil.rmtree(Path(os.environ["HF_HOME"]) / "hub" / "models--alice--damaged", ignore_errors=True)
        return found
