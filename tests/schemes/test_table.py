"""The table of schemes: whatever stands in it can be asked for, and nothing else goes by names."""

from typing import get_args

import pytest
import torch
from fastgradnorm_kernels.reference import HeadScores
from torch import nn

from fastgradnorm import SCHEMES, GradNormScorer, Scheme, naive_score_pool, score_pool
from fastgradnorm._schemes.posterior import Posterior
from fastgradnorm._schemes.table import SKETCHED, TABLE, Entry, SketchScheme
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import MLP, perturb

RTOL = 1e-5


def test_one_list_of_names():
    assert get_args(Scheme) == tuple(TABLE) == tuple(SCHEMES) == oracle.SCHEMES
    assert get_args(SketchScheme) == tuple(SKETCHED)


def test_closed_forms_are_those_of_the_kernels():
    known = {*HeadScores._fields}
    assert known == {name for name, entry in TABLE.items() if entry.closed_form}


def gini(posterior: Posterior) -> torch.Tensor:
    """The cotangent of `1 - Σ p_c²`, an uncertainty that nobody has entered."""
    p = posterior.p
    return -2 * p * (p - p.square().sum(-1, keepdim=True))


# Two that are not there: an average over the labels with another power, one with its own cotangent.
NEW = {
    "cubed": Entry("Σ p ‖g‖³", lambda pq, gap: pq * (1 - 2 * pq), power=3, closed_form=False),
    "gini": Entry(
        "‖∇ Σ p²‖²",
        lambda pq, gap: (2 * pq * (gap / 2).tanh()).square(),
        power=2,
        cotangent=gini,
        closed_form=False,
    ),
}


@pytest.fixture
def new(monkeypatch):
    """A table with more entries, put where they belong and nowhere else."""
    for name, entry in NEW.items():
        monkeypatch.setitem(TABLE, name, entry)
        monkeypatch.setitem(SCHEMES, name, entry.formula)
    return ("cubed", "expected", "gini", "entropy")


def truth(model, x, likelihood="categorical", reduction="global", keep=lambda name: True):
    """The scores by definition, of float64 gradients; `gini`'s from autograd of its formula."""
    table = oracle.norms(model, oracle.ones(x), likelihood=likelihood)
    kept = [index for index, name in enumerate(table.names) if keep(name)]
    labels = table._reduced(table.label_norms[..., kept], reduction)
    wide = oracle.in_float64(x)
    model, ginis = model.double(), []
    for sample in wide.split(1):
        z = model(sample).movedim(1, -1)
        pairs = torch.stack([torch.zeros_like(z), z], -1) if likelihood == "bernoulli" else z
        value = 1 - pairs.softmax(-1).square().sum(-1).mean()
        named = [p for n, p in model.named_parameters() if keep(n)]
        grads = torch.autograd.grad(value, named)
        norms = torch.stack([g.square().sum().sqrt() for g in grads])
        ginis.append(table._reduced(norms, reduction) ** 2)
    model.float()
    found = {name: table.scores(name, reduction, keep) for name in ("expected", "entropy")}
    found["cubed"] = (table.probabilities * labels**3).sum(1)
    return found | {"gini": torch.stack(ginis)}


@pytest.mark.slow
@pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("classes", [4, 2, 1, -3])  # below 2, that many labels of their own
def test_a_new_entry_is_all_that_a_new_scheme_takes(new, classes, params, reduction):
    likelihood = "categorical" if classes > 1 else "bernoulli"
    model, x = perturb(MLP(6, classes=abs(classes))), torch.randn(5, 6)
    options = {"likelihood": likelihood, "params": params, "reduction": reduction}
    last = [name for name, _ in model.named_parameters()][-2:]
    keep = (lambda name: True) if params == "all" else last.__contains__
    expected = truth(model, x, likelihood, reduction, keep)
    for score in (score_pool, naive_score_pool):
        found = score(model, x.split(3), scheme=new, **options)
        for scheme in new:
            assert_close_relative(found[scheme], expected[scheme], RTOL, scheme)


def test_a_new_scheme_of_dense_outputs(new):
    model = perturb(nn.Sequential(nn.Conv2d(2, 3, 1), nn.Tanh(), nn.Conv2d(3, 2, 1)))
    x = torch.randn(3, 2, 1, 3)
    found = score_pool(model, [x], scheme=new, num_samples=8, progress=False)
    for scheme, expected in truth(model, x).items():
        assert_close_relative(found[scheme], expected, RTOL, scheme)


@pytest.mark.slow
def test_a_new_scheme_in_rounds(new):
    model, x = perturb(MLP(6, classes=24)), torch.randn(7, 6)
    found = GradNormScorer(model, scheme=new, rtol=0.02, progress=False).score(x.split(4))
    for scheme, expected in truth(model, x).items():
        if TABLE[scheme].averaged:
            error = found[scheme].values / expected - 1
            assert error.square().mean().sqrt() < 0.025, scheme
        else:
            assert found[scheme].standard_error is None
            assert_close_relative(found[scheme].values, expected, RTOL, scheme)
