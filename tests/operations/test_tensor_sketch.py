"""What hashes of rows and columns keep of gradients: nothing on average, and how much each time."""

import itertools
import math

import pytest
import torch

from fastgradnorm._operations.tensor_sketch import ParameterMap, inverse

SEEDS = 600
WIDE = torch.float64


def sketches(gradients, dim, seeds=SEEDS):
    """Of gradients `[Q, O, I]`: `[seeds, Q, k]`."""
    each = []
    for seed in range(seeds):
        made = ParameterMap("weight", gradients[0], dim, seed)
        each.append(torch.stack([made.formed(g) for g in gradients]))
    return torch.stack(each)


def of_rank(rank, rows=48, columns=64):
    torch.manual_seed(rank)
    return torch.randn(rows, rank).double() @ torch.randn(rank, columns).double()


def rms(gradient, dim, seeds=SEEDS):
    y = sketches(gradient[None], dim, seeds)[:, 0]
    return float((y.square().sum(1) / gradient.square().sum() - 1).square().mean().sqrt())


@pytest.mark.slow
@pytest.mark.parametrize("dim", [16, 63])
def test_products_are_unbiased_over_seeds(dim):
    gradients = torch.stack([of_rank(1), of_rank(1) + of_rank(2), of_rank(30)])
    y = sketches(gradients, dim)
    products = torch.einsum("sqk,srk->sqr", y, y)
    exact = torch.einsum("qoi,roi->qr", gradients, gradients)
    error = products.std(0) / SEEDS**0.5
    assert bool(((products.mean(0) - exact).abs() < 4 * error).all())
    means = y.mean(0) / (y.std(0) / SEEDS**0.5)
    assert float(means.abs().max()) < 4.5


@pytest.mark.slow
@pytest.mark.parametrize("dim", [64, 256])
def test_errors_of_a_norm(dim):
    """Near √(2 / k), whatever the gradient, if there are no more rows and columns than buckets."""
    least = math.sqrt(2 / dim)
    assert 0.85 * least < rms(of_rank(1), dim) < 1.12 * least
    assert rms(of_rank(40), dim) < 1.1 * least
    # Of rank one with far more of them: less than √(6 / k).
    if dim == 64:
        assert 1.4 * least < rms(of_rank(1, 800, 500), dim, 300) < 1.12 * math.sqrt(6 / dim)
    # A bias, and one row: a count sketch; of as many elements as buckets no two meet.
    assert rms(torch.randn(300).double(), dim) < 1.1 * least
    assert rms(torch.randn(1, 300).double(), dim) < 1.1 * least
    assert rms(torch.randn(dim).double(), dim) < 1e-12


@pytest.mark.parametrize(("size", "dim"), [(10, 4), (4, 4), (3, 4), (1, 1), (5, 1), (0, 3), (7, 2)])
def test_buckets_of_each_dim_differ(size, dim):
    for name in ("a", "b"):
        rows = ParameterMap(name, torch.ones(size, 2), dim, 0)._rows
        for part in rows.split(dim):
            assert len(part.unique()) == len(part)
            assert bool((part >= 0).all()) and bool((part < dim).all())


def test_hashes_of_parameters_and_seeds_have_nothing_in_common():
    one = torch.ones(4000, 3)
    names = [("a", 0), ("b", 0), ("a", 1), ("a0", 0), ("a", 10)]
    maps = [ParameterMap(name, one, 8, seed) for name, seed in names]
    sides = [side for m in maps for side in ((m._rows, m._row_signs), (m._columns, None))]
    rows = [side for side in sides if side[1] is not None]
    for (h, s), (h2, s2) in itertools.combinations(rows, 2):
        assert abs(float((h == h2).double().mean()) - 1 / 8) < 0.025
        assert abs(float((s * s2).double().mean())) < 0.07
    for h, s in rows:
        counts = torch.bincount(h, minlength=8)
        assert counts.tolist() == [500] * 8
        assert abs(float(s.double().mean())) < 0.07
        for step in (1, 2, 64):
            # Buckets within eight in turn differ; all others have nothing to do with each other.
            near = max(0, 8 - step) / 8
            assert abs(float((h[step:] == h[:-step]).double().mean()) - (1 - near) / 8) < 0.025
            assert abs(float((s[step:] * s[:-step]).double().mean())) < 0.07


def test_a_weight_of_900_million_elements():
    """Nothing is made that is as long: its shape alone is read."""
    weight = torch.zeros(1).expand(30_000, 30_000)
    made = ParameterMap("wide", weight, 128, 5)
    torch.manual_seed(0)
    a, g = (torch.zeros(2, 30_000).double() for _ in range(2))
    for x in (a, g):
        for row in x:
            row[torch.randperm(30_000)[:20]] = torch.randn(20).double()
    exact = torch.zeros(128).double()
    for left, right in zip(g, a, strict=True):
        for o, i in itertools.product(left.nonzero()[:, 0], right.nonzero()[:, 0]):
            sign = made._row_signs[o] * made._column_signs[i]
            exact[(made._rows[o] + made._columns[i]) % 128] += sign * left[o] * right[i]
    y = inverse(made.outer(a[None], g[None], False, WIDE), 128)
    assert float((y - exact).norm() / exact.norm()) < 1e-12
    assert len(made._rows) + len(made._columns) == 60_000


def test_rows_that_are_chosen_and_products_are_those_of_the_gradient():
    torch.manual_seed(1)
    made = ParameterMap("p", torch.empty(9, 5), 12, 0)
    ids, g = torch.tensor([1, 8, 1, 0]), torch.randn(4, 5).double()
    full = torch.zeros(9, 5).double().index_add(0, ids[:3], g[:3])
    assert torch.allclose(made.rows(ids, g, 0, WIDE), made.formed(full))
    a, g = torch.randn(1, 4, 5).double(), torch.randn(1, 4, 9).double()
    for flipped, (x, y) in ((False, (a, g)), (True, (g, a))):
        found = inverse(made.outer(x, y, flipped, WIDE), 12)
        assert torch.allclose(found, made.formed(g[0].mT @ a[0]))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (1, 1, 1)])
def test_parameters_of_next_to_no_elements(shape):
    made = ParameterMap("p", torch.empty(shape), 4, 0)
    g = torch.full(shape, 2.0)
    assert float(made.formed(g).abs().sum()) == 2.0 * g.numel()
