"""What a model keeps from one call to the next is told where it changes the logits."""

import copy

import pytest
import torch
from torch import nn

from fastgradnorm import BatchDependenceWarning, GradNormScorer, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb


def features(m, x):
    return torch.tanh(m.body(x))


def counting(m, x):
    m.calls += 1
    return m.head(features(m, x) * m.calls)


def recurrent(m, x):
    m.state = m.cell(x[:1].detach(), m.state.to(x.dtype))
    return m.head(features(m, x) + m.state)


def replaced_buffer(m, x):
    h = features(m, x)
    m.mean = m.mean * 0.5 + h.detach()[:1]
    return m.head(h - m.mean)


def buffer_in_place(m, x):
    h = features(m, x)
    m.mean.mul_(0.5).add_(1)
    return m.head(h - m.mean)


def memory_in_a_list(m, x):
    h = features(m, x)
    m.bank.append(h.detach()[:1])
    return m.head(h + torch.cat(m.bank).sum(0))


def table_in_a_submodule(m, x):
    seen = m.body.__dict__.setdefault("seen", {})
    seen["n"] = seen.get("n", 0) + 1
    return m.head(features(m, x) / seen["n"])


def warming_up(m, x):
    m.ready, ready = True, m.ready
    return m.head(features(m, x) if ready else m.body(x))


def first_samples(m, x):
    h = features(m, x)
    if not m.bank or m.bank[0].shape != h.shape:
        m.bank = [h.detach()]
    return m.head(h - m.bank[0] / 2)


CARRIED = {
    "bank, of the first samples": first_samples,
    "calls": counting,
    "state": recurrent,
    "mean": replaced_buffer,
    "mean, in place": buffer_in_place,
    "bank": memory_in_a_list,
    "body.seen": table_in_a_submodule,
    "ready": warming_up,
}


def make(forward):
    torch.manual_seed(0)
    model = perturb(Custom(forward, body=linear(4, 5), head=linear(5, 3)))
    model.calls, model.ready, model.bank = 0, False, []
    model.register_buffer("mean", torch.zeros(1, 5))
    model.cell, model.state = nn.GRUCell(4, 5).requires_grad_(False), torch.zeros(1, 5)
    return model, torch.randn(6, 4)


def fresh(model, x):
    """Scores of samples that each come first."""
    rows = [oracle.scores(copy.deepcopy(model), [row], "expected") for row in oracle.ones(x)]
    return torch.cat(rows)


@pytest.mark.filterwarnings("ignore::fastgradnorm.SlowPathWarning")
@pytest.mark.parametrize("name", CARRIED)
def test_what_changes_the_logits_is_told(name):
    model, x = make(CARRIED[name])
    right, kept = fresh(model, x), name.partition(",")[0]
    if CARRIED[name] in (recurrent, replaced_buffer, memory_in_a_list):
        x = x[:1].expand(6, -1).clone()  # of equal samples: none of a batch changes another
        right = right[:1].expand(6)
    with pytest.warns(BatchDependenceWarning, match=rf"`{kept}` goes into the next call"):
        found = score_pool(model, x.split(3), progress=False)
    assert_close_relative(found, right, 1e-5)
    again = GradNormScorer(model, verify=False, progress=False).score(x.split(3))
    assert_close_relative(again.values, right, 1e-5)


def logging(m, x):
    m.calls += 1
    m.last = features(m, x)
    m.bank.append(float(m.calls))
    return m.head(m.last)


def caching(m, x):
    key = len(x)
    if key not in m.cache:
        m.cache[key] = torch.arange(5.0)
    return m.head(features(m, x) + m.cache[key])


@pytest.mark.parametrize("forward", [logging, caching])
def test_what_does_not_is_not(forward):
    """Any warning is an error here."""
    model, x = make(forward)
    model.cache = {}
    found = score_pool(model, x.split(3), progress=False)
    assert_close_relative(found, fresh(model, x), 1e-5)
    assert model.calls == 0 and not model.cache and not model.bank


def test_the_second_call_is_made_where_something_was_kept(monkeypatch):
    calls = []

    def forward(m, x):
        calls.append(len(x))
        return m.head(features(m, x))

    model, x = make(forward)
    score_pool(model, x.split(3), verify="first", params="last_layer", progress=False)
    plain = len(calls)
    calls.clear()

    def keeping(m, x):
        m.last = len(x)
        return forward(m, x)

    model, x = make(keeping)
    score_pool(model, x.split(3), verify="first", params="last_layer", progress=False)
    assert len(calls) == plain + 1
