"""Last layers written out as a product and a bias, which is one of their parameters."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgradnorm import GradNormScorer, acquire, naive_score_pool
from tests.engine.test_last_layer_made import Doubled, Held, features, headed, is_head, number
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))


def in_place(h, z):
    logits = z.mm(h.w)
    logits += h.c
    return logits


def summed(h, z):
    return sum([z @ h.w, h.c])


FORMS = {
    "product and bias": headed(lambda h, z: z @ h.w + h.c),
    "bias and product": headed(lambda h, z: h.c + z @ h.w),
    "added": headed(lambda h, z: torch.add(torch.matmul(z, h.w), h.c)),
    "added in place": headed(lambda h, z: z.mm(h.w).add_(h.c)),
    "in place": headed(in_place),
    "summed": headed(summed),
    "subtracted": headed(lambda h, z: z @ h.w - h.c),
    "subtracted from": headed(lambda h, z: h.c - z @ h.w),
    "einsum": headed(lambda h, z: torch.einsum("nd,dc->nc", z, h.w) + h.c),
    "linear": headed(lambda h, z: F.linear(z, h.w.t()) + h.c[None]),
    "of a row": headed(lambda h, z: z @ h.w + h.c.view(1, -1)),
    "scaled": headed(lambda h, z: z @ h.w + 2 * h.c),
    "made": headed(lambda h, z: z @ h.w + (h.c - h.c.mean())),
    "both made": headed(lambda h, z: F.linear(F.normalize(z), F.normalize(h.w.t())) + h.c.exp()),
    "twice": headed(lambda h, z: z @ h.w + h.c + 0.5 * h.c),
    "over a temperature": headed(lambda h, z: ((z @ h.w + h.c) / 2).log_softmax(-1)),
    "of positions": headed(lambda h, z: (torch.stack([z, -z], 1) @ h.w + h.c).amax(1)),
    "channels": headed(
        lambda h, z: (F.conv2d(z[..., None, None], h.w.t()[..., None, None])
                      + h.c[:, None, None])[..., 0, 0]
    ),
}  # fmt: skip


def model_of(forward, trained=True):
    torch.manual_seed(0)
    model = Custom(forward, body=linear(4, 5), head=Held(w=(5, 3), c=(3,)))
    model.body.requires_grad_(trained)
    return perturb(model)


@pytest.mark.slow
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("name", FORMS)
def test_the_bias_counts(name, trained, verify):
    model = model_of(FORMS[name], trained)
    table = oracle.norms(model, oracle.ones(X))
    options = {"params": "last_layer", "scheme": oracle.SCHEMES, "progress": False}
    found = GradNormScorer(model, verify=verify, **options).score([X[:4], X[4:]])
    for scheme in oracle.SCHEMES:
        exact = table.scores(scheme, keep=is_head)
        assert_close_relative(found[scheme].values, exact, 1e-5, scheme)
        assert {*found[scheme].provenance["parameters"]["names"]} == {"head.w", "head.c"}
    plain = naive_score_pool(model, [X], params="last_layer")
    assert_close_relative(plain, table.scores("expected", keep=is_head), 1e-5)


@pytest.mark.parametrize("name", ["product and bias", "in place", "einsum"])
def test_a_bias_that_is_frozen_does_not(name):
    model = model_of(FORMS[name])
    model.head.c.requires_grad_(False)
    exact = oracle.scores(model, oracle.ones(X), keep=is_head)
    found = GradNormScorer(model, params="last_layer", progress=False).score([X])
    assert_close_relative(found.values, exact, 1e-5)


@pytest.mark.parametrize("name", ["product and bias", "in place", "einsum", "made"])
def test_acquire_takes_features_before_the_product(name):
    given = Custom(lambda m, x: m.head(features(m, x)), body=linear(4, 5), head=linear(5, 3))
    model, pool = model_of(FORMS[name]), torch.randn(30, 4)
    given.body = model.body
    options = {"strategy": "coreset", "progress": False}
    chosen = [acquire(each, [pool], 5, **options).indices for each in (model, given)]
    assert torch.equal(*chosen)


SEVERAL = {
    "a skip": lambda m, x: m.head(features(m, x)) + m.skip(x),
    "a skip, out of sight": lambda m, x: m.head(features(m, x)) + Doubled.apply(m.skip(x)),
    "an offset of the sample": lambda m, x: m.head(features(m, x)) + x[:, :3] * m.offset,
    "a sum of parameters": lambda m, x: m.offset + 0 * x[:, :3],
}


@pytest.mark.parametrize("name", SEVERAL)
def test_what_depends_on_the_sample_is_no_bias(name):
    model = Custom(SEVERAL[name], body=linear(4, 5), head=linear(5, 3), skip=nn.Linear(4, 3))
    model.offset = number(3)
    with pytest.raises(ValueError, match="no single layer produced the logits"):
        GradNormScorer(model, params="last_layer", progress=False).score([X])
