"""Studies over short texts with crosscoders of random weights, and what stands in the files of a dashboard."""

import base64
import gzip
import json
import re

import numpy as np
import torch

from crosscoders import Study, Text, build_crosscoder
from crosscoders.activations.harvest import resolve_sites
from study_of_texts import WORDS, adapters, shared_study


class ShortTexts:
    """Documents of a few words, several to a row."""

    def documents(self, *, skip=0):
        for number in range(skip, 120):
            order = torch.randperm(len(WORDS), generator=torch.Generator().manual_seed(number)).tolist()
            yield Text(" ".join(WORDS[i] for i in order[: 3 + number % 6]))


def random_study(architecture, sites, num_latents, **options):
    """A crosscoder of random weights that fires on some tokens, over the texts of the shared study."""
    crosscoder = build_crosscoder(architecture, resolve_sites(adapters(), sites).sites, num_latents=num_latents)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in crosscoder.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
            if name == "b_enc_F":
                parameter.sub_(3.0)
    config = shared_study().activations
    study = Study(crosscoder, adapters(), ShortTexts(), activations=config, num_tokens=960, **options)
    study.crosscoder.normaliser.set_scales(dict(zip(sites, (0.5, 0.25, 0.3, 0.2))))
    return study


def put(folder, name):
    """The JSON that a script of `cc.put` hands over."""
    text = (folder / "data" / f"{name}.js").read_text(encoding="utf-8")
    return json.loads(re.fullmatch(rf'cc\.put\("{name}", (.*)\);\n', text, re.DOTALL)[1])


def packed(folder, name):
    """The bytes that a script of `cc.pack` hands over."""
    text = (folder / "data" / f"{name}.js").read_text(encoding="ascii")
    return gzip.decompress(base64.b64decode(re.fullmatch(rf'cc\.pack\("{name}", "([A-Za-z0-9+/=]*)"\);\n', text)[1]))


def columns(folder):
    """The columns by key, as the facts say."""
    facts, content, found = put(folder, "facts"), packed(folder, "columns"), {}
    rows = len(facts["latents"]) if facts["latents"] is not None else facts["num_latents"]
    for column in facts["columns"]:
        kind = np.dtype({"f4": "<f4", "u1": "u1"}[column["type"]])
        found[column["key"]] = np.frombuffer(content[: rows * kind.itemsize], kind)
        content = content[rows * kind.itemsize :]
    assert not content
    return found


def files(folder):
    """Everything in a folder, by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
