"""Sparse products and selection against naive versions."""

import itertools
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscoders import ConfigError, Latents
from crosscoders.kernels import (
    batch_topk,
    native,
    operations,
    reference,
    row_dots,
    sparse_decode,
    sparse_encode,
    sum_of_squares,
)
from crosscoders.kernels.topk import _without_waiting


@st.composite
def cases(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 6)))
    return (*shape, draw(st.floats(0.0, 1.0)), draw(st.integers(0, 10_000)))


def latents_of(num_tokens, num_latents, density, generator):
    f_BF = torch.rand(num_tokens, num_latents, generator=generator, dtype=torch.float64) + 0.1
    keep_BF = torch.rand(num_tokens, num_latents, generator=generator) < density
    return Latents.from_mask(keep_BF, f_BF), f_BF * keep_BF


@settings(max_examples=60, deadline=None)
@given(cases())
def test_sparse_products_and_gradients_equal_dense(case):
    num_tokens, num_latents, width, density, seed = case
    generator = torch.Generator().manual_seed(seed)
    latents, f_BF = latents_of(num_tokens, num_latents, density, generator)
    W = torch.randn(num_latents, width, generator=generator, dtype=torch.float64)
    x = torch.randn(num_tokens, width, generator=generator, dtype=torch.float64)
    b = torch.randn(num_latents, generator=generator, dtype=torch.float64)
    assert torch.equal(latents.dense(), f_BF)

    value, table = latents.value_N.clone().requires_grad_(), W.clone().requires_grad_()
    out = sparse_decode(value, table, latents)
    torch.testing.assert_close(out, f_BF @ W)
    (out * x).sum().backward()
    torch.testing.assert_close(table.grad, f_BF.T @ x)
    torch.testing.assert_close(value.grad, (x @ W.T)[latents.token_N, latents.latent_N])

    pre_BF = x @ W.T + b
    latents = Latents(
        latents.token_N, latents.latent_N, pre_BF[latents.token_N, latents.latent_N], num_tokens, num_latents
    )
    x_, W_, b_ = (t.clone().requires_grad_() for t in (x, W, b))
    values = sparse_encode(x_, W_, b_, latents)
    assert torch.equal(values, latents.value_N)
    weight = torch.randn(len(values), generator=generator, dtype=torch.float64)
    (values * weight).sum().backward()
    dense_weight = torch.zeros_like(pre_BF).index_put((latents.token_N, latents.latent_N), weight)
    torch.testing.assert_close(W_.grad, dense_weight.T @ x)
    torch.testing.assert_close(b_.grad, dense_weight.sum(0))
    torch.testing.assert_close(x_.grad, dense_weight @ W)
    torch.testing.assert_close(row_dots(x, W, latents), (x @ W.T)[latents.token_N, latents.latent_N])


def test_empty_segments_sum_to_zero():
    out = reference.weighted_row_sums(
        torch.ones(3, 2), torch.tensor([2]), torch.tensor([5.0]), torch.tensor([0, 0, 1, 1])
    )
    assert out.tolist() == [[0, 0], [5, 5], [0, 0], [0, 0]]


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (5, 4)])
def test_sum_of_squares(shape, monkeypatch):
    monkeypatch.setattr("crosscoders.kernels.square_sum.AT_ONCE", 6)
    x = torch.randn(shape, dtype=torch.float64).requires_grad_()
    total = sum_of_squares(x)
    torch.testing.assert_close(total, x.square().sum())
    (3 * total).backward()
    torch.testing.assert_close(x.grad, 6 * x.detach())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 60), st.integers(1, 80), st.integers(0, 10_000), st.booleans())
def test_batch_topk_keeps_exactly_the_largest(number, count, seed, ties):
    score_N = torch.randn(number, generator=torch.Generator().manual_seed(seed)).relu()
    if ties:
        score_N = (score_N * 2).round() / 2
    keep_N, cut = batch_topk(score_N, count)
    positive = score_N[score_N > 0].sort(descending=True).values[:count]
    assert int(keep_N.sum()) == len(positive)
    assert torch.equal(score_N[keep_N].sort(descending=True).values, positive)
    assert float(cut) == (float(positive[-1]) if len(positive) else 0.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9), st.integers(0, 40), st.floats(-1, 3), st.integers(0, 10_000), st.booleans())
def test_survivors_are_the_entries_above_their_floor(rows, columns, floor, seed, bf16):
    generator = torch.Generator().manual_seed(seed)
    score_FB = torch.randn(rows, columns, generator=generator).to(torch.bfloat16 if bf16 else torch.float32)
    floor_F = floor + torch.rand(rows, generator=generator)
    if columns:
        floor_F[::2] = score_FB[::2, 0].float()  # what equals the floor is not above it
    expected_FB = score_FB > floor_F[:, None]
    found = reference.survivors(score_FB, floor_F)
    for tensor, expected in zip(found, [*expected_FB.nonzero().unbind(1), score_FB[expected_FB]], strict=True):
        assert torch.equal(tensor, expected)


def test_latents_select_groups_and_join():
    dense = torch.tensor([[0.0, 1, 2], [3, 0, 0], [0, 0, 0]])
    latents = Latents.from_mask(dense > 0, dense)
    assert latents.l0 == 1.0 and latents.fired_F.tolist() == [True, True, True]
    assert torch.equal(latents.in_group(slice(1, 3)).dense(), dense[:, 1:])
    assert torch.equal(Latents.concatenate([latents, latents]).dense(), torch.cat([dense, dense]))
    assert latents.by_latent.tolist() == [2, 0, 1]


# -- Triton kernels, on a GPU as they are, elsewhere by Triton's interpreter; and those in C -----------------------

NO_NATIVE = "there is no C compiler, or torch does not run on OpenMP"
NEEDS_NATIVE = pytest.mark.skipif(not native.available(), reason=NO_NATIVE)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=["native", "triton"])
def kernels(request):
    """An implementation, and the device that its tensors are on."""
    if request.param == "triton":
        pytest.importorskip("triton", reason="Triton is not installed")
        from crosscoders.kernels import gpu

        return gpu, DEVICE
    if not native.available():
        pytest.skip(NO_NATIVE)
    return native, "cpu"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_kernels_agree_with_the_reference(kernels, seed, dtype):
    kernels, device = kernels
    generator = torch.Generator().manual_seed(seed)
    num_tokens, num_latents, width = (int(torch.randint(1, high, (), generator=generator)) for high in (40, 12, 1500))
    if seed == 5:
        width = 1024  # whole blocks, and nothing besides
    latents, _ = latents_of(num_tokens, num_latents, [0.0, 0.3, 1.0][seed % 3], generator)
    # Columns of a wider tensor: rows are not next to each other.
    x = torch.randn(num_tokens, width + 3, generator=generator, dtype=dtype)[:, :width].to(device)
    W = torch.randn(num_latents, width, generator=generator, dtype=dtype).to(device)
    token, latent, weight = latents.token_N.to(device), latents.latent_N.to(device), latents.value_N.to(device, dtype)
    starts = latents.token_starts_B.to(device)
    latents = Latents(token, latent, weight, num_tokens, num_latents)
    close = {"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {}
    for operation, arguments in [
        ("weighted_row_sums", (W, latent, weight, starts)),
        ("weighted_row_sums", (x.contiguous(), token, weight, torch.zeros(3, dtype=torch.int64, device=device))),
        ("row_dots", (x, W, token, latent)),
        ("sums_and_dots", (x.contiguous(), W, weight, latents)),
        ("counted", (latent, num_latents)),
    ]:
        found, expected = (getattr(module, operation)(*arguments) for module in (kernels, reference))
        torch.testing.assert_close(found, expected, **close)


@pytest.mark.parametrize("width", [1, 31, 32, 1500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tables_are_rounded_and_their_errors_known(kernels, width, dtype):
    """To the nearest bf16; but Triton's interpreter, unlike GPUs, cuts digits off."""
    kernels, device = kernels
    table_RD = torch.randn(20, width + 3, generator=torch.Generator().manual_seed(width), dtype=dtype)[:, :width]
    table_RD = table_RD.to(device)
    rough_RD, norm_R, error_R = kernels.rounded(table_RD)
    expected = reference.rounded(table_RD)
    cuts = kernels.__name__.endswith("gpu") and device == "cpu"
    torch.testing.assert_close(rough_RD, expected[0], rtol=2**-7 if cuts else 0, atol=0)
    torch.testing.assert_close(norm_R, expected[1])
    torch.testing.assert_close(error_R, (rough_RD[:, :width].to(dtype) - table_RD).norm(dim=1))
    assert not bool(rough_RD[:, width:].any())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_compactions_agree_with_the_reference(kernels, seed, dtype):
    kernels, device = kernels
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (int(torch.randint(0 if high == 40 else 1, high, (), generator=generator)) for high in (40, 300))
    score_FB = torch.randn(rows, columns, generator=generator).to(device, dtype)
    # All of them, half, few or none.
    floor_F = (torch.rand(rows, generator=generator) + [-9, 0, 1, 9][seed % 4]).to(device)
    for found, expected in zip(
        kernels.survivors(score_FB, floor_F), reference.survivors(score_FB, floor_F), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(("number", "num_keys"), [(0, 0), (0, 5), (200, 1), (200, 7), (50, 300)])
def test_entries_are_grouped_by_their_keys(kernels, number, num_keys):
    kernels, device = kernels
    key_N = torch.randint(max(1, num_keys), (number,), generator=torch.Generator().manual_seed(0))
    order_N, starts_K = (part.tolist() for part in kernels.grouped(key_N.to(device), num_keys))
    keys = key_N.tolist()
    assert order_N == sorted(range(number), key=keys.__getitem__)
    assert starts_K == [sum(key < start for key in keys) for start in range(num_keys)]


@pytest.mark.parametrize("seed", range(6))
def test_a_selection_on_a_gpu_is_that_of_a_cpu(seed):
    """Few values, so that many are at the cut, of any sign; more places than positive scores, and none."""
    generator = torch.Generator().manual_seed(seed)
    score_N = torch.randint(-3, 6, (200,), generator=generator).float()
    if seed == 5:
        score_N.neg_().clamp_max_(0)
    for count in (1, 17, 60, 150, 200, 900):
        for found, expected in zip(_without_waiting(score_N, count), batch_topk(score_N, count), strict=True):
            assert torch.equal(found, expected), count
    assert [part.numel() for part in _without_waiting(score_N[:0], 3)] == [0, 1]


@NEEDS_NATIVE
def test_c_does_the_same_with_any_number_of_threads():
    generator = torch.Generator().manual_seed(0)
    score_FB = torch.randn(33, 500, generator=generator)
    W, x = torch.randn(33, 200, generator=generator), torch.randn(500, 200, generator=generator)
    latents = Latents.from_mask(score_FB.T > 1, score_FB.T)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(
            [
                *native.survivors(score_FB, torch.zeros(33)),
                *native.rounded(W),
                *native.sums_and_dots(x, W, latents.value_N, latents),
            ]
        )
    for other in found[1:]:
        assert all(torch.equal(first, second) for first, second in zip(found[0], other))


CHOICES = ["reference"] + ["native"] * native.available() + ["triton"] * (find_spec("triton") is not None)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_need_not_be_next_to_each_other(monkeypatch, choice, dtype):
    """A transposed decoder, and the gradient of a sum, which is one number for all."""
    monkeypatch.setenv("CROSSCODERS_KERNELS", choice)
    generator = torch.Generator().manual_seed(0)
    latents, f_BF = latents_of(5, 7, 0.5, generator)
    value_N, f_BF = latents.value_N.to(DEVICE, dtype).requires_grad_(), f_BF.to(DEVICE, dtype)
    latents = Latents(latents.token_N.to(DEVICE), latents.latent_N.to(DEVICE), value_N, 5, 7)
    W_XF = torch.randn(9, 7, generator=generator, dtype=dtype).to(DEVICE).requires_grad_()
    out_BX = sparse_decode(value_N, W_XF.T, latents)
    torch.testing.assert_close(out_BX, f_BF @ W_XF.T)
    out_BX.sum().backward()
    torch.testing.assert_close(W_XF.grad, f_BF.sum(0).expand(9, 7))
    torch.testing.assert_close(value_N.grad, W_XF.sum(0).detach()[latents.latent_N])


def test_a_training_step_is_the_same_with_all_kernels(monkeypatch):
    """Selection, decode and both weight gradients together, in fp32 and with bf16 pre-selection."""
    from crosscoders import Crosscoder, LatentGroup, LossChoice, Site, StepContext, Wiring
    from crosscoders.crosscoder.initialise import initialise

    sites = (Site("a/x", 10), Site("b/x", 6))
    groups = (LatentGroup("a", 8, ["a/x"], ["a/x", "b/x"]), LatentGroup("both", 16, ["a/x", "b/x"], ["b/x"]))
    x_BX = torch.randn(32, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    step = StepContext(
        step=0, total_steps=9, warmed_up=True, num_tokens=32, dead_F=(torch.arange(24) % 3 == 0).to(DEVICE)
    )
    results = []
    for kernels, preselect in itertools.product(CHOICES, ("fp32", "bf16")):
        monkeypatch.setenv("CROSSCODERS_KERNELS", kernels)
        crosscoder = Crosscoder(Wiring(sites=sites, groups=groups))
        initialise(crosscoder, decoder_norm=0.5, generator=torch.Generator().manual_seed(0))
        loss = LossChoice.of("batchtopk", k=3, preselect=preselect).build()
        loss.attach(crosscoder)
        terms = loss.to(DEVICE)(crosscoder.to(DEVICE), x_BX, step).terms
        sum(terms.values()).backward()
        results.append([*terms.values(), *(parameter.grad for parameter in crosscoder.parameters())])
    for other in results[1:]:
        for first, second in zip(results[0], other):
            torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-5)


def test_the_choice_of_kernels(monkeypatch):
    assert operations(torch.zeros(1)) is (native if native.available() else reference)
    monkeypatch.setenv("CROSSCODERS_KERNELS", "reference")
    assert operations(torch.zeros(1)) is reference
    monkeypatch.setenv("CROSSCODERS_KERNELS", "cuda")
    with pytest.raises(ConfigError, match="should be one of reference, native, triton"):
        operations(torch.zeros(1))


COMPILE = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
import torch
from crosscoders.kernels import native, operations
print(operations(torch.zeros(1)).__name__)
if native.available():
    print([part.tolist() for part in native.survivors(torch.tensor([[1.0, 3.0]]), torch.tensor([2.0]))])
"""


def compiled(tmp_path, **environment):
    """What a fresh process says of its kernels, with a cache of its own."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment}
    environment.pop("CROSSCODERS_KERNELS", None)
    return subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=True
    ).stdout.split("\n")


@NEEDS_NATIVE
@pytest.mark.slow
def test_kernels_are_compiled_once_and_kept(tmp_path):
    first = compiled(tmp_path)
    assert first[:2] == ["crosscoders.kernels.native", "[[0], [1], [3.0]]"]
    (kept,) = (tmp_path / "crosscoders").iterdir()
    made = kept.stat().st_mtime_ns
    assert compiled(tmp_path) == first and kept.stat().st_mtime_ns == made
    # Another process's folder cannot be written to: they work all the same.
    (tmp_path / "file").write_text("")
    found = compiled(tmp_path, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert "could not be cached" in found[0] and found[1:] == first


@NEEDS_NATIVE
def test_where_one_compiler_fails_another_is_tried(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    found = compiled(tmp_path, CC=str(broken))
    assert found[0].startswith(f"no compiled kernels by {broken}") and found[1] == "crosscoders.kernels.native"


def test_without_a_compiler_there_is_plain_pytorch(tmp_path):
    found = compiled(tmp_path, PATH="", CC="")
    assert found[:2] == ["no compiled kernels: no C compiler", "crosscoders.kernels.reference"]
