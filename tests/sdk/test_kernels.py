"""Sparse products and selection against naive versions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscoders import Latents
from crosscoders.kernels import batch_topk, row_dots, sparse_decode, sparse_encode, survivors, weighted_row_sums


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
    out = weighted_row_sums(torch.ones(3, 2), torch.tensor([2]), torch.tensor([5.0]), torch.tensor([0, 0, 1, 1]))
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
@given(st.integers(0, 9), st.integers(1, 40), st.floats(-1, 3), st.integers(0, 10_000), st.booleans())
def test_survivors_are_the_entries_above_their_floor(rows, columns, floor, seed, bf16):
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if bf16 else torch.float32
    score_BF = torch.randn(rows, columns, generator=generator).to(dtype)
    floor_F = (floor + torch.rand(columns, generator=generator)).to(dtype)
    place_N, value_N = survivors(score_BF, floor_F)
    expected_BF = score_BF > floor_F
    assert torch.equal(place_N, expected_BF.view(-1).nonzero().squeeze(1))
    assert torch.equal(value_N, score_BF[expected_BF])


def test_latents_select_groups_and_join():
    dense = torch.tensor([[0.0, 1, 2], [3, 0, 0], [0, 0, 0]])
    latents = Latents.of_mask(dense > 0, dense)
    assert latents.l0 == 1.0 and latents.fired_F.tolist() == [True, True, True]
    assert torch.equal(latents.of_group(slice(1, 3)).dense(), dense[:, 1:])
    assert torch.equal(Latents.concatenate([latents, latents]).dense(), torch.cat([dense, dense]))
    assert latents.by_latent.tolist() == [2, 0, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_kernels_agree_on_the_gpu():
    generator = torch.Generator().manual_seed(0)
    latents, f_BF = latents_of(64, 128, 0.1, generator)
    W = torch.randn(128, 16, generator=generator, dtype=torch.float64)
    there = Latents(latents.token_N.cuda(), latents.latent_N.cuda(), latents.value_N.cuda(), 64, 128)
    torch.testing.assert_close(sparse_decode(there.value_N, W.cuda(), there).cpu(), f_BF @ W)
