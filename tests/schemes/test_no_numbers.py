"""Losses that are no number for some samples, or for all: these are told, and the others scored."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import (
    GradNormScorer,
    NonFiniteScoreError,
    gradient_dots,
    gradient_sketch,
    mean_gradient,
    score_pool,
)
from tests.support import oracle
from tests.support.asserts import assert_close_relative

X = torch.linspace(-2, 2, 30).view(6, 5).sin()
Y = torch.tensor([0, 1, 2, 3, 0, 1])


def _plus(term):
    """Cross-entropy, and a term of the outputs and of which of three kinds a sample is."""
    return lambda output, batch: F.cross_entropy(output, batch[1]) + term(output, batch[1]).mean()


LOSSES = {
    "a spread of one sample": (_plus(lambda z, y: z.std(0)), {0, 1, 2, 3, 4, 5}),
    "a factor that is NaN": (
        _plus(lambda z, y: z.sum(1) * torch.where(y == 2, torch.nan, 0.0)),
        {2},
    ),
    "an infinite weight": (_plus(lambda z, y: z.sum(1) * torch.where(y == 3, torch.inf, 0.0)), {3}),
    "zero over zero": (_plus(lambda z, y: z.sum(1) * (y / y)), {0, 4}),
    "a root of zero": (_plus(lambda z, y: (z.sum(1) * (y != 1)).square().sqrt()), {1, 5}),
    "a logarithm of zero": (_plus(lambda z, y: (z.square().sum(1) * (y != 0)).log()), {0, 4}),
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).eval()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize("verify", ["sampled", "all"])
@pytest.mark.parametrize("name", LOSSES)
def test_samples_without_a_number_are_told(model, name, verify):
    loss, bad = LOSSES[name]
    batches = [(X[:4], Y[:4]), (X[4:], Y[4:])]
    asked = {"loss": loss, "verify": verify, "progress": False}
    with pytest.raises(NonFiniteScoreError) as told:
        score_pool(model, batches, **asked)
    assert {*told.value.indices} == bad
    kept = score_pool(model, batches, on_nonfinite="keep", **asked).double()
    wide = nn.Sequential(*model).double()
    for i in range(6):
        wide.zero_grad()
        loss(wide(X[i : i + 1].double()), (X[i : i + 1], Y[i : i + 1])).backward()
        exact = sum(p.grad.square().sum() for p in wide.parameters()).sqrt()
        assert bool(exact.isfinite()) == (i not in bad)
        assert i in bad or float(abs(kept[i] / exact - 1)) < 1e-5
    assert {*(~kept.isfinite()).nonzero()[:, 0].tolist()} == bad


class Slopes(nn.Module):
    """Of some samples the output has an infinite slope."""

    def __init__(self, slope):
        super().__init__()
        self.body, self.head, self.slope = nn.Linear(5, 4, bias=False), nn.Linear(4, 3), slope

    def forward(self, x):
        return self.head(self.slope(self.body(x)))


SLOPES = {
    "root": lambda h: h.square().sqrt(),
    "length": lambda h: h / (h.square().sum(1, keepdim=True).sqrt() + 1),
    "power": lambda h: h.abs() ** 0.5,
    "spread": lambda h: h / (1 + h.std(1, keepdim=True)),
    "logarithm": lambda h: (1e-30 + h.abs().sqrt()).log().clamp_min(-1) + h,
}


@pytest.mark.parametrize("scheme", ["expected", "entropy"])
@pytest.mark.parametrize("slope", SLOPES)
def test_an_infinite_slope_is_that_of_its_own_sample(slope, scheme):
    torch.manual_seed(0)
    model, x = Slopes(SLOPES[slope]).eval(), X.clone()
    x[[1, 4]] = 0
    asked = {"scheme": scheme, "verify": "all", "on_nonfinite": "keep", "progress": False}
    found = score_pool(model, [x[:4], x[4:]], **asked).double()
    exact = oracle.scores(model, oracle.ones(x), scheme)
    assert torch.equal(found.isfinite(), exact.isfinite())
    rest = exact.isfinite()
    assert int(rest.sum()) >= 4
    assert_close_relative(found[rest], exact[rest], 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("group_by", ["parameter", "module"])
def test_groups_and_parts_of_the_parameters(model, group_by):
    loss, bad = LOSSES["a factor that is NaN"]
    asked = {"loss": loss, "on_nonfinite": "keep", "progress": False}
    found = GradNormScorer(model, group_by=group_by, **asked).score([(X, Y)])
    assert all({*each.isnan().nonzero()[:, 0].tolist()} == bad for each in found.by_group.values())
    last = score_pool(model, [(X, Y)], params="last_layer", **asked)
    assert {*last.isnan().nonzero()[:, 0].tolist()} == bad


@pytest.mark.slow
def test_sketches_and_products(model):
    loss, _ = LOSSES["a factor that is NaN"]
    asked = {"loss": loss, "progress": False}
    with pytest.raises(NonFiniteScoreError, match=r"1 of 6 sketches.*samples 2"):
        gradient_sketch(model, [(X, Y)], dim=4, **asked)
    direction = {"2.bias": torch.ones(4)}
    with pytest.raises(NonFiniteScoreError, match=r"1 of 6 products.*samples 2"):
        gradient_dots(model, [(X, Y)], direction, **asked)


@pytest.mark.slow
def test_a_mean_of_what_is_no_number(model):
    loss, _ = LOSSES["a factor that is NaN"]
    asked = {"loss": loss, "progress": False}
    with pytest.raises(NonFiniteScoreError, match=r"`0.weight` is NaN.*`score_pool` with the same"):
        mean_gradient(model, [(X, Y)], **asked)
    with pytest.warns(UserWarning, match="The mean gradient of `0.weight` is NaN"):
        mean_gradient(model, [(X, Y)], on_nonfinite="warn", **asked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean = mean_gradient(model, [(X, Y)], on_nonfinite="keep", **asked)
    assert bool(mean["0.weight"].isnan().all())
    with pytest.raises(
        ValueError, match=r"`directions\[1\]` must be of finite numbers.*'0.weight'"
    ):
        gradient_dots(model, [(X, Y)], [{"2.bias": torch.ones(4)}, mean], loss="cross_entropy")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64])
def test_one_number_of_a_direction_that_is_none(model, value, dtype):
    direction = torch.ones(model[2].bias.shape, dtype=dtype)
    wrong = direction.clone()
    wrong[-1] = complex(1.0, value) if dtype.is_complex else value
    with pytest.raises(ValueError, match=r"`directions\[0\]` must be of finite"):
        gradient_dots(model, [(X, Y)], [{"2.bias": wrong}], loss="cross_entropy")
    if not dtype.is_complex:
        found = gradient_dots(model, [(X, Y)], {"2.bias": direction}, loss="cross_entropy")
        assert found.shape == (6, 1)


LABELS = {
    "signs": torch.tensor([1, -1, 1, 1, -1, 1]),
    "signs in floating point": torch.tensor([1.0, -1, 1, 1, -1, 1]),
    "from one": torch.tensor([1, 2, 1, 1, 2, 1]),
    "classes": Y,
    "a column": torch.tensor([[1], [-1], [1], [0], [0], [1]]),
    "a mark of its own for no label": torch.tensor([0, 255, 1, 0, 0, 1], dtype=torch.uint8),
}


@pytest.mark.parametrize("scheme", ["loss", "el2n"])
@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_a_single_logit_cannot_have(kind, scheme):
    model, labels = nn.Linear(5, 1), LABELS[kind]
    loss = "cross_entropy" if scheme == "loss" else None
    first = int(((labels.flatten() < 0) | (labels.flatten() > 1)).nonzero()[0])
    told = f"labels from 0 to 1.*Got {labels.flatten()[first].item():g} for sample {first}"
    with pytest.raises(ValueError, match=told):
        score_pool(model, [(X, labels)], loss=loss, scheme=scheme, progress=False)


def test_labels_and_chances_of_several_at_once():
    model = nn.Linear(5, 3).eval()
    labels = torch.rand(6, 3)
    labels[1, 2] = -100
    asked = {"loss": "cross_entropy", "likelihood": "bernoulli", "progress": False}
    assert bool(score_pool(model, [(X, labels)], **asked).isfinite().all())
    labels[4, 1] = 1.5
    with pytest.raises(ValueError, match=r"Got 1.5 for sample 4"):
        score_pool(model, [(X, labels)], **asked)
    values = score_pool(model, [(X, 9 * labels)], loss="mse", progress=False)  # these may be any
    assert bool(values.isfinite().all())
