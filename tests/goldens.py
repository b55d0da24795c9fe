"""Golden cases: files written by other libraries, with inputs, latents and reconstructions computed by their code."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from crosscoders import CheckpointError, Crosscoder
from crosscoders.authoring import Answers, Source
from crosscoders.checkpoints.foreign import find

LAYERS_FIRST = ("cr_clt", "cr_plt", "gs2")
"""Families whose arrays have the layer before the token."""


@dataclass
class Outcome:
    """What became of a case: `exact`, `refused` or `different`."""

    kind: str
    text: str = ""
    f_error: float = 0.0
    x_error: float = 0.0


def cases(folder):
    """The folders of cases under `folder`, as PEER/CASE."""
    return sorted(path.parent.relative_to(folder).as_posix() for path in Path(folder).glob("*/*/golden.safetensors"))


def load(case, **options):
    """The crosscoder of a case, whatever it does not say answered."""
    options.setdefault("normalisation", "none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Crosscoder.from_pretrained(case / "files", **answered(case), **options)


def answered(case):
    """What a user of the case would answer."""
    others = {}
    if "mixed" in case.name:
        others = {"alpha_sae": 0.6, "alpha_cc": 0.4}
    if case.parent.name == "gs1":
        others = {"kind": "transcoder"}
    plan = find(Source.of(case / "files")).inspect(Answers(others=others))
    sites = {slot.key: f"model/{slot.key.replace(' ', '-')}" for slot in plan.unnamed}
    return {"sites": sites, "answers": others}


def _by_token(value, layers_first):
    """(token, place, width) of an array with or without places, and with models and points apart."""
    if value.dim() == 2:
        return value[:, None]
    if value.dim() == 4:
        return value.flatten(1, 2)
    return value.transpose(0, 1) if layers_first else value


@torch.no_grad()
def compare(case, crosscoder):
    """The largest differences of f and of x̂, relative to the largest values, and whether the same latents fire."""
    golden = load_file(case / "golden.safetensors")
    first = case.parent.name in LAYERS_FIRST
    x, f, x_hat = (_by_token(golden[key], first) for key in ("x", "f", "x_hat"))
    if "x_hat_reloaded" in golden and case.name == "skip_lost":  # what its library itself makes of the file
        x_hat = golden["x_hat_reloaded"].transpose(0, 1)
    places = dict(zip(crosscoder.wiring.read.names, x.unbind(1), strict=True))
    latents = crosscoder.encode(places)
    expected = f.flatten(1)
    if expected.shape[1] != crosscoder.num_latents:  # a latent for each head of which all are the same
        torch.testing.assert_close(f[:, 0], f[:, -1])
        expected = f[:, 0]
    ours = latents.dense()
    written = torch.stack(list(crosscoder.split(crosscoder(places)).values()), dim=1)
    f_error = float((ours - expected).abs().max() / expected.abs().max())
    x_error = float((written - x_hat).abs().max() / x_hat.abs().max())
    return f_error, x_error, bool(((ours > 0) == (expected > 0)).all())


def outcome(case):
    """Load and compare a case."""
    try:
        crosscoder = load(case)
    except CheckpointError as error:
        return Outcome("refused", str(error))
    f_error, x_error, same = compare(case, crosscoder)
    bf16 = "bf16" in case.name
    tolerance = 3e-2 if bf16 else 1e-5
    exact = f_error <= tolerance and x_error <= tolerance and (same or bf16)
    return Outcome("exact" if exact else "different", "" if same else "gates differ", f_error, x_error)


if __name__ == "__main__":
    import sys

    root = Path(sys.argv[1])
    for name in cases(root):
        if len(sys.argv) > 2 and not name.startswith(tuple(sys.argv[2:])):
            continue
        try:
            found = outcome(root / name)
        except Exception as error:
            found = Outcome("CRASH", f"{type(error).__name__}: {error}")
        print(f"{name:40s} {found.kind:10s} f {found.f_error:.1e} x {found.x_error:.1e}  {found.text[:150]}")
