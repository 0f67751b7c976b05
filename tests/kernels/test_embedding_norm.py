import pytest
import torch
from fastgradnorm_kernels import embedding_norm, reference

from tests.support.kernel_support import (
    DEVICE,
    assert_within_budget,
    dtypes,
    embedding_oracle,
    far_apart,
    guarded,
    randn,
    scattered,
)

SHAPES = [
    pytest.param(2, 2, 16, 64, 40, id="one-tile"),
    pytest.param(3, 2, 45, 37, 60, id="ragged"),
    pytest.param(1, 1, 1, 1, 1, id="scalar"),
    pytest.param(1, 2, 100, 70, 50, id="many-slots"),
    pytest.param(2, 1, 70, 5, 2, id="few-tokens"),
]


def _tokens(N, T, vocabulary):
    return torch.randint(0, vocabulary, (N, T)).to(DEVICE)


@dtypes
@pytest.mark.parametrize("padding_idx", [None, 0])
@pytest.mark.parametrize("N, K, T, O, vocabulary", SHAPES)
def test_embedding_sq_norm(N, K, T, O, vocabulary, padding_idx, dtype):
    ids, g = _tokens(N, T, vocabulary), guarded(randn(N, K, T, O, dtype=dtype))
    actual = embedding_norm.embedding_sq_norm(ids, g, padding_idx)
    ref = reference.embedding_sq_norm(ids, g, padding_idx)
    assert_within_budget(actual, ref, embedding_oracle(ids, g, padding_idx), 2e-6)


def test_padding_inside_the_vocabulary():
    ids = torch.tensor([[3, 7, 3, 9, 7, 7]], device=DEVICE)
    g = guarded(randn(1, 2, 6, 4))
    actual = embedding_norm.embedding_sq_norm(ids, g, 7)
    ref = reference.embedding_sq_norm(ids, g, 7)
    assert_within_budget(actual, ref, embedding_oracle(ids, g, 7), 2e-6)


def test_nothing_but_padding():
    ids = torch.full((2, 20), 5, device=DEVICE)
    assert (embedding_norm.embedding_sq_norm(ids, randn(2, 2, 20, 4), 5) == 0).all()


def test_as_many_positions_as_a_table_of_relative_ones_has():
    """Ids are sorted: a comparison of each with each would be of a hundred million here."""
    ids = torch.randint(-40, 1 << 40, (2, 2000))[:, torch.arange(10_000) % 2000]
    g = randn(2, 2, 10_000, 1, dtype=torch.float64)
    actual = reference.embedding_sq_norm(ids, g)
    expected = [
        torch.stack([g[i, k, :, 0].view(5, 2000).sum(0).square().sum() for k in (0, 1)])
        for i in (0, 1)
    ]
    torch.testing.assert_close(actual, torch.stack(expected))


def test_narrow_ids():
    ids, g = _tokens(2, 9, 6), randn(2, 1, 9, 4)
    expected = embedding_norm.embedding_sq_norm(ids, g)
    assert torch.equal(embedding_norm.embedding_sq_norm(ids.int(), g), expected)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)], ids=str)
def test_nothing_to_sum(shape):
    N, K, T, O = shape
    actual = embedding_norm.embedding_sq_norm(_tokens(N, T, 7), randn(N, K, T, O))
    assert actual.shape == (N, K)
    assert (actual == 0).all()


def test_strides():
    ids, g = _tokens(2, 9, 6), randn(2, 3, 9, 5)
    expected = embedding_norm.embedding_sq_norm(ids, g)
    assert torch.equal(
        embedding_norm.embedding_sq_norm(ids.T.contiguous().T, scattered(g)), expected
    )


@pytest.mark.slow
def test_beyond_32_bits():
    ids, g = _tokens(3, 4, 3), randn(3, 1, 4, 3, dtype=torch.float16)
    expected = embedding_norm.embedding_sq_norm(ids, g)
    assert torch.equal(embedding_norm.embedding_sq_norm(ids, far_apart(g)), expected)
    g = g.transpose(0, 1).contiguous()
    expected = embedding_norm.embedding_sq_norm(ids[:1], g)
    assert torch.equal(embedding_norm.embedding_sq_norm(ids[:1], far_apart(g[0])[None]), expected)


@pytest.mark.slow
def test_same_bits_twice_and_alone():
    ids, g = _tokens(3, 50, 30), randn(3, 2, 50, 70)
    first = embedding_norm.embedding_sq_norm(ids, g)
    assert torch.equal(embedding_norm.embedding_sq_norm(ids, g), first)
    assert torch.equal(embedding_norm.embedding_sq_norm(ids[1:2], g[1:2]), first[1:2])
