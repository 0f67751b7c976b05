"""Scores from the definition, against the referee's table of gradients."""

import itertools

import pytest
import torch
from torch import nn

from fastgradnorm import Options
from fastgradnorm._witness.formulas import asked
from tests.support import oracle
from tests.support.cases import Custom, linear, perturb


def sq_norms(model, x, ask):
    """Of each cotangent and parameter, by plain autograd in float64."""
    out = model(x[None])
    out = out.movedim(1, -1)[0] if out.dim() > 2 else out[0]
    rows = []
    for k in range(len(ask)):
        grads = torch.autograd.grad(out, list(model.parameters()), ask.cotangent(k), True)
        rows.append(torch.stack([g.square().sum() for g in grads]))
    return out, torch.stack(rows)


def scores(model, x, options, valid=None):
    found = []
    for i, row in enumerate(x):
        out = model(row[None])
        out = out.movedim(1, -1)[0] if out.dim() > 2 else out[0]
        ask = asked(out, None if valid is None else valid[i], options)
        found.append(ask.scores(sq_norms(model, row, ask)[1], options))
    values = {s: [f[s][0] for f in found] for s in options.schemes}
    return {s: torch.tensor(v, dtype=torch.float64) for s, v in values.items()}, found


@pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
@pytest.mark.parametrize("classes, likelihood", [
    (5, "auto"), (2, "categorical"), (1, "auto"), (3, "bernoulli"), (1, "bernoulli"),
])  # fmt: skip
@pytest.mark.parametrize("scale", [1, 40])
def test_one_position(classes, likelihood, reduction, scale):
    model = perturb(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, classes))).double()
    with torch.no_grad():
        model[2].weight.mul_(scale)
    x = torch.randn(4, 4).double()
    options = Options(scheme=oracle.SCHEMES, reduction=reduction, likelihood=likelihood)
    kind = "bernoulli" if classes == 1 else {"auto": "categorical"}.get(likelihood, likelihood)
    table = oracle.norms(model, oracle.ones(x), likelihood=kind)
    found, _ = scores(model, x, options)
    for scheme in oracle.SCHEMES:
        assert torch.allclose(found[scheme], table.scores(scheme, reduction), rtol=1e-9), scheme


@pytest.mark.parametrize("masked", [False, True])
def test_dense(masked):
    model = perturb(nn.Conv1d(2, 2, 2)).double()
    x = torch.randn(3, 2, 4).double()
    valid = torch.tensor([[True, False, True], [True, True, True], [False, False, True]])
    options = Options(scheme=oracle.SCHEMES)
    found, _ = scores(model, x, options, valid if masked else None)
    table = oracle.norms(model, oracle.ones(x), masks=valid if masked else None)
    for scheme in ("entropy",) if masked else oracle.SCHEMES:
        assert torch.allclose(found[scheme], table.scores(scheme), rtol=1e-9), scheme


@pytest.mark.slow
def test_drawn_labels_are_unbiased_and_tell_their_error():
    """Of 3 ** 4 label maps, 8 are drawn; many seeds have the mean over all."""
    model = perturb(nn.Conv1d(2, 3, 2)).double()
    x = torch.randn(1, 2, 5).double()
    every = list(itertools.product(range(3), repeat=4))
    out = model(x)[0].T
    chances = out.detach().softmax(-1)
    exact = 0.0
    for labels in every:
        cotangent = (
            torch.stack(
                [oracle.label_cotangent(z, c) for z, c in zip(out.detach(), labels, strict=True)]
            )
            / 4
        )
        grads = torch.autograd.grad(out, list(model.parameters()), cotangent, True)
        norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
        exact += float(chances[range(4), labels].prod() * norm)
    drawn, errors = [], []
    for seed in range(200):
        options = Options(scheme=["expected"], seed=seed)
        found, rows = scores(model, x, options)
        drawn.append(float(found["expected"]))
        errors.append(rows[0]["expected"][1])
    drawn, errors = torch.tensor(drawn), torch.tensor(errors)
    assert abs(float(drawn.mean()) - exact) < 4 * float(drawn.std()) / 200**0.5
    assert 0.8 < float(errors.square().mean().sqrt() / drawn.std()) < 1.25


def test_classes_without_a_chance():
    model = Custom(lambda m, x: m.head(x) + m.masked, head=linear(4, 3)).double()
    model.masked = torch.tensor([0.0, 0.0, -torch.inf]).double()
    ask = asked(model(torch.randn(1, 4).double())[0], None, Options(scheme=oracle.SCHEMES))
    cotangents = torch.stack([ask.cotangent(k) for k in range(len(ask))])
    assert cotangents.isfinite().all()
    assert (cotangents[[0, 1, 3], 2] == 0).all()
