"""Operations that read a value though their result is known, sparse inputs, hooks of training."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import SlowPathWarning, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear


def codes(m, x):
    """A codebook, of which the nearest entry is taken, with a gradient straight through."""
    hidden = m.body(x)
    nearest = (hidden.unsqueeze(1) - m.head.weight.new_ones(3, 4).cumsum(0)).square().sum(-1)
    chosen = F.one_hot(nearest.argmin(-1), 3).to(x.dtype) @ m.head.weight.new_ones(3, 4).cumsum(0)
    return m.head(hidden + (chosen - hidden).detach() * hidden)


def experts(m, x):
    hidden = m.body(x)
    kept = F.one_hot(hidden.topk(2, -1).indices, num_classes=4).sum(1)
    return m.head(hidden * kept)


def masked(m, x):
    hidden = m.body(x)
    return m.head(hidden.masked_fill(F.one_hot(hidden.argmax(-1), 4).bool(), 0.5))


def retained(m, x):
    hidden = m.body(x)
    if hidden.requires_grad:
        hidden.retain_grad()
    return m.head(hidden.tanh())


def plain(m, x):
    return m.head(m.body(x).tanh())


def dense(m, x):
    return plain(m, x.to_dense())


def made(forward):
    return Custom(forward, body=linear(4, 4), head=linear(4, 3))


def assert_fast_and_exact(model, expected, batch, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        scores = score_pool(model, [batch], progress=False, **options)
    assert_close_relative(scores, expected, 1e-5)


@pytest.mark.parametrize("forward", [codes, experts, masked, retained])
def test_they_are_fast_and_exact(forward):
    model, x = made(forward), torch.randn(6, 4)
    assert_fast_and_exact(model, oracle.scores(model, oracle.ones(x)), x)


def test_one_hot_of_an_unknown_number_of_classes_is_none_of_these():
    def forward(m, x):
        hidden = m.body(x)
        top = hidden.argmax(-1) * 0 + 3  # so many, for every sample
        return m.head(hidden * F.one_hot(top))

    model, x = made(forward), torch.randn(6, 4)
    with pytest.warns(SlowPathWarning, match="one by one"):
        scores = score_pool(model, [x], progress=False)
    assert_close_relative(scores, oracle.scores(model, oracle.ones(x)), 1e-5)


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
@pytest.mark.parametrize("sparse", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
class TestSparseInputs:
    def test_of_a_model_that_makes_them_dense(self, sparse):
        model, x = made(dense), torch.randn(6, 4).relu()
        expected = oracle.scores(model, oracle.ones(x))
        assert_fast_and_exact(model, expected, sparse(x))

    def test_of_a_forward_that_makes_them_dense(self, sparse):
        model, x = made(plain), torch.randn(6, 4).relu()
        expected = oracle.scores(model, oracle.ones(x))
        make = {"forward": lambda model, batch: model(batch["x"].to_dense())}
        assert_fast_and_exact(model, expected, {"x": sparse(x)}, **make)

    def test_batch_after_batch_whatever_the_first_was(self, sparse):
        model, x = made(dense), torch.randn(9, 4).relu()
        expected = oracle.scores(model, oracle.ones(x))
        batches = [x[:3], sparse(x[3:6]), sparse(x[6:])]
        scores = score_pool(model, batches, progress=False)
        assert_close_relative(scores, expected, 1e-5)


@pytest.mark.parametrize("when", ["", "pre_"])
def test_a_module_with_a_backward_hook_is_named(when):
    model, x = made(plain), torch.randn(4, 4)
    getattr(model.head, f"register_full_backward_{when}hook")(lambda *_: None)
    expected = oracle.scores(model, oracle.ones(x))
    with pytest.warns(SlowPathWarning, match=r"`model\.head` \(Linear\) has a backward hook"):
        scores = score_pool(model, [x], progress=False)
    assert_close_relative(scores, expected, 1e-5)


def test_hooks_on_outputs_are_fast():
    def forward(m, x):
        hidden = m.body(x)
        if hidden.requires_grad:
            hidden.register_hook(lambda g: None)
        return m.head(hidden.tanh())

    model, x = made(forward), torch.randn(4, 4)
    assert isinstance(model.body, nn.Linear)
    assert_fast_and_exact(model, oracle.scores(model, oracle.ones(x)), x)
