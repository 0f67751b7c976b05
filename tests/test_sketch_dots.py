"""Products of sketches, plain and whitened, and their standard errors."""

import pytest
import torch
from torch import nn

from fastgradnorm import gradient_sketch, sketch_dots, sketch_errors, store_sketches
from fastgradnorm._sketches import dots as module
from tests.support.sketched import gradients_of

OPTIONS = {"loss": "cross_entropy", "progress": False}


def rows(count, dim=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, -2, dim, dtype=torch.float64)
    return torch.randn(count, dim, dtype=torch.float64, generator=generator) * scales


def inverse(sketches, whiten):
    moments = sketches.T @ sketches / len(sketches)
    damping = whiten * moments.trace() / len(moments)
    return torch.linalg.inv(moments + damping * torch.eye(len(moments), dtype=torch.float64))


@pytest.mark.parametrize("block", [1, 1 << 22])
@pytest.mark.parametrize("whiten", [None, 1e-6, 0.1, 10.0])
def test_products_are_those_of_the_formula(whiten, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    sketches, queries = rows(30), rows(4, seed=1)
    between = torch.eye(12, dtype=torch.float64) if whiten is None else inverse(sketches, whiten)
    exact = sketches @ between @ queries.T
    assert torch.allclose(sketch_dots(sketches, queries, whiten=whiten), exact, rtol=1e-9)
    own = (sketches @ between @ sketches.T).diagonal()
    assert torch.allclose(sketch_dots(sketches, whiten=whiten), own, rtol=1e-9)
    single = sketch_dots(sketches.float(), queries.float(), whiten=whiten)
    assert single.dtype == torch.float32
    size = exact.abs().max()
    assert (single - exact).abs().max() < 1e-5 * size / min(1.0, whiten or 1.0) ** 0.5


def test_groups_are_whitened_each_by_itself():
    one, two = rows(30), 1e6 * rows(30, seed=2)
    nothing = torch.zeros(30, 12, dtype=torch.float64)
    asked = {"a": one[:3], "b": two[:3], "c": nothing[:3]}
    grouped = {"a": one, "b": two, "c": nothing}
    assert torch.allclose(sketch_dots(grouped, asked), one @ one[:3].T + two @ two[:3].T)
    exact = one @ inverse(one, 0.1) @ one[:3].T + two @ inverse(two, 0.1) @ two[:3].T
    assert torch.allclose(sketch_dots(grouped, asked, whiten=0.1), exact)
    assert torch.allclose(sketch_dots(grouped, whiten=0.1)[:3], exact.diagonal())
    assert torch.equal(sketch_dots(nothing, one[:2], whiten=0.1), torch.zeros(30, 2).double())


@pytest.mark.slow
def test_stores_give_what_tensors_give(tmp_path):
    model, x = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(50, 6)
    pool = [(x, torch.arange(50) % 3)]
    for by in (None, "module"):
        store = store_sketches(model, pool, tmp_path / str(by), 16, group_by=by, **OPTIONS)
        found = gradient_sketch(model, pool, 16, group_by=by, **OPTIONS)
        first = found[:2] if by is None else {name: each[:2] for name, each in found.items()}
        for whiten in (None, 0.1):
            expected = sketch_dots(found, first, whiten=whiten)
            assert torch.equal(sketch_dots(store, first, whiten=whiten), expected)
        assert torch.equal(sketch_errors(store, store), sketch_errors(found, found))


@pytest.mark.slow
def test_errors_are_those_over_the_seeds():
    """At most about as much as is told, where layers are no wider than sketches."""
    torch.manual_seed(0)
    x, y = torch.randn(6, 9, 8), torch.arange(6) % 3
    body = [layer for _ in range(3) for layer in (nn.Linear(8, 8), nn.Tanh())]
    deep = nn.Sequential(*body, nn.Flatten(), nn.Linear(72, 3)).eval()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(72, 40, bias=False)).eval()
    for model, least, most in ((deep, 0.5, 1.2), (flat, 0.3, 1.3)):
        exact = gradients_of(model, (x, y))
        exact = exact @ exact.T
        found, told = [], []
        for seed in range(120):
            sketches = gradient_sketch(model, [(x, y)], 64, seed=seed, verify=False, **OPTIONS)
            found.append(sketch_dots(sketches, sketches))
            told.append(sketch_errors(sketches, sketches))
        found, told = torch.stack(found).double(), torch.stack(told).double()
        assert ((found.mean(0) - exact).abs() < 4 * found.std(0) / 120**0.5).all()
        ratio = (found - exact).square().mean(0).sqrt() / told.square().mean(0).sqrt()
        assert ratio.min() > least
        assert ratio.max() < most
        norms = sketch_errors(gradient_sketch(model, [(x, y)], 64, **OPTIONS))
        assert torch.allclose(norms.double(), told[0].diagonal(), rtol=1e-5)


WRONG = [
    (([[1.0]], None), {}, TypeError, "`sketches` must be a tensor"),
    ((torch.ones(3), None), {}, ValueError, r"`sketches` must be a tensor \[N, dim\]"),
    ((torch.ones(3, 2, dtype=torch.int64), None), {}, ValueError, "`sketches` must be a tensor"),
    ((torch.ones(0, 2), None), {}, ValueError, "`sketches` must be of at least one sample"),
    (({}, None), {}, TypeError, "`sketches` must be a tensor"),
    (({"a": torch.ones(3, 2), "b": torch.ones(3, 3)}, None), {}, ValueError, r"`sketches\['b'\]`"),
    ((torch.ones(3, 2), torch.ones(1, 3)), {}, ValueError, "`queries` must be of the same numbers"),
    ((torch.ones(3, 2), {"a": torch.ones(1, 2)}), {}, ValueError, "`queries`.*same groups"),
    ((torch.ones(3, 2) / 0, None), {}, ValueError, "`sketches` must be of finite.*row 0"),
    ((torch.ones(3, 2), torch.ones(1, 2) / 0), {}, ValueError, "`queries` must be of finite"),
    ((torch.ones(3, 2), None), {"whiten": 0.0}, ValueError, "`whiten` must be a finite number > 0"),
    ((torch.ones(3, 2), None), {"whiten": 1e-300}, ValueError, "`whiten` must be large enough"),
    ((torch.ones(3, 2), None), {"whiten": True}, TypeError, "`whiten` must be a number"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_is_wrong_is_told(number):
    given, options, error, message = WRONG[number]
    with pytest.raises(error, match=message):
        sketch_dots(*given, **options)


def test_what_is_no_number_is_told_by_its_row_of_all(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 4)
    sketches = torch.ones(5, 2)
    sketches[3, 1] = torch.nan
    with pytest.raises(ValueError, match="in row 3"):
        sketch_dots(sketches)
