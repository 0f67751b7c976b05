"""Options together, on each of the engine's ways, against float64 autograd of the losses.

One may be right by itself and forgotten on a way that another opens: the slow loop, samples that
branch, rounds of `rtol`, the closed form of the last layer.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import GradNormScorer, gradient_sketch, naive_score_pool, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import MLP

RTOL = 1e-5
# Models that branch do so for a whole batch where they are called on one: that is told.
pytestmark = pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")


def together(x):
    """All samples at once."""
    return 1.0


def alone(x):
    """Each sample takes a branch of its own: the slow loop."""
    return 1.0 + 0.0 * x.flatten().double().sum().item()


def branching(x):
    """Samples part ways by a sign."""
    return 1.5 if bool(x.flatten()[0] > 0) else 0.75


slow = pytest.mark.filterwarnings("ignore::fastgradnorm.SlowPathWarning")  # elsewhere an error
WAYS = [together, pytest.param(alone, marks=slow), branching]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


class Positions(nn.Module):
    """Logits `[N, C, T]` of inputs `[N, 2, T]`, each position for itself; `last`: `[N, T, C]`."""

    def __init__(self, way=together, classes=3, last=False):
        super().__init__()
        self.body, self.head = nn.Conv1d(2, 4, 1), nn.Conv1d(4, classes, 1)
        self.way, self.last = way, last

    def forward(self, x):
        z = self.head(torch.tanh(self.body(x))) * self.way(x)
        return z.movedim(1, -1) if self.last else z


def flat(way=together, classes=4):
    """Logits `[N, C]` of inputs `[N, 10]`."""

    class Model(MLP):
        def forward(self, x):
            z = super().forward(x)
            return z if way is together else z * way(x)  # the last layer's own output, or not

    return Model(classes=classes)


def entropies(z, likelihood):
    """Of each position, and label if they are each one's own; classes last."""
    if likelihood == "categorical":
        return -(z.softmax(-1) * z.log_softmax(-1)).sum(-1)
    return -(z.sigmoid() * F.logsigmoid(z) + (-z).sigmoid() * F.logsigmoid(-z))


def entropy_scores(model, samples, masks, likelihood, class_dim, temperature, reduction):
    """By one float64 backward pass a sample through the mean entropy over valid positions."""
    model = copy.deepcopy(model).double().eval()
    scores = []
    for sample, mask in zip(samples, masks, strict=True):
        z = model(sample[None].double()).movedim(class_dim, -1)[0] / temperature
        valid = entropies(z, likelihood)[mask]
        if not len(valid):
            scores.append(0.0)
            continue
        grads = torch.autograd.grad(valid.mean(), list(model.parameters()))
        norms = torch.stack([g.norm() for g in grads])
        scores.append(float(norms.norm() if reduction == "global" else norms.sum()))
    return torch.tensor(scores, dtype=torch.float64)


@pytest.fixture
def masked():
    """Samples of five positions: of the second none is valid, of the third one."""
    x, mask = torch.randn(7, 2, 5), torch.rand(7, 5) < 0.5
    mask[0], mask[1], mask[2] = True, False, False
    mask[2, 3] = True
    return x, mask


SETTINGS = [(1, 1.0, "global"), (-1, 2.5, "per_tensor"), (2, 0.4, "global")]


@pytest.mark.slow
@ways
@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
@pytest.mark.parametrize("class_dim, temperature, reduction", SETTINGS)
def test_mean_entropy_over_valid_positions(
    masked, way, likelihood, class_dim, temperature, reduction
):
    x, mask = masked
    model = Positions(way, last=class_dim != 1)
    options = {
        "likelihood": likelihood, "class_dim": class_dim, "temperature": temperature,
        "reduction": reduction,
    }  # fmt: skip
    expected = entropy_scores(model, x, mask, **options)
    batches = list(zip(x.split(4), mask.split(4), strict=True))
    options |= {"scheme": "entropy", "mask": lambda batch: batch[1]}
    actual = score_pool(model, batches, progress=False, **options)
    assert_close_relative(actual, expected, RTOL)
    assert_close_relative(naive_score_pool(model, batches, **options), expected, RTOL)


@pytest.mark.slow
@ways
@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_what_is_masked_out_has_no_part_in_a_score(masked, way, likelihood):
    """Also where labels are drawn, and where nothing is left."""
    x, mask = masked
    other = torch.where(mask[:, None], x, torch.randn_like(x))
    other[:, :, 0] = x[:, :, 0]  # what a branch is taken by
    mask[1:, 0] = False
    model = Positions(way)
    options = {"likelihood": likelihood, "mask": lambda batch: batch[1], "progress": False}
    options["scheme"] = oracle.SCHEMES
    first, second = (score_pool(model, [(each, mask)], **options) for each in (x, other))
    for scheme in oracle.SCHEMES:
        assert_close_relative(second[scheme], first[scheme], RTOL, scheme)
        assert first[scheme][1] == 0
    changed = score_pool(model, [(other, ~mask)], **options)
    assert not torch.allclose(changed["entropy"], first["entropy"], rtol=1e-2)


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_sketches_take_the_same_options(masked, likelihood, temperature):
    """A sketch's length is the entropy's score where buckets are many."""
    x, mask = masked
    model = Positions()
    options = {"likelihood": likelihood, "temperature": temperature}
    options |= {"mask": lambda batch: batch[1], "progress": False}
    rows = gradient_sketch(model, [(x, mask)], 4096, scheme="entropy", verify=False, **options)
    expected = score_pool(model, [(x, mask)], scheme="entropy", **options)
    assert (rows.norm(dim=1) - expected).abs().max() < 0.05 * expected.max()
    assert rows[1].eq(0).all()


@pytest.mark.slow
@ways
@pytest.mark.parametrize("order", [(4, 6), (6, 4)])
def test_attention_masks_of_batches_of_different_lengths(way, order):
    """The default mask of each length, whichever came first."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 6), nn.Linear(6, 3)

        def forward(self, input_ids, attention_mask=None):
            return self.head(torch.tanh(self.embed(input_ids))) * way(input_ids - 4)

    model = Tokens()
    batches, expected = [], []
    for length in order:
        ids = torch.randint(0, 9, (5, length))
        valid = torch.arange(length) < torch.tensor([[length], [3], [2], [1], [3]])
        batches.append({"input_ids": ids, "attention_mask": valid.long()})
        double = copy.deepcopy(model).double()
        for row, mask in zip(ids, valid, strict=True):
            loss = entropies(double(row[None])[0], "categorical")[mask].mean()
            grads = torch.autograd.grad(loss, list(double.parameters()))
            expected.append(torch.stack([g.norm() for g in grads]).norm())
    actual = score_pool(model, batches, scheme="entropy", class_dim=-1, progress=False)
    assert_close_relative(actual, torch.stack(expected), RTOL)


def head_only(name):
    return name.startswith("head")


@pytest.mark.slow
@ways
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_parameters_of_the_head_alone(way, temperature, classes):
    """By name and by a function, in each reduction; verified for one of each."""
    model, x = flat(way, classes), torch.randn(5, 10)
    likelihood = "bernoulli" if classes == 1 else "categorical"
    samples = oracle.ones(x)
    table = oracle.norms(model, samples, temperature=temperature, likelihood=likelihood)
    options = {"scheme": oracle.SCHEMES, "temperature": temperature, "progress": False}
    for params in ("last_layer", lambda name, p: head_only(name)):
        for reduction in oracle.REDUCTIONS:
            options["verify"] = (params == "last_layer") == (reduction == "global")
            actual = score_pool(model, [x], params=params, reduction=reduction, **options)
            for scheme in oracle.SCHEMES:
                expected = table.scores(scheme, reduction, head_only)
                assert_close_relative(actual[scheme], expected, RTOL, scheme)


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
def test_a_last_layer_without_a_bias(classes, reduction):
    model, x = MLP(classes=classes), torch.randn(7, 10)
    model.head = nn.Linear(16, classes, bias=False)
    likelihood = "bernoulli" if classes == 1 else "categorical"
    table = oracle.norms(model, oracle.ones(x), likelihood=likelihood)
    options = {"params": "last_layer", "reduction": reduction, "progress": False}
    actual = score_pool(model, [x], scheme=oracle.SCHEMES, **options)
    for scheme in oracle.SCHEMES:
        expected = table.scores(scheme, reduction, head_only)
        assert_close_relative(actual[scheme], expected, RTOL, scheme)


@pytest.mark.slow
def test_dense_outputs_of_one_position():
    """Which are made like those of none, and scored alike."""
    model, x = MLP(classes=3), torch.randn(7, 10)
    options = {"params": "last_layer", "scheme": oracle.SCHEMES, "progress": False}
    dense = score_pool(model, [x[:, None]], class_dim=-1, **options)
    plain = score_pool(model, [x], **options)
    for scheme in oracle.SCHEMES:
        assert_close_relative(dense[scheme], plain[scheme], RTOL, scheme)


@pytest.mark.slow
@ways
@pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_rounds_that_take_all_classes_are_exact(way, reduction, temperature):
    model, x = flat(way, 6), torch.randn(7, 10)
    table = oracle.norms(model, oracle.ones(x), temperature=temperature)
    options = {"reduction": reduction, "temperature": temperature, "scheme": oracle.SCHEMES}
    actual = GradNormScorer(model, rtol=1e-12, progress=False, **options).score(x.split(4))
    for scheme in oracle.SCHEMES:
        expected = table.scores(scheme, reduction)
        assert_close_relative(actual[scheme].values, expected, RTOL, scheme)
        error = actual[scheme].standard_error
        assert error is None or error.eq(0).all()
