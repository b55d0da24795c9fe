"""Golden cases: files written by other libraries, with inputs, latents and reconstructions computed by their code.

`python tests/goldens.py FOLDER [PEER/CASE ...]` prints what becomes of each.
"""

import sys
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
REFUSED = {
    "cg/batchtopk_untied": "batchtopk without thresholds",
    "cg/jumprelu_per_target_offset_scale": "feature_offset",
    "ct/clt": "post_encs",
    "ct/clt_divide": "post_encs",
    "ct/clt_skip": "post_encs",
    "ct/clt_source_tied": "post_encs",
    "ct/plt_skip": "post_enc",
    "jk/btk_norm_decoupled_pt": "DECOUPLED",
    "sf/btk_norm_decoupled_hub": "DECOUPLED",
    "om/crosscoder_batchtopk": "each head by itself",
    "om/crosscoder_topk": "each head by itself",
    "om/crosscoder_topk_inference": "each head by itself",
    "saelens/abstopksae": "negative",
    "saelens/matchingpursuitsae": "one after another",
    "saelens/standard_constant_norm_rescale": "each token by itself",
    "xc/acausal_batchtopk_folded": "in the batch",
    "xc/acausal_topk_folded": "negative",
}
"""What no crosscoder of ours can hold, and a part of the reason that is given."""
MIXED = {"alpha_sae": 0.6, "alpha_cc": 0.4}
OTHERS = {
    "cr_plt/topk_skip": {"gate": "topk", "k": 4},
    "gs1/transcoder_npz": {"kind": "transcoder"},
    "sf/btk_norm_mixed_pt": MIXED,
}
"""What files do not say, beside sites and scales."""
BAD = {
    "cfg_says_other_size": "32.*24",
    "config_of_other_class": "os.system",
    "cut_short": "damaged or incomplete",
    "half_nan_mean": "NaN",
    "id_and_config_disagree": "CROSSCODER.*SAE",
    "layer_missing": "W_dec_1.safetensors",
    "nan_weight": "decoder.weight.*1 values that are NaN",
    "no_activation_buffers": "activation_mean",
    "no_threshold": "no tensor 'threshold'",
    "pickle_numpy_scalar": "numpy._core.multiarray.scalar",
    "pickle_runs_code": "asks for 'print'",
    "threshold_missing_in_one_layer": "threshold_1",
    "unknown_tensor": "something.new",
    "yaml_object_tag": "os.system",
}
"""Damaged folders and a part of the message. The others in `bad/` are odd but sound."""


@dataclass
class Outcome:
    """What became of a case: `exact`, `refused` or `different`."""

    kind: str
    text: str = ""
    f_error: float = 0.0
    x_error: float = 0.0


def cases(folder):
    """The cases under `folder`, as PEER/CASE."""
    return sorted(path.parent.relative_to(folder).as_posix() for path in Path(folder).glob("*/*/golden.safetensors"))


def load(case, *, files=None, **options):
    """The crosscoder of a case, whatever it does not say answered; `files` may stand in for its own."""
    options.setdefault("normalisation", "none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Crosscoder.from_pretrained(files or case / "files", **answered(case, files), **options)


def others(case):
    """What a user of the case would answer beside sites."""
    return OTHERS.get(case.parent.name + "/" + case.name, {})


def answered(case, files=None):
    """All that a user of the case would answer."""
    plan = find(Source.of(files or case / "files")).inspect(Answers(others=others(case)))
    sites = {slot.key: "model/" + slot.key.replace(" ", "-") for slot in plan.unnamed}
    return {"sites": sites, "answers": others(case)}


def arrays(case):
    """x, f and x̂ as (token, place, width)."""
    golden = load_file(case / "golden.safetensors")
    if case.name == "skip_lost":  # what its library itself makes of the file
        golden["x_hat"] = golden["x_hat_reloaded"]
    by_token = []
    for key in ("x", "f", "x_hat"):
        value = golden[key]
        if value.dim() == 2:
            value = value[:, None]
        elif value.dim() == 4:  # models and hook points
            value = value.flatten(1, 2)
        elif case.parent.name in LAYERS_FIRST:
            value = value.transpose(0, 1)
        by_token.append(value)
    x, f, x_hat = by_token
    if case.name == "topk_skip":  # its own topk keeps the k largest even below 0, which no latent here can be
        above = (f >= 0).flatten(1).all(dim=1)
        assert above.float().mean() > 0.5
        x, f, x_hat = x[above], f[above], x_hat[above]
    if case.parts[-2] == "om" and "crosscoder" in case.name:  # a number for each head, of which all are the same
        torch.testing.assert_close(f[:, 0], f[:, -1])
        f = f[:, :1]
    return x, f, x_hat


@torch.no_grad()
def outcome(case):
    """Load and compare a case."""
    try:
        crosscoder = load(case)
    except CheckpointError as error:
        return Outcome("refused", str(error))
    x, f, x_hat = arrays(case)
    places = dict(zip(crosscoder.wiring.read.names, x.unbind(1), strict=True))
    ours, expected = crosscoder.encode(places).dense(), f.flatten(1).float()
    written = torch.stack(list(crosscoder.split(crosscoder(places)).values()), dim=1)
    same_BF = (ours > 0) == (expected > 0)
    text = ""
    if "bf16" in case.name and not bool(same_BF.all()):
        # Their products are rounded to bf16, so what lies at the threshold may fall on either side.
        text = f"{int((~same_BF).sum())} of {same_BF.numel()} gates at the threshold"
        near = _distance(crosscoder, places)[~same_BF]
        same_B = same_BF.all(dim=1)
        ours, expected, written, x_hat = ours[same_B], expected[same_B], written[same_B], x_hat[same_B]
        same_BF = near < 0.02
    f_error = float((ours - expected).abs().max() / expected.abs().max())
    x_error = float((written - x_hat).abs().max() / x_hat.abs().max())
    tolerance = 3e-2 if "bf16" in case.name else 1e-5
    exact = max(f_error, x_error) <= tolerance and bool(same_BF.all())
    return Outcome("exact" if exact else "different", text, f_error, x_error)


def _distance(crosscoder, places):
    """How far pre-activations are from the threshold, relative to the largest."""
    packed = {**{s.name: torch.zeros(len(next(iter(places.values()))), s.width) for s in crosscoder.sites}, **places}
    pre_BF = crosscoder.pre_activations(crosscoder.normalised(packed))
    threshold_F = crosscoder.gate.threshold_F if crosscoder.gate.name == "jumprelu" else torch.zeros(())
    return (pre_BF - threshold_F).abs() / pre_BF.abs().max()


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for name in cases(root):
        if len(sys.argv) > 2 and not name.startswith(tuple(sys.argv[2:])):
            continue
        found = outcome(root / name)
        print(f"{name:40s} {found.kind:10s} f {found.f_error:.1e} x {found.x_error:.1e}  {found.text}")
