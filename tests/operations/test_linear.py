"""Frozen linear layers under nested transforms, and the memory kept meanwhile."""

import contextlib

import pytest
import torch
from torch.func import vjp, vmap
from torch.nn import functional as F

from benchmarks.usual_memory import usual_memory
from fastgradnorm._operations.linear import linear
from fastgradnorm._process import heap
from tests.support.asserts import assert_close_relative

# Large enough for oneDNN, and not.
sizes = pytest.mark.parametrize("T, I, O", [(40, 96, 300), (3, 4, 5)])


def _both_passes(function, x, weight, bias, cotangents):
    def per_sample(x, cotangents):
        y, pull = vjp(lambda x: function(x[None], weight, bias)[0], x)
        return y, vmap(lambda c: pull(c)[0])(cotangents)

    return vmap(per_sample)(x, cotangents)


@sizes
@pytest.mark.parametrize("with_bias", [False, True])
def test_forward_and_pull_backs_of_samples(T, I, O, with_bias):
    x, weight, cotangents = torch.randn(3, T, I), torch.randn(O, I), torch.randn(3, 2, T, O)
    bias = torch.randn(O) if with_bias else None
    inputs = (x, weight, bias, cotangents)
    exact = _both_passes(F.linear, *(None if t is None else t.double() for t in inputs))
    for actual, expected in zip(_both_passes(linear, *inputs), exact, strict=True):
        assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_weight_of_each_sample_is_not_shared():
    x, weight = torch.randn(3, 2, 4), torch.randn(3, 5, 4)
    assert_close_relative(vmap(linear)(x, weight), vmap(F.linear)(x, weight), 1e-6)


def test_a_weight_that_is_differentiated_gets_its_gradient():
    x, weight = torch.randn(2, 4), torch.randn(5, 4, requires_grad=True)
    linear(x, weight).sum().backward()
    assert_close_relative(weight.grad, x.sum(0).expand(5, 4), 1e-5)


def test_kept_memory_is_given_back_after_an_exception(monkeypatch):
    calls = []
    monkeypatch.setattr(heap, "_running", 0)  # other tests may have left streams open
    monkeypatch.setattr(heap, "_mallopt", lambda: lambda *option: calls.append(option))
    with pytest.raises(KeyError), heap.kept(True):
        assert calls == list(heap._KEEP)
        raise KeyError
    assert calls == [*heap._KEEP, *heap._USUAL]
    assert dict(heap._USUAL).keys() >= dict(heap._KEEP).keys()


def test_memory_is_kept_until_the_last_of_several_is_done(monkeypatch):
    calls = []
    monkeypatch.setattr(heap, "_running", 0)
    monkeypatch.setattr(heap, "_mallopt", lambda: lambda *option: calls.append(option))
    with heap.kept(True):
        with heap.kept(True):
            pass
        assert calls == list(heap._KEEP)
    assert calls == [*heap._KEEP, *heap._USUAL]


def test_memory_is_given_back_where_it_is_bounded_or_the_user_has_set_limits(monkeypatch):
    calls = []
    monkeypatch.setattr(heap, "_mallopt", lambda: lambda *option: calls.append(option))
    with heap.kept(False):
        pass
    assert not calls
    monkeypatch.undo()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert heap._mallopt.__wrapped__() is None


def test_what_is_timed_beside_a_scorer_runs_as_without_one(monkeypatch):
    calls = []
    monkeypatch.setattr(heap, "_running", 0)
    monkeypatch.setattr(heap, "_mallopt", lambda: lambda *option: calls.append(option))
    with usual_memory():
        assert not calls
    with heap.kept(True):
        calls.clear()
        with pytest.raises(KeyError), usual_memory():
            assert calls == list(heap._USUAL)
            raise KeyError
        assert calls == [*heap._USUAL, *heap._KEEP]
    with contextlib.ExitStack() as stack:
        scorer = stack.enter_context(contextlib.ExitStack())
        scorer.enter_context(heap.kept(True))
        stack.enter_context(usual_memory())
        calls.clear()
        scorer.close()  # the scorer is done in the meantime
    assert calls == list(heap._USUAL)
