"""Models that ask for gradients of their inputs or features while they run: fast and exact."""

import copy
import warnings

import pytest
import torch
from torch import nn

from fastgradnorm import SlowPathWarning, score_pool
from tests.support import oracle, zoo
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear


def asked(module, args, output):
    """As `enable_input_require_grads` of transformers and PEFT."""
    output.requires_grad_(True)


def assert_fast_and_exact(model, batch, samples=None, rtol=1e-9, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        scores = score_pool(model, [batch], scheme=oracle.SCHEMES, progress=False)
    table = oracle.norms(model, samples or oracle.ones(batch), **options)
    for scheme in oracle.SCHEMES:
        assert_close_relative(scores[scheme], table.scores(scheme), rtol, scheme)


def with_flag(m, x):
    x = x * 1.0
    x.requires_grad = True
    return m.head(torch.tanh(m.body(x)))


WAYS = {
    "the input": lambda m, x: m.head(torch.tanh(m.body(x.requires_grad_()))),
    "by name": lambda m, x: m.head(torch.tanh(m.body(x.requires_grad_(requires_grad=True)))),
    "a copy": lambda m, x: m.head(torch.tanh(m.body(x.clone().requires_grad_(True)))),
    "a constant": lambda m, x: m.head(torch.tanh(m.body(x) + torch.ones(4).requires_grad_())),
    "a feature": lambda m, x: m.head(torch.tanh(m.body(x)).requires_grad_()),
    "a flag": with_flag,
}


@pytest.mark.parametrize("way", WAYS)
def test_in_forward(way):
    torch.manual_seed(0)
    model = Custom(WAYS[way], body=linear(4, 4), head=linear(4, 3)).double()
    assert_fast_and_exact(model, torch.randn(5, 4, dtype=torch.float64))


@pytest.mark.parametrize("frozen", [False, True])
def test_by_a_hook_on_embeddings(frozen):
    torch.manual_seed(0)
    words = nn.Embedding(10, 4).requires_grad_(not frozen)
    words.register_forward_hook(asked)
    model = Custom(
        lambda m, x: m.head(torch.tanh(m.body(m.words(x))).mean(1)),
        words=words, body=linear(4, 4), head=linear(4, 3),
    ).double()  # fmt: skip
    assert_fast_and_exact(model, torch.randint(0, 10, (5, 6)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("disabled", [False, True])
def test_checkpoints_of_transformers(name, disabled):
    model = copy.deepcopy(zoo.built(name)).double()
    model.enable_input_require_grads()
    switch = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{switch}_checkpointing_enable")()
    if disabled:
        getattr(model, f"{switch}_checkpointing_disable")()
    model.train()  # only then there are checkpoints; scores are of evaluation mode
    batch = zoo.texts()
    ones = [{k: v[n : n + 1] for k, v in batch.items()} for n in range(4)]
    call = lambda model, batch: model(**batch).logits  # noqa: E731
    assert_fast_and_exact(model, batch, ones, 1e-4, call=call)
