"""Sparse products and selection against naive versions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscoders import ConfigError, Latents
from crosscoders.kernels import batch_topk, operations, reference, row_dots, sparse_decode, sparse_encode


@st.composite
def cases(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 6)))
    return (*shape, draw(st.floats(0.0, 1.0)), draw(st.integers(0, 10_000)))


def latents_of(num_tokens, num_latents, density, generator):
    f_BF = torch.rand(num_tokens, num_latents, generator=generator, dtype=torch.float64) + 0.1
    keep_BF = torch.rand(num_tokens, num_latents, generator=generator) < density
    return Latents.of_mask(keep_BF, f_BF), f_BF * keep_BF


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
    latents = Latents.of_mask(dense > 0, dense)
    assert latents.l0 == 1.0 and latents.fired_F.tolist() == [True, True, True]
    assert torch.equal(latents.of_group(slice(1, 3)).dense(), dense[:, 1:])
    assert torch.equal(Latents.concatenate([latents, latents]).dense(), torch.cat([dense, dense]))
    assert latents.by_latent.tolist() == [2, 0, 1]


# -- Triton kernels: on a GPU as they are, elsewhere by Triton's interpreter ------------------------------------------

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def gpu():
    """The kernels, compiled where there is a GPU."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from crosscoders.kernels import gpu

    return gpu


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_triton_kernels_agree_with_the_reference(gpu, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    num_tokens, num_latents, width = (int(torch.randint(1, high, (), generator=generator)) for high in (9, 12, 1500))
    latents, _ = latents_of(num_tokens, num_latents, [0.0, 0.3, 1.0][seed % 3], generator)
    # Columns of a wider tensor: rows are not next to each other.
    x = torch.randn(num_tokens, width + 3, generator=generator, dtype=dtype)[:, :width].to(DEVICE)
    W = torch.randn(num_latents, width, generator=generator, dtype=dtype).to(DEVICE)
    token, latent, weight = latents.token_N.to(DEVICE), latents.latent_N.to(DEVICE), latents.value_N.to(DEVICE, dtype)
    starts = latents.token_starts_B.to(DEVICE)
    close = {"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {}
    for operation, arguments in [
        ("weighted_row_sums", (W, latent, weight, starts)),
        ("weighted_row_sums", (x.contiguous(), token, weight, torch.zeros(3, dtype=torch.int64, device=DEVICE))),
        ("row_dots", (x, W, token, latent, starts)),
    ]:
        found = getattr(gpu, operation)(*arguments)
        torch.testing.assert_close(found, getattr(reference, operation)(*arguments), **close)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_triton_compaction_agrees_with_the_reference(gpu, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (int(torch.randint(0 if high == 40 else 1, high, (), generator=generator)) for high in (40, 300))
    score_FB = torch.randn(rows, columns, generator=generator).to(DEVICE, dtype)
    floor_F = (torch.rand(rows, generator=generator) + [-9, 0, 1, 9][seed % 4]).to(DEVICE)
    for found, expected in zip(gpu.survivors(score_FB, floor_F), reference.survivors(score_FB, floor_F), strict=True):
        assert torch.equal(found, expected)


def test_a_training_step_is_the_same_with_triton(gpu, monkeypatch):
    """Selection, decode and both weight gradients together, in fp32 and with bf16 pre-selection."""
    from crosscoders import Crosscoder, LatentGroup, LossChoice, Site, StepContext, Wiring
    from crosscoders.initialise import initialise

    sites = (Site("a/x", 10), Site("b/x", 6))
    groups = (LatentGroup("a", 8, ["a/x"], ["a/x", "b/x"]), LatentGroup("both", 16, ["a/x", "b/x"], ["b/x"]))
    x_BX = torch.randn(32, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    step = StepContext(
        step=0, total_steps=9, warmed_up=True, num_tokens=32, dead_F=(torch.arange(24) % 3 == 0).to(DEVICE)
    )
    results = []
    for kernels, preselect in [("reference", "fp32"), ("triton", "fp32"), ("triton", "bf16")]:
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
    assert operations(torch.zeros(1)) is reference
    monkeypatch.setenv("CROSSCODERS_KERNELS", "cuda")
    with pytest.raises(ConfigError, match="'reference' or 'triton'"):
        operations(torch.zeros(1))
