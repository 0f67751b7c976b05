"""Sums by bucket, and of rows whose buckets are moved on, against a loop over all elements."""

import pytest
import torch
from fastgradnorm_kernels import _hashing, bucket_sums, hash_codes, hash_table, hashed_sums
from fastgradnorm_kernels.bucket_sums import hashed_sums as interpreted
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastgradnorm._operations import tensor_sketch
from tests.support.kernel_support import (
    DEVICE,
    assert_within_budget,
    dtypes,
    far_apart,
    guarded,
    randn,
    scattered,
)
from tests.support.sketched import expected, found

SHAPES = [
    pytest.param(2, 1, 3, 9, 4, id="few-buckets"),
    pytest.param(1, 2, 70, 5, 7, id="groups"),
    pytest.param(1, 1, 260, 2, 7, id="parts"),
    pytest.param(3, 1, 1, 1, 1, id="scalar"),
    pytest.param(2, 1, 2, 3, 600, id="many-buckets"),
]


def drawn(groups, columns, dim):
    """Buckets and signs `[groups, columns]`."""
    signs = 1 - 2 * torch.randint(0, 2, (groups, columns))
    return torch.randint(0, dim, (groups, columns)), signs


def given(N, G, R, C, dim, dtype=torch.float32, sample_shifts=False):
    columns, rows = drawn(G, C, dim), drawn(N if sample_shifts else 1, R, dim)
    x = guarded(randn(N, G, R, C, dtype=dtype))
    codes = hash_codes(*rows)
    codes[:, 1::3] = 0
    return x, hash_table(*columns, dim).to(DEVICE), codes.to(DEVICE), columns


def looped(x, columns, dim, codes=None):
    """Element by element, in float64."""
    N, G, R, C = x.shape
    x, found = x.cpu().double(), torch.zeros(N, G, R, dim, dtype=torch.float64)
    buckets, signs = columns
    for g in range(G):
        for c in range(C):
            found[:, g, :, buckets[g, c]] += signs[g, c] * x[:, g, :, c]
    if codes is None:
        return found.to(DEVICE)
    total = torch.zeros(N, G, dim, dtype=torch.float64)
    for n, row in enumerate(codes.cpu().expand(N, -1)):
        for r, code in enumerate(row.tolist()):
            if code:
                moved = found[n, :, r].roll(abs(code) - 1, -1)
                total[n] += moved if code > 0 else -moved
    return total.to(DEVICE)


@dtypes
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("N, G, R, C, dim", SHAPES)
def test_hashed_sums(N, G, R, C, dim, shifted, dtype):
    x, table, codes, columns = given(N, G, R, C, dim, dtype, sample_shifts=R > 3)
    shifts = codes if shifted else None
    exact = looped(x, columns, dim, shifts)
    reference = _hashing.torch_hashed_sums(x, table, shifts)
    assert_within_budget(interpreted(x, table, shifts), reference, exact, 1e-6)


@pytest.mark.slow
def test_one_table_for_all_groups_and_any_strides():
    x, table, codes, _ = given(2, 3, 4, 5, 6)
    table = table[:1]
    for shifts in (None, codes):
        expected = interpreted(x, table.expand(3, -1, -1), shifts)
        assert torch.equal(interpreted(x, table, shifts), expected)
        assert torch.equal(interpreted(scattered(x), table, shifts), expected)
        assert torch.equal(interpreted(x.mT.contiguous().mT, table, shifts), expected)


def test_beyond_32_bits():
    x, table, codes, _ = given(3, 1, 2, 3, 4, torch.float16)
    assert torch.equal(interpreted(far_apart(x), table, codes), interpreted(x, table, codes))


@pytest.mark.slow
def test_a_sample_has_the_same_bits_alone():
    x, table, codes, _ = given(3, 1, 40, 6, 5, sample_shifts=True)
    expected = interpreted(x, table, codes)
    assert torch.equal(interpreted(x, table, codes), expected)
    assert torch.equal(interpreted(x[1:2], table, codes[1:2]), expected[1:2])


def test_rows_that_are_left_out_are_not_read():
    x, table, codes, _ = given(1, 1, 4, 3, 5)
    left_out = x.clone()
    left_out[:, :, codes[0] == 0] = float("nan")
    assert torch.equal(interpreted(left_out, table, codes), interpreted(x, table, codes))


@pytest.mark.parametrize("shape", [(0, 1, 2, 3), (2, 1, 0, 3), (2, 1, 2, 0)], ids=str)
def test_nothing_to_sum(shape):
    x = randn(*shape)
    table = hash_table(*drawn(1, shape[3], 4), 4).to(DEVICE)
    codes = hash_codes(*drawn(1, shape[2], 4)).to(DEVICE)
    assert interpreted(x, table).shape == (*shape[:3], 4)
    assert not interpreted(x, table).any()
    assert torch.equal(interpreted(x, table, codes), x.new_zeros(*shape[:2], 4))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_within_vmap(backend, per_sample):
    x, table, codes, _ = given(5, 1, 4, 6, 3, sample_shifts=per_sample)
    expected = hashed_sums(x, table, codes, backend)
    dims = 0, None, 0 if per_sample else None

    def one(x, table, codes):
        return hashed_sums(x[None], table, codes.view(1, -1), backend)[0]

    assert torch.equal(torch.vmap(one, dims)(x, table, codes), expected)
    plain = torch.vmap(lambda x: hashed_sums(x[None], table, None, backend)[0], 1, 1)
    expected = hashed_sums(x, table, None, backend).transpose(0, 1)
    assert torch.equal(plain(x.transpose(0, 1)), expected)


def test_a_fake_tensor_has_the_shape():
    with FakeTensorMode():
        x, table = torch.empty(2, 1, 4, 6), torch.empty(1, 3, 5, dtype=torch.int32)
        codes = torch.empty(1, 4, dtype=torch.int32)
        assert torch.ops.fastgradnorm.hashed_sums(x, table, None).shape == (2, 1, 4, 5)
        assert torch.ops.fastgradnorm.hashed_sums(x, table, codes).shape == (2, 1, 5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(2, 3)}, r"`x` must be \[N, G, R, C\]"),
        ({"table": torch.zeros(1, 1, 3)}, r"`table` must be \[1 or 1, slots, dim\] of int32"),
        ({"shifts": torch.zeros(3, 2, dtype=torch.int32)}, r"`shifts` must be \[1 or 1, 2\]"),
    ],
)
def test_arguments_are_checked(change, message):
    arguments = {"x": torch.zeros(1, 1, 2, 3), "table": torch.zeros(1, 1, 3, dtype=torch.int32)}
    with pytest.raises(ValueError, match=message):
        interpreted(**(arguments | change))


class Many(nn.Module):
    """A table that is read twice, groups, positions, biases, and a weight by its other side."""

    def __init__(self):
        super().__init__()
        self.words, self.mixed = nn.Embedding(7, 4, padding_idx=0), nn.Conv1d(4, 4, 2, groups=2)
        self.wide, self.back = nn.Linear(4, 9), nn.Parameter(torch.randn(9, 3))
        self.unruled = nn.Parameter(torch.ones(5, 2))

    def forward(self, ids):
        x = torch.tanh(self.mixed(self.words(ids).mT).mT)
        return torch.tanh(self.wide(x) @ self.back).mean(1) * self.unruled.cos().prod()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["outer", "formed"])
def test_sketches_by_the_kernel(form, monkeypatch):
    """Against a float64 loop that hashes each element of each gradient."""
    monkeypatch.setattr(tensor_sketch, "_TRANSFORMED", 0.0 if form == "outer" else 1e9)
    monkeypatch.setattr(tensor_sketch, "_MULTIPLIED", 1e9 if form == "outer" else 0.0)
    asked = []
    launch = bucket_sums.hashed_sums
    monkeypatch.setattr(
        bucket_sums, "hashed_sums", lambda *given: asked.append(given) or launch(*given)
    )
    torch.manual_seed(0)
    model = Many().to(DEVICE).eval()
    batch = torch.randint(0, 7, (2, 5)).to(DEVICE), torch.arange(2).to(DEVICE)
    exact, sizes = expected(model.cpu(), [each.cpu() for each in batch], 6, 1)
    model.to(DEVICE)
    sketches = found(model, [batch], 6, 1, backend="triton")
    assert float(((sketches.cpu() - exact).norm(dim=1) / sizes).max()) < 1e-5
    assert len(asked) > 5
    again = found(model, [batch], 6, 1, backend="triton", verify=False)
    assert torch.equal(again, sketches)
    asked.clear()
    found(model, [batch], 6, 1, backend="torch", verify=False)
    assert not asked
