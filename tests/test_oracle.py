"""The referee itself, against 60 digits, textbook losses and finite differences."""

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import CASES, MLP, ChannelsLastGradient, log_doubt


def to_mp(values):
    return [mpmath.mpf(float(v)) for v in values]


def mp_softmax(z):
    total = mpmath.fsum(mpmath.exp(v) for v in z)
    return [mpmath.exp(v) / total for v in z]


def as_tensor(values):
    return torch.tensor([float(v) for v in values], dtype=torch.float64)


@pytest.mark.parametrize("gap", [0.0, 1e-3, 0.7, 5.0, 17.0, 35.0, 69.0, 500.0])
@pytest.mark.parametrize("classes", [2, 7])
def test_cotangents_have_all_digits_of_a_60_digit_calculation(gap, classes):
    z = torch.randn(classes, dtype=torch.float64)
    z[1] = z.max() + gap
    with mpmath.workdps(600):  # 1 - p may be 1e-217: differences need that many digits
        p = mp_softmax(to_mp(z))
        entropy = -mpmath.fsum(q * mpmath.log(q) for q in p)
        expected = as_tensor([-q * (mpmath.log(q) + entropy) for q in p])
        assert_close_relative(oracle.entropy_cotangent(z), expected, 2e-13, "entropy")
        for c in range(classes):
            expected = as_tensor([q - (j == c) for j, q in enumerate(p)])
            assert_close_relative(oracle.label_cotangent(z, c), expected, 2e-13, f"label {c}")


def test_single_logit_is_exactly_the_second_of_two_classes():
    z = torch.tensor([[3.7]], dtype=torch.float64)
    (p0, g0), (p1, g1) = oracle._bernoulli(z)[0]
    assert p1 == pytest.approx(torch.sigmoid(z).item(), rel=1e-14)
    assert p0 + p1 == pytest.approx(1.0, rel=1e-14)
    assert g0.item() == pytest.approx(p1, rel=1e-14)
    assert g1.item() == pytest.approx(-p0, rel=1e-14)


def textbook(model, x, scheme, reduction, loss, entropy, labels):
    """Scores of one sample by the definition: gradients of the losses themselves."""
    parameters = list(model.parameters())

    def length(value):
        grads = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        each = torch.stack([g.norm() for g in grads if g is not None])
        return each.norm() if reduction == "global" else each.sum()

    z = model(x)
    if scheme == "entropy":
        return length(entropy(z)).item()
    norms = torch.stack([length(loss(z, y)) for _, y in labels(z)])
    p = torch.stack([q for q, _ in labels(z)]).detach()
    return (p * (norms if scheme == "expected" else norms**2)).sum().item()


@pytest.mark.parametrize("scheme", oracle.SCHEMES)
@pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_categorical_scores_are_those_of_cross_entropy(scheme, reduction, temperature):
    model, x = CASES["mlp"].random()
    model, x = model.double(), x.double()[:8]
    actual = oracle.scores(model, oracle.ones(x), scheme, reduction, temperature=temperature)
    expected = [
        textbook(
            model,
            sample,
            scheme,
            reduction,
            loss=lambda z, y: F.cross_entropy(z / temperature, torch.tensor([y])),
            entropy=lambda z: (
                torch.distributions.Categorical(logits=z / temperature).entropy().sum()
            ),
            labels=lambda z: list(zip((z / temperature).softmax(1)[0], range(5), strict=True)),
        )
        for sample in oracle.ones(x)
    ]
    assert_close_relative(actual, torch.tensor(expected, dtype=torch.float64), 1e-10, scheme)


def bernoulli_labels(z):
    vectors = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * z.shape[1]).view(-1, z.shape[1])
    return [(torch.where(y == 1, z.sigmoid(), 1 - z.sigmoid()).prod(), y) for y in vectors]


@pytest.mark.parametrize("scheme", oracle.SCHEMES)
@pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
@pytest.mark.parametrize("labels", [1, 3])
def test_bernoulli_scores_are_those_of_mean_binary_cross_entropy(scheme, reduction, labels):
    model, x = MLP(classes=labels).double(), torch.randn(6, 10).double()
    actual = oracle.scores(model, oracle.ones(x), scheme, reduction, likelihood="bernoulli")
    expected = [
        textbook(
            model,
            sample,
            scheme,
            reduction,
            loss=lambda z, y: F.binary_cross_entropy_with_logits(z, y[None]),
            entropy=lambda z: torch.distributions.Bernoulli(logits=z).entropy().mean(),
            labels=bernoulli_labels,
        )
        for sample in oracle.ones(x)
    ]
    assert_close_relative(actual, torch.tensor(expected, dtype=torch.float64), 1e-10, scheme)


def test_dense_entropy_is_the_gradient_of_the_mean_over_valid_positions():
    model, x = nn.Conv2d(2, 3, 2).double(), torch.randn(2, 2, 4, 4).double()
    masks = torch.rand(2, 3, 3) < 0.6
    actual = oracle.scores(model, oracle.ones(x), "entropy", masks=masks)
    for n in range(2):
        z = model(x[n : n + 1]).movedim(1, -1)[0][masks[n]]
        entropy = torch.distributions.Categorical(logits=z).entropy().mean()
        grads = torch.autograd.grad(entropy, list(model.parameters()))
        expected = torch.cat([g.flatten() for g in grads]).norm()
        assert_close_relative(actual[n], expected, 1e-12)


def test_dense_label_maps_are_those_of_mean_cross_entropy():
    model, x = nn.Conv1d(2, 3, 1).double(), torch.randn(1, 2, 2).double()
    table = oracle.norms(model, [x])
    assert table.probabilities.sum().item() == pytest.approx(1.0, rel=1e-12)
    for i, y in enumerate(torch.cartesian_prod(torch.arange(3), torch.arange(3))):
        grads = torch.autograd.grad(F.cross_entropy(model(x), y[None]), list(model.parameters()))
        expected = torch.stack([g.norm() for g in grads])
        assert_close_relative(table.label_norms[0, i], expected, 1e-12)


@pytest.mark.parametrize(
    "model, shape",
    [
        (MLP(3, 4, 3), [3]),
        (ChannelsLastGradient(), [4, 3, 3]),
        (ChannelsLastGradient(nn.InstanceNorm1d, affine=True), [4, 7]),
        (ChannelsLastGradient(nn.InstanceNorm2d, affine=True), [4, 3, 3]),
        (ChannelsLastGradient(nn.InstanceNorm3d, affine=True), [4, 3, 2, 2]),
        (ChannelsLastGradient(lambda c: nn.GroupNorm(2, c)), [4, 3, 3]),
    ],
    ids=["mlp", "batch norm", *(f"instance norm {d}d" for d in (1, 2, 3)), "group norm"],
)
def test_norms_agree_with_finite_differences(model, shape):
    model, x = model.double().eval(), torch.randn(1, *shape).double()
    table = oracle.norms(model, [x])
    losses = [lambda c=c: F.cross_entropy(model(x), torch.tensor([c])) for c in range(3)]
    losses.append(lambda: torch.distributions.Categorical(logits=model(x)).entropy().sum())
    for loss, norms in zip(losses, [*table.label_norms[0], table.entropy_norms[0]], strict=True):
        for p, norm in zip(model.parameters(), norms, strict=True):
            slopes = []
            with torch.no_grad():
                for i in range(p.numel()):
                    kept, values = p.view(-1)[i].item(), []
                    for step in (1e-5, -1e-5):
                        p.view(-1)[i] = kept + step
                        values.append(loss().item())
                    p.view(-1)[i] = kept
                    slopes.append((values[0] - values[1]) / 2e-5)
            assert torch.tensor(slopes).norm().item() == pytest.approx(norm.item(), 1e-6, 1e-9)


def test_subset_frozen_and_unused_parameters():
    model, x = MLP().double(), torch.randn(3, 10).double()
    model.unused = nn.Linear(2, 2)
    everything = oracle.norms(model, oracle.ones(x))
    head = everything.scores("expected", keep=lambda name: name.startswith("head"))
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith("head"))
    assert_close_relative(oracle.scores(model, oracle.ones(x)), head, 1e-14)


SLOW = {"resnet18": pytest.mark.slow}
EACH = [pytest.param(case, marks=SLOW.get(name, ())) for name, case in CASES.items()]


@pytest.mark.parametrize("case", EACH, ids=CASES.keys())
def test_cases_are_not_trivial(case):
    """Every parameter has a gradient, classes vary, and confident samples reach 1e-30."""
    model, x = case.random()
    table = oracle.norms(model, oracle.ones(x[:4]))
    assert (table.label_norms.amax((0, 1)) > 0).all()
    assert (table.entropy_norms.amax(0) > 0).all()
    with torch.no_grad():
        assert len(model(x).argmax(1).unique()) > 1
        model, x = case.confident()
        doubt = log_doubt(model(x)) / torch.tensor(10.0).log()
    assert -30.5 < doubt.min() < -29.5
    assert doubt.max() > -1.5
