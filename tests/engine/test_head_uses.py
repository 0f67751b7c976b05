"""Last layers whose parameters a model also uses for something else: in some samples, or unlinked.

In closed form their gradient is that of the one layer. What else is made of them has one of its
own; what is made under `no_grad` has none.
"""

import pytest
import torch
from torch.nn import functional as F

from fastgradnorm import GradNormScorer, acquire, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb

X = torch.randn(12, 6, 4, generator=torch.Generator().manual_seed(0))
AT_ONCE = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))

USES = {
    "mean": lambda m, h: h * (1 + m.head.weight.mean(0)),
    "norm": lambda m, h: h / m.head.weight.norm(),
    "bias": lambda m, h: h + m.head.bias.sum(),
    "rows": lambda m, h: h * m.head.weight[0],
    "transposed": lambda m, h: h + h * m.head.weight.t()[:, 1],
    "there and back": lambda m, h: h + (h @ m.head.weight.t()) @ m.head.weight,
    "layers of it": lambda m, h: h + F.linear(F.linear(h, m.head.weight), m.head.weight.t()),
    "in a list": lambda m, h: h * torch.cat([m.head.weight, m.mixed]).sum(0),
    "rows in a list": lambda m, h: h * torch.stack([m.head.weight[0], m.mixed[0]]).sum(0),
    "twice": lambda m, h: h * m.head(h).amax(-1, keepdim=True),
}


def features(m, x):
    """By the operations of which those uses are made."""
    h = torch.stack([m.body(x).amax(1), m.body(x).mean(1)]).sum(0) @ m.mixed
    return torch.cat([F.linear(h, m.mixed) * h]).tanh()


def model_of(forward):
    torch.manual_seed(0)
    model = perturb(Custom(forward, body=linear(4, 8), head=linear(8, 3)))
    model.register_buffer("mixed", AT_ONCE / 3)
    return model


def is_head(name):
    return name.startswith("head.")


@pytest.mark.slow
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", USES)
@pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")
def test_of_some_samples(name, verify):
    """Which take another branch."""

    def forward(m, x):
        h = features(m, x)
        return m.head(USES[name](m, h) if x.sum() > 0 else h)

    model = model_of(forward)
    exact = oracle.scores(model, oracle.ones(X), keep=is_head)
    found = score_pool(model, X.split(4), params="last_layer", verify=verify, progress=False)
    assert_close_relative(found, exact, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("verify", [True, "first", False])
@pytest.mark.parametrize("name", USES)
def test_of_some_batches(name, verify):
    """Which say so."""

    def forward(m, batch):
        h = features(m, batch["x"])
        return m.head(USES[name](m, h) if batch["used"] else h)

    model = model_of(forward)
    scorer = GradNormScorer(
        model, params="last_layer", verify=verify, forward=lambda m, batch: m(batch)
    )
    for i, used in enumerate((False, False, False, True, False, True, True)):
        x = X + 0.1 * i
        call = {"call": lambda m, x, used=used: m({"x": x, "used": used})}
        exact = oracle.scores(model, oracle.ones(x), keep=is_head, **call)
        found = scorer.score_batch({"x": x, "used": used})
        assert_close_relative(found, exact, 1e-5, str(i))


def sure(m, h):
    with torch.no_grad():
        return m.head(h).softmax(-1).amax(-1, keepdim=True)


@torch.no_grad()
def prototype(m):
    return F.normalize(m.head.weight).mean(0)


def clipped(m, h):
    with torch.no_grad():
        size = torch.cat([m.head.weight.norm()[None], m.head.bias.norm()[None]]).amax()
    return h / size.clamp(min=0.5)


LOOKS = {
    "at its own logits": lambda m, h: h * sure(m, h),
    "at them twice": lambda m, h: h * sure(m, h * sure(m, h)),
    "at them detached": lambda m, h: h * m.head(h).detach().amax(-1, keepdim=True),
    "at its weight": lambda m, h: h * prototype(m),
    "at its size": clipped,
    "at its weight detached": lambda m, h: h + m.head.weight.detach().mean(0),
    "at its data": lambda m, h: h + m.head.weight.data[0],
}


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [0.0, 1e-6])
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", LOOKS)
def test_that_have_no_gradient(name, verify, rtol):
    model = model_of(lambda m, x: m.head(LOOKS[name](m, features(m, x))))
    table = oracle.norms(model, oracle.ones(X))
    options = {"scheme": ["expected", "entropy"], "params": "last_layer", "rtol": rtol}
    scorer = GradNormScorer(model, verify=verify, progress=False, **options)
    for scheme, scores in scorer.score(X.split(4)).items():
        assert_close_relative(scores.values, table.scores(scheme, keep=is_head), 1e-5, scheme)
    for _ in range(2):
        found = scorer.score_batch(X)
        for scheme, scores in found.items():
            assert_close_relative(scores, table.scores(scheme, keep=is_head), 1e-5, scheme)


def test_features_are_those_of_the_logits():
    """Not of what is looked at afterwards."""

    def forward(m, x):
        h = features(m, x)
        logits = m.head(h)
        with torch.no_grad():
            m.kept = m.head(torch.zeros_like(h))
        return logits

    model, pool = model_of(forward), torch.randn(30, 6, 4)
    plain = model_of(lambda m, x: m.head(features(m, x)))
    plain.load_state_dict(model.state_dict())
    options = {"strategy": "coreset", "progress": False}
    chosen = [acquire(each, [pool], 5, **options).indices for each in (model, plain)]
    assert torch.equal(*chosen)
    exact = oracle.scores(plain, oracle.ones(pool), keep=is_head)
    found = score_pool(model, [pool], params="last_layer", progress=False)
    assert_close_relative(found, exact, 1e-5)
