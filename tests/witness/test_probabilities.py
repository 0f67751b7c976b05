"""Outputs that are probabilities are told, however they are made; logits never are."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgradnorm import DoubtfulScoresWarning, gradient_sketch, score_pool
from tests.support.cases import MLP, Custom, linear, perturb
from tests.support.doubts import findings, warned


def ended(end, classes=3):
    """A small network with something after its head."""
    return perturb(
        Custom(
            lambda m, x: end(m.head(torch.tanh(m.body(x)))),
            body=linear(6, 8),
            head=linear(8, classes),
        )
    )


def pool(samples=12):
    return [torch.randn(samples, 6)]


def sparsemax(z):
    ordered, _ = z.sort(-1, descending=True)
    rank = torch.arange(1, z.shape[-1] + 1)
    total = ordered.cumsum(-1)
    count = (1 + rank * ordered > total).sum(-1, keepdim=True)
    return (z - (total.gather(-1, count - 1) - 1) / count).clamp_min(0)


ROWS_OF_ONE = {
    "softmax": lambda z: z.softmax(-1),
    "functional": lambda z: F.softmax(z, dim=1),
    "exp of log_softmax": lambda z: z.log_softmax(-1).exp(),
    "by hand": lambda z: z.exp() / z.exp().sum(-1, keepdim=True),
    "normalised": lambda z: F.normalize(z.exp(), p=1, dim=-1),
    "clamped": lambda z: z.softmax(-1).clamp(1e-7, 1),
    "averaged": lambda z: (z.softmax(-1) + (2 * z).softmax(-1)) / 2,
    "two columns": lambda z: torch.cat([1 - z[:, :1].sigmoid(), z[:, :1].sigmoid()], 1),
    "sparsemax": sparsemax,
    "in float64 and back": lambda z: z.double().softmax(-1).float(),
    "tempered": lambda z: (z / 10).softmax(-1),
}


@pytest.mark.parametrize("name", ROWS_OF_ONE)
@pytest.mark.parametrize("samples", [1, 12])
def test_rows_that_sum_to_one(name, samples):
    found = findings(ended(ROWS_OF_ONE[name]), pool(samples))
    level, message = found["probabilities"]
    assert level == "warn"
    assert "sum to one" in message and "torch.log" in message


SQUASHED = {
    "sigmoid": lambda z: z.sigmoid(),
    "functional": F.sigmoid,
    "expit": lambda z: torch.special.expit(z),
    "by hand": lambda z: 1 / (1 + torch.exp(-z)),
    "from tanh": lambda z: (torch.tanh(z / 2) + 1) / 2,
    "hard": F.hardsigmoid,
    "clamped": lambda z: z.sigmoid().clamp(1e-6, 1 - 1e-6),
    "moved": lambda z: z[:, None].sigmoid().transpose(1, 2).contiguous()[..., 0],
}


@pytest.mark.parametrize("name", SQUASHED)
@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("likelihood", ["auto", "bernoulli"])
def test_sigmoids_at_the_end(name, classes, likelihood):
    found = findings(ended(SQUASHED[name], classes), pool(), likelihood=likelihood)
    level, message = found["probabilities"]
    assert level == "warn"
    assert "torch.logit" in message


def test_what_no_operation_tells_the_numbers_do():
    """Many values close to both ends and none beyond: an ensemble of two, averaged."""
    model = ended(lambda z: ((8 * z).sigmoid() + (9 * z).sigmoid()) / 2, 5)
    assert warned(model, pool(64)) == {"probabilities"}


def test_a_softmax_over_one_column_is_told():
    found = findings(ended(lambda z: z.softmax(-1), 1), pool())
    assert "ones alone" in found["probabilities"][1]


@pytest.mark.parametrize("class_dim", [1, -1])
def test_dense_outputs(class_dim):
    def forward(m, x):
        return m.body(x).softmax(class_dim)

    body = linear(4, 3) if class_dim == -1 else nn.Conv1d(5, 3, 1)
    model = perturb(Custom(forward, body=body))
    assert "probabilities" in warned(model, [torch.randn(6, 5, 4)], class_dim=class_dim)


def test_half_precision():
    model = ended(lambda z: z.softmax(-1)).bfloat16()
    assert "probabilities" in warned(model, [pool()[0].bfloat16()])


@pytest.mark.parametrize("params", ["all", "last_layer"])
def test_every_way_of_scoring_tells(params):
    model, x = ended(lambda z: z.sigmoid()), pool()
    with pytest.warns(DoubtfulScoresWarning, match="must return logits"):
        score_pool(model, x, progress=False, params=lambda name, p: "head" in name)
    with pytest.warns(DoubtfulScoresWarning, match="must return logits"):
        gradient_sketch(model, x, 4, progress=False)


@pytest.mark.slow
def test_what_is_advised_is_right_and_silent():
    model, x = ended(lambda z: z.softmax(-1)), pool()
    plain = perturb(Custom(model.function, body=model.body, head=model.head))
    plain.function = lambda m, x: m.head(torch.tanh(m.body(x)))
    expected = score_pool(plain, x, progress=False)
    cured = score_pool(
        model, x, progress=False, forward=lambda model, batch: torch.log(model(batch))
    )
    assert torch.allclose(cured, expected, rtol=1e-4)
    model.function = lambda m, x: m.head(torch.tanh(m.body(x))).sigmoid()
    expected = score_pool(plain, x, progress=False, likelihood="bernoulli")
    cured = score_pool(
        model,
        x,
        progress=False,
        forward=lambda model, batch: torch.logit(model(batch), eps=1e-6),
        likelihood="bernoulli",
    )
    assert torch.allclose(cured, expected, rtol=1e-4)


def test_verify_false_looks_at_nothing():
    assert not findings(ended(lambda z: z.softmax(-1)), pool(), verify=False)


LOGITS = {
    "log_softmax": lambda z: z.log_softmax(-1),
    "logsigmoid": F.logsigmoid,
    "within 0 and 1 by chance": lambda z: 0.5 + 0.01 * z,
    "tanh": torch.tanh,
    "scaled tanh": lambda z: 10 * torch.tanh(z / 10),
    "relu": torch.relu,
    "softplus": F.softplus,
    "centred": lambda z: z - z.mean(-1, keepdim=True),
    "cosine": lambda z: F.normalize(z, dim=-1),
    "gated": lambda z: 5 * z * z.sigmoid(),
    "scaled sigmoid": lambda z: 4 * z.sigmoid() - 2,
    "squares": lambda z: -z.square(),
    "plain": lambda z: z,
}


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("samples", [1, 2, 40])
def test_logits_are_never_suspected(name, classes, samples):
    if name in ("cosine", "log_softmax", "centred") and classes == 1:
        pytest.skip("the same for all samples")
    # A single logit that is cut off has no gradient for most samples, which is another finding.
    assert not warned(ended(LOGITS[name], classes), pool(samples)) - {"zero scores"}


def test_one_hot_logits_of_an_identity_are_logits():
    head = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(4))
    assert not warned(head, [torch.eye(4)], scheme="expected")


@pytest.mark.slow
@pytest.mark.parametrize("classes", [1, 2, 10])
@pytest.mark.parametrize("samples", [1, 3, 64])
def test_untrained_models_are_never_suspected(classes, samples):
    for seed in range(5):
        torch.manual_seed(seed)
        assert not warned(MLP(10, 16, classes), [torch.rand(samples, 10)])
        small = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, classes))
        assert not warned(small, [torch.rand(samples, 10)], params="last_layer")


@pytest.mark.parametrize("forward", [
    lambda m, x: F.linear(x, m.w), lambda m, x: x @ m.w.T,
    lambda m, x: torch.addmm(torch.zeros(4), x, m.w.T),
    lambda m, x: F.conv1d(x[:, :, None], m.w[..., None])[..., 0],
])  # fmt: skip
def test_what_a_linear_layer_gives_is_none_wherever_it_lies(forward):
    """Rows of a table whose numbers lie near to both 0 and 1, and never beyond."""
    torch.manual_seed(0)
    model = Custom(forward).eval()
    model.w = nn.Parameter(torch.rand(4, 10).mul(6).sub(2.5).clamp(0.001, 0.999))
    assert "probabilities" not in findings(model, [torch.eye(10), torch.eye(10)])
