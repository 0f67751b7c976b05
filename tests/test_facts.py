"""What the scores are, and what the code published with Wang et al. (2022) really computes."""

import math

import pytest
import torch
from torch import nn

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import CASES


def weighted_loss(model, x, detach):
    """`sum_c p_c loss(x, c)`, the quantity that the published code differentiates."""
    z = model(x)
    p = z.softmax(1)
    return ((p.detach() if detach else p) * -z.log_softmax(1)).sum()


def published_code(model, x):
    """The published loop: unsquared L2 norms of the gradients of all tensors, added up."""
    model.zero_grad()
    weighted_loss(model, x, detach=False).backward()
    total = 0.0
    for parameter in model.parameters():
        total += parameter.grad.norm(2).item()
    model.zero_grad(set_to_none=True)
    return total


@pytest.fixture(params=["mlp", "groupnorm-cnn", "transformer"])
def model_and_inputs(request):
    model, inputs = CASES[request.param].random()
    return model, inputs[:6]


def test_sum_with_attached_probabilities_has_the_gradient_of_the_entropy(model_and_inputs):
    model, inputs = model_and_inputs
    model, inputs = model.double(), inputs.double()
    for x in oracle.ones(inputs):
        entropy = torch.distributions.Categorical(logits=model(x)).entropy().sum()
        parameters = list(model.parameters())
        expected = torch.autograd.grad(entropy, parameters)
        actual = torch.autograd.grad(weighted_loss(model, x, detach=False), parameters)
        for a, b in zip(actual, expected, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_sum_with_detached_probabilities_has_no_gradient(model_and_inputs):
    model, inputs = model_and_inputs
    model, inputs = model.double(), inputs.double()
    for x in oracle.ones(inputs):
        parameters = list(model.parameters())
        for g in torch.autograd.grad(weighted_loss(model, x, detach=True), parameters):
            assert g.abs().max() < 1e-12


@pytest.mark.slow
def test_entropy_per_tensor_reproduces_the_published_code(model_and_inputs):
    model, inputs = model_and_inputs
    expected = torch.tensor([published_code(model, x) for x in oracle.ones(inputs)])
    actual = score_pool(model, [inputs], scheme="entropy", reduction="per_tensor", progress=False)
    assert_close_relative(actual, expected, 1e-5)


@pytest.mark.slow
def test_expected_is_another_score_than_entropy(model_and_inputs):
    model, inputs = model_and_inputs
    by_scheme = score_pool(model, [inputs], scheme=("expected", "entropy"), progress=False)
    ratio = by_scheme["expected"] / by_scheme["entropy"]
    assert ratio.std() / ratio.mean() > 0.05


class Logits(nn.Module):
    """Logits that are the inputs, through a linear head whose weight is the identity."""

    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(classes, classes, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(classes))

    def forward(self, x):
        return self.head(x)


def sweep(classes, p1):
    """Logits of posteriors with probability p1 [M] on class 0, the rest uniform."""
    rest = (1 - p1) / (classes - 1)
    p = torch.cat([p1[:, None], rest[:, None].expand(-1, classes - 1)], 1)
    return p.log()


def last_layer_entropy(classes, p1):
    """Last-layer entropy scores divided by the norm of the features."""
    logits = sweep(classes, p1)
    scores = score_pool(
        Logits(classes), [logits.float()], scheme="entropy", params="last_layer", progress=False
    )
    return scores.double() / logits.norm(dim=1)


@pytest.mark.parametrize("classes, maximum", [(2, 0.82), (10, 0.67)])
def test_last_layer_entropy_is_largest_between_doubt_and_certainty(classes, maximum):
    p1 = torch.linspace(1 / classes + 1e-3, 0.999, 1000, dtype=torch.float64)
    assert p1[last_layer_entropy(classes, p1).argmax()].item() == pytest.approx(maximum, abs=0.01)


@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("classes", [2, 10])
def test_entropy_score_vanishes_at_uniform_and_one_hot_and_expected_does_not_at_uniform(
    classes, params
):
    logits = torch.zeros(2, classes)
    logits[0], logits[1, 0] = 1.0, 80.0  # uniform; one-hot
    by_scheme = score_pool(
        Logits(classes), [logits], scheme=oracle.SCHEMES, params=params, progress=False
    )
    assert by_scheme["entropy"][0] < 1e-6
    assert by_scheme["entropy"][1] < 1e-28
    uniform = math.sqrt(1 - 1 / classes) * math.sqrt(classes)  # |p - e_c| times |features|
    assert by_scheme["expected"][0].item() == pytest.approx(uniform, rel=1e-5)
    assert by_scheme["expected_squared"][0].item() == pytest.approx(uniform**2, rel=1e-5)
    assert by_scheme["expected"][1] < 1e-28


def test_readable_example_by_hand():
    """Two classes, all-zero weights: p is 1/2, and the score is `sqrt(1 + |x|^2) |p - e_c|`."""
    model = nn.Linear(3, 2)
    for p in model.parameters():
        nn.init.zeros_(p)
    scores = score_pool(model, [torch.tensor([[1.0, 0, 0], [1.0, 1, 1]])], progress=False)
    assert scores.tolist() == pytest.approx([1.0, math.sqrt(2.0)], rel=1e-6)
