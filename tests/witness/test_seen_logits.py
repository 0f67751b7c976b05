"""Verification compares the logits that scores were made of, whatever way they are made."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fastgradnorm import Options, VerificationError, score_pool
from fastgradnorm._engine.outcome import Norms
from fastgradnorm._engine.traces import Traces
from fastgradnorm._model.batches import as_batch
from fastgradnorm._pool.start import make_engine
from tests.support.asserts import assert_close_relative
from tests.support.cases import MLP, Custom, linear, perturb
from tests.support.doubts import findings


def branches(m, x):
    return m.head(torch.tanh(m.a(x) if bool(x[0, 0] > 0) else m.b(x)))


def alone(m, x):
    return m.head(torch.tanh(m.a(x))) * (1 + 0 * x.sum().item())


def model(forward):
    return perturb(Custom(forward, a=linear(10, 8), b=linear(10, 8), head=linear(8, 5)))


WAYS = {
    "all classes": (lambda: MLP(10, 16, 5), {}),
    "entropy": (lambda: MLP(10, 16, 5), {"scheme": "entropy"}),
    "last layer": (lambda: MLP(10, 16, 5), {"params": "last_layer"}),
    "one logit": (lambda: MLP(10, 16, 1), {}),
    "last layer, one logit": (lambda: MLP(10, 16, 1), {"params": "last_layer"}),
    "two classes": (lambda: MLP(10, 16, 2), {}),
    "labels": (lambda: MLP(10, 16, 3), {"likelihood": "bernoulli", "num_samples": 8}),
    "rounds": (lambda: MLP(10, 16, 40), {"rtol": 0.2}),
    "small chunks": (lambda: MLP(10, 16, 5), {"max_memory": 40_000}),
    "branches": (lambda: model(branches), {}),
    "slow loop": (lambda: model(alone), {}),
    "slow loop, last layer": (lambda: model(alone), {"params": "last_layer"}),
}


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.filterwarnings("ignore:This model cannot run under vmap")
def test_scores_carry_the_logits_that_they_are_made_of(name, temperature):
    make, options = WAYS[name]
    torch.manual_seed(0)
    scored, x = perturb(make()).eval(), torch.randn(70, 10)
    engine = make_engine(scored, Options(**options, temperature=temperature))
    found = engine.score(as_batch(x, engine.subject.device)).logits
    exact = torch.cat([scored(row).detach() for row in x.split(1)]) / temperature
    assert_close_relative(found, exact, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("verify", ["first", "all"])
@pytest.mark.filterwarnings(
    "ignore:This model cannot run under vmap",
    "ignore::fastgradnorm.BatchDependenceWarning",  # branches, by the first sample of a batch
)
def test_those_of_another_pass_are_noticed(name, verify, monkeypatch):
    make, options = WAYS[name]
    torch.manual_seed(0)
    scored, exact = perturb(make()).eval(), {"make": Norms.make, "alone": Norms.alone}

    def moved(part):
        def made(*args):
            found = exact[part](*args)
            return replace(found, logits=found.logits + 0.05 * found.logits.abs().max())

        return made

    x = torch.randn(9, 10)
    score_pool(scored, [x], progress=False, verify=verify, **options)
    for part in exact:
        monkeypatch.setattr(Norms, part, moved(part))
    with pytest.raises(VerificationError, match="disagrees with the model's own call"):
        score_pool(scored, [x], progress=False, verify=verify, **options)


def test_dense_logits_are_passed_for_anew():
    dense = nn.Sequential(nn.Conv1d(2, 5, 1), nn.Tanh(), nn.Conv1d(5, 3, 1)).eval()
    engine = make_engine(dense, Options(num_samples=4))
    assert engine.score(as_batch(torch.randn(3, 2, 6), engine.subject.device)).logits is None
    score_pool(dense, [torch.randn(3, 2, 6)], num_samples=4, progress=False)


def test_predictions_of_all_batches_are_counted():
    torch.manual_seed(0)
    certain = perturb(MLP(10, 16, 5)).eval()
    with torch.no_grad():
        certain.head.bias[2] += 12
    told = findings(certain, torch.randn(300, 10).split(50))
    assert "class 2 for 300 of the 300 samples" in told["one class"][1]


@pytest.mark.slow
def test_its_own_passes_are_not_traced(monkeypatch):
    """They are few: that would not repay it."""
    keys, run = [], Traces.run
    monkeypatch.setattr(
        Traces, "run", lambda self, key, *rest: keys.append(key) or run(self, key, *rest)
    )
    perturbed = perturb(MLP(10, 16, 5)).eval()
    for options in ({}, {"params": "last_layer"}):
        score_pool(perturbed, torch.randn(20, 10).split(4), progress=False, verify="all", **options)
    assert keys and not [key for key in keys if "logits" in str(key)]
