"""What was read from other libraries goes where ours goes: saved, pushed, pulled, analysed, looked at, exported."""

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from crosscoders import CheckpointError, Crosscoder, analyse, get_registry
from crosscoders.checkpoints.foreign import check_export
from crosscoders.cli import main
from crosscoders_adapters.synthetic import PlantedAdapter
from goldens import REFUSED, answered, cases, load

DATA = Path(__file__).parent.parent / "data" / "goldens"
WRITTEN = ("saelens", "circuit_tracer_clt", "circuit_tracer_plt", "crosscoder_learning", "ckkissane")
ONE_OF_EACH = (
    "cf/cross_fp32",
    "cg/jumprelu_per_target_connection",
    "ck/fp32_hub",
    "cr_clt/relu_bf16",
    "cr_plt/topk_skip",
    "go/plt_jumprelu_unfolded",
    "gs1/transcoder_npz",
    "gs2/clt_affine",
    "om/crosscoder_relu",
    "saelens/gated_sub",
    "sf/btk_norm_crosscoder_compiled_pt",
    "sm_pypi/MatryoshkaBatchTopKSAE",
    "sp/sae_topk_unit",
    "xc/clt_relu_skip",
)


class Anything(PlantedAdapter):
    """A model with the points of a crosscoder, whose activations are random numbers by token."""

    def __init__(self, widths):
        self.widths = widths

    def describe(self):
        return {"adapter": "anything", "model": "anything", "revision": "1"}

    def points(self):
        return tuple(self.widths)

    def point_width(self, point):
        return self.widths[point]

    def sample(self, points, ids_B):
        def noise(number, point):
            return torch.randn(self.widths[point], generator=torch.Generator().manual_seed(number % 997))

        return {point: torch.stack([noise(int(number), point) for number in ids_B]) for point in points}


def command(*arguments):
    """The output of a command that must succeed."""
    found = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert found.exit_code == 0, (arguments, found.output)
    return found.output


def travel(case, scratch):
    """One case through everything; the local Hub server stands for the Hub."""
    made = load(case)
    x_BX = torch.randn(16, made.layout.width, generator=torch.Generator().manual_seed(0))
    repository = f"alice/{case.parent.name}-{case.name}"
    made.push_to_hub(repository, token="hf_alice")
    again = Crosscoder.from_pretrained(repository)
    for one, other in zip(made.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), case
    assert torch.equal(made.encode(x_BX).dense(), again.encode(x_BX).dense())
    assert torch.equal(made(x_BX), again(x_BX))
    assert again.info.origin == json.loads(json.dumps(made.info.origin))
    assert again.info.origin["folder"] == "files" and again.info.origin["sha256"]

    widths: dict[str, dict[str, int]] = {}
    for site in again.sites:
        widths.setdefault(site.model, {})[site.point] = site.width
    models = {key: Anything(points) for key, points in widths.items()}
    tokens = {"name": "synthetic", "length": 16}
    (report,) = analyse(again, ["decoder_norms"], models=models, tokens=tokens, num_tokens=64)
    assert report.data

    assert "came from files" in command("info", repository)
    assert "came from files" in command("inspect", repository)
    exported = 0
    for target in WRITTEN:
        try:
            check_export(again, target)
        except CheckpointError:
            continue
        folder = scratch / f"{case.parent.name}-{case.name}-{target}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            command("convert", repository, folder, "--to", target)
            back = Crosscoder.from_pretrained(folder, **sites_of(folder, again))
        torch.testing.assert_close(back(x_BX), again(x_BX), rtol=1e-4, atol=1e-4)
        exported += 1
    return exported


def sites_of(folder, crosscoder):
    """The sites of an exported folder that has the same sites in the same order."""
    found = answered(folder.parent / folder.name, files=folder)
    found["sites"] = dict(zip(found["sites"], crosscoder.layout.names, strict=False))
    return {**found, "normalisation": "none"}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_case_of_each_kind_travels(name, hub, tmp_path):
    travel(DATA / name, tmp_path)


def test_all_goldens_of_the_environment_travel(hub, tmp_path):
    root = os.environ.get("CROSSCODERS_GOLDENS")
    if not root:
        pytest.skip("CROSSCODERS_GOLDENS names no folder of golden cases")
    held = [name for name in cases(root) if name not in REFUSED]
    exported = sum(travel(Path(root) / name, tmp_path) for name in held)
    print(f"{len(held)} cases travelled, {exported} exports were read back")


def test_every_writer_is_among_them():
    assert set(WRITTEN) <= set(get_registry().checkpoint_formats)
