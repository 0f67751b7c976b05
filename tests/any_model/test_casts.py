"""Parameters cast or moved while a model runs: to what they are already, mostly."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.agreement import Wide
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb

# From a parameter and the input.
CASTS = {
    "float": lambda w, x: w.float(),
    "to-dtype": lambda w, x: w.to(torch.float32),
    "to-its-dtype": lambda w, x: w.to(x.dtype),
    "to-named": lambda w, x: w.to(dtype=x.dtype),
    "to-device": lambda w, x: w.to(x.device),
    "to-device-and-dtype": lambda w, x: w.to(x.device, x.dtype),
    "to-string": lambda w, x: w.to("cpu"),
    "to-tensor": lambda w, x: w.to(x),
    "to-memory-format": lambda w, x: w.to(memory_format=torch.contiguous_format),
    "to-copy": lambda w, x: w.to(x.dtype, copy=True),
    "type": lambda w, x: w.type(x.dtype),
    "type-as": lambda w, x: w.type_as(x),
    "cpu": lambda w, x: w.cpu(),
    "as_tensor": lambda w, x: torch.as_tensor(w),
    "as_tensor-dtype": lambda w, x: torch.as_tensor(w, dtype=x.dtype, device=x.device),
    "contiguous": lambda w, x: w.contiguous(),
    "plus": lambda w, x: +w,
    "positive": lambda w, x: torch.positive(w),
    "flatten": lambda w, x: w.flatten() if w.dim() == 1 else w.clone(),
    "real": lambda w, x: w.real,
    "conj": lambda w, x: w.conj(),
    "resolve_conj": lambda w, x: w.resolve_conj(),
    "resolve_neg": lambda w, x: w.resolve_neg(),
    "to_dense": lambda w, x: w.to_dense(),
    "atleast": lambda w, x: torch.atleast_1d(w),
    "atleast-of-two": lambda w, x: torch.atleast_1d(w, w)[0],
    "requires_grad": lambda w, x: w.requires_grad_() if isinstance(w, nn.Parameter) else w,
    "view_as": lambda w, x: w.view_as(w),
    "expand_as": lambda w, x: w.expand_as(w),
    "chain": lambda w, x: w.to(x.dtype).to(x.device).contiguous().float(),
    "of-a-view": lambda w, x: w.mT.float().mT if w.dim() > 1 else w.float(),
    "wider-and-back": lambda w, x: w.double().to(x.dtype),
}


class Norm(nn.LayerNorm):
    """In float32 whatever the input, as many language models have it."""

    cast = staticmethod(lambda w, x: w.float())

    def forward(self, x):
        weight, bias = self.cast(self.weight, x), self.cast(self.bias, x)
        y = F.layer_norm(self.cast(x, x), self.normalized_shape, weight, bias, self.eps)
        return y.type_as(x)


def with_linear(cast):
    def forward(m, x):
        weight, bias = cast(m.body.weight, x), cast(m.body.bias, x)
        return m.head(torch.tanh(F.linear(cast(x, x), weight, bias)))

    return Custom(forward, body=linear(4, 4), head=linear(4, 3))


def with_norm(cast):
    norm = perturb(Norm(4))
    norm.cast = cast
    return Custom(lambda m, x: m.head(torch.tanh(m.norm(m.body(x)))), body=linear(4, 4), norm=norm,
                  head=linear(4, 3))  # fmt: skip


def with_convolution(cast):
    def forward(m, x):
        weight = cast(m.conv.weight, x)
        return m.head(torch.tanh(F.conv1d(x[:, None], weight, cast(m.conv.bias, x))).mean(2))

    return Custom(forward, conv=perturb(nn.Conv1d(1, 4, 3)), head=linear(4, 3))


def with_embedding(cast):
    def forward(m, x):
        rows = F.embedding((x.abs() * 4).long().clamp(max=5), cast(m.embed.weight, x))
        return m.head(torch.tanh(rows.sum(1)))

    return Custom(forward, embed=perturb(nn.Embedding(6, 4)), head=linear(4, 3))


def with_a_shared_weight(cast):
    def forward(m, x):
        x = torch.tanh(F.linear(x, m.body.weight, m.body.bias))
        return m.head(torch.tanh(F.linear(x, cast(m.body.weight, x), m.body.bias)))

    return Custom(forward, body=linear(4, 4), head=linear(4, 3))


def with_a_gate(cast):
    def forward(m, x):
        gate = F.linear(cast(x, x), cast(m.gate.weight, x)).softmax(-1).type_as(x)
        return m.head(torch.tanh(gate[:, :1] * m.one(x) + gate[:, 1:] * m.two(x)))

    return Custom(forward, gate=linear(4, 2, bias=False), one=linear(4, 4), two=linear(4, 4),
                  head=linear(4, 3))  # fmt: skip


def with_the_last_layer(cast):
    def forward(m, x):
        x = torch.tanh(m.body(x))
        return F.linear(cast(x, x), cast(m.head.weight, x), cast(m.head.bias, x))

    return Custom(forward, body=linear(4, 4), head=linear(4, 3))


PLACES = [with_linear, with_norm, with_convolution, with_embedding, with_a_shared_weight,
          with_a_gate, with_the_last_layer]  # fmt: skip
VERIFIED = (with_a_shared_weight, with_the_last_layer)


def expected_of(model, x, keep=lambda name: True):
    with Wide():  # asks for float32 give float64 where the model has it
        return oracle.norms(model, oracle.ones(x)).scores("expected", keep=keep)


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
@pytest.mark.parametrize("build", PLACES)
def test_each_cast_in_each_place(build, cast):
    def careful(w, x):  # what the referee, in float64, needs to stay there
        return w if w.dtype == torch.float64 and cast is CASTS["type"] else cast(w, x)

    model, x = build(careful), torch.randn(3, 4)
    expected = expected_of(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Verification, which looks at what a model returns, does not see where in it a cast is.
        for verify in (True, False) if build in VERIFIED else (False,):
            scores = score_pool(model, [x], verify=verify, progress=False)
            assert_close_relative(scores, expected, 1e-5, f"verify={verify}")


@pytest.mark.parametrize("cast", [CASTS[name] for name in ("float", "to-tensor", "plus", "chain")])
def test_the_last_layer_alone(cast):
    model, x = with_the_last_layer(cast), torch.randn(5, 4)
    expected = expected_of(model, x, lambda name: name.startswith("head"))
    scores = score_pool(model, [x], params="last_layer", progress=False)
    assert_close_relative(scores, expected, 1e-5)


@pytest.mark.parametrize("cast", [CASTS[name] for name in ("to-its-dtype", "type-as", "plus")])
@pytest.mark.parametrize("build", PLACES)
def test_in_float64(build, cast):
    model, x = build(cast).double(), torch.randn(5, 4).double()
    expected = oracle.scores(model, oracle.ones(x))
    assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-10)


def test_a_cast_hands_back_the_same_object_to_the_model():
    def forward(m, x):
        same = [m.body.weight.float() is m.body.weight, m.body.bias.to(x.device) is m.body.bias]
        return m.head(torch.tanh(m.body(x)) * sum(same))

    model, x = Custom(forward, body=linear(4, 4), head=linear(4, 3)), torch.randn(5, 4)
    expected = oracle.scores(
        Custom(lambda m, x: m.head(torch.tanh(m.body(x)) * 2), body=model.body, head=model.head),
        oracle.ones(x),
    )
    assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)


class TestConstants:
    """What is made of a parameter without a gradient."""

    @pytest.mark.parametrize("make", [
        lambda w: torch.zeros_like(w), lambda w: w.detach(), lambda w: w.data, lambda w: w > 0,
        lambda w: w.argmax(0).sum(), lambda w: w.new_ones(3, 4), lambda w: w.detach().clone(),
        lambda w: torch.atleast_1d(w.detach()), lambda w: w.sign().detach(), lambda w: len(w),
    ])  # fmt: skip
    def test_it_stays_one(self, make):
        def forward(m, x):
            return m.head(torch.tanh(m.body(x))) + (m.head.weight * make(m.head.weight)).sum()

        model, x = Custom(forward, body=linear(4, 4), head=linear(4, 3)), torch.randn(5, 4)
        expected = oracle.scores(model, oracle.ones(x))
        assert_close_relative(score_pool(model, [x], progress=False), expected, 1e-5)
