"""Weights that a model ties again, or puts in a layer, in its own `forward`: as PyTorch allows it.

A parameter may be assigned where a parameter is, and has no history: so it is while a model runs.
"""

import copy

import pytest
import torch
from torch import nn

from fastgradnorm import gradient_sketch, naive_score_pool, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import perturb
from tests.support.unchanged import assert_unchanged, snapshot

IDS = torch.randint(0, 7, (5, 3), generator=torch.Generator().manual_seed(0))


class Tied(nn.Module):
    """A small language model's shape: tokens in, a logit for each token out."""

    def __init__(self, tie):
        super().__init__()
        self.tokens, self.body, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7)
        self.mirror, self.tie = nn.Linear(4, 4), tie

    def forward(self, ids):
        self.tie(self)
        h = torch.tanh(self.body(self.tokens(ids).mean(1)))
        return self.head(torch.tanh(self.mirror(h)))


def assigned(model):
    model.head.weight = model.tokens.weight


def the_other_way(model):
    model.tokens.weight = model.head.weight


def registered(model):
    model.head.register_parameter("weight", model.tokens.weight)


def by_name(model):
    setattr(model.head, "weight", model.tokens.weight)  # noqa: B010


def layers(model):
    model.mirror.weight, model.mirror.bias = model.body.weight, model.body.bias


def under_no_grad(model):
    with torch.no_grad():
        model.head.weight = model.tokens.weight


def if_it_is_one(model):
    if isinstance(model.tokens.weight, nn.Parameter):
        model.head.weight = model.tokens.weight


def without_a_history(model):
    if model.tokens.weight.grad_fn is None and model.tokens.weight.grad is None:
        model.head.weight = model.tokens.weight


def with_a_bias_of_its_own(model):
    model.head.bias = nn.Parameter(torch.ones_like(model.head.bias))


def swapped(model):
    model.body.bias, model.mirror.bias = model.mirror.bias, model.body.bias


WAYS = {
    "assigned": assigned,
    "the-other-way": the_other_way,
    "registered": registered,
    "by-name": by_name,
    "layers": layers,
    "under-no_grad": under_no_grad,
    "if-it-is-a-parameter": if_it_is_one,
    "without-a-history": without_a_history,
    "with-a-bias-of-its-own": with_a_bias_of_its_own,
    "swapped": swapped,
}


def expected(model, keep=lambda name: True):
    """Each sample by a model of its own, whose parameters are those before it runs."""
    rows = []
    for row in IDS.split(1):
        one = copy.deepcopy(model).double().eval()
        parameters = [p for name, p in one.named_parameters() if keep(name)]
        log_p = one(row)[0].log_softmax(-1)
        norms = [
            torch.cat(
                [
                    grad.flatten()
                    for grad in torch.autograd.grad(
                        -each, parameters, retain_graph=True, allow_unused=True
                    )
                    if grad is not None
                ]
            ).norm()
            for each in log_p
        ]
        rows.append((log_p.exp().detach() * torch.stack(norms)).sum())
    return torch.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize("before", ["tied", "apart"])
@pytest.mark.parametrize("way", WAYS)
def test_scores_are_of_the_weights_as_they_are_tied(way, before):
    model = perturb(Tied(WAYS[way]))
    if before == "tied" and way != "layers":
        model.head.weight = model.tokens.weight
    exact, state = expected(model), snapshot(model)
    for verify in (True, False):
        scores = score_pool(model, IDS.split(3), verify=verify, progress=False)
        assert_close_relative(scores, exact, 1e-5, f"verify={verify}")
    assert_close_relative(naive_score_pool(model, [IDS]), exact, 1e-5, "naive")
    assert_unchanged(state, model)


def test_in_float64_and_by_a_hook():
    model = perturb(Tied(lambda model: None)).double()
    model.register_forward_pre_hook(lambda model, args: assigned(model))
    assert_close_relative(score_pool(model, [IDS], progress=False), expected(model), 1e-9)


@pytest.mark.slow
def test_of_the_last_layer_and_in_sketches():
    model = perturb(Tied(assigned))
    model.head.weight = model.tokens.weight
    last = score_pool(model, [IDS], params="last_layer", progress=False)
    names = ("tokens.weight", "head.bias")
    assert_close_relative(last, expected(model, lambda name: name in names), 1e-5)
    plain = perturb(Tied(lambda model: None))
    plain.load_state_dict(model.state_dict())
    plain.head.weight = plain.tokens.weight
    sketches = [gradient_sketch(m, [IDS], dim=16, progress=False) for m in (model, plain)]
    assert torch.allclose(*sketches)


def test_the_reference_sees_what_it_must():
    """Without ties it is the referee's."""
    model = perturb(Tied(lambda model: None))
    assert_close_relative(expected(model), oracle.scores(model, oracle.ones(IDS)), 1e-6)
