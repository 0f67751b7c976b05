import numpy as np
import pytest
import torch
from torch import nn

from fastgradnorm import score_pool, select
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import MLP

skorch = pytest.importorskip("skorch")

from fastgradnorm.integrations.skorch import score_skorch  # noqa: E402


class Probabilities(nn.Module):
    """What `NeuralNetClassifier` with its default criterion expects."""

    def __init__(self):
        super().__init__()
        self.logits = MLP()

    def forward(self, x):
        return self.logits(x).softmax(-1)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = MLP(6)

    def forward(self, left, right):
        return self.body(torch.cat([left, right], 1)), right


def fit(net, X):
    return net.fit(X, np.arange(len(next(iter(X.values())) if isinstance(X, dict) else X)) % 5)


@pytest.fixture
def X():
    return np.random.default_rng(0).standard_normal((23, 10)).astype(np.float32)


@pytest.fixture
def options():
    return {"max_epochs": 1, "batch_size": 7, "verbose": 0, "train_split": None}


def test_selects_what_score_pool_selects(X, options):
    net = fit(skorch.NeuralNet(MLP, criterion=nn.CrossEntropyLoss, **options), X)
    training = net.module_.training
    scores = score_skorch(net, X, progress=False)
    outside = score_pool(net.module_, [torch.from_numpy(X)], progress=False)
    assert_close_relative(scores, outside, 1e-5)
    assert select(scores, 5).tolist() == select(outside, 5).tolist()
    assert net.module_.training == training


def test_a_module_of_probabilities_is_scored_by_its_own_loss(X, options):
    net = fit(skorch.NeuralNetClassifier(Probabilities, **options), X)
    eps = torch.finfo(torch.float32).eps
    expected = oracle.scores(
        net.module_,
        oracle.ones(torch.from_numpy(X)),
        call=lambda model, x: torch.log(model(x) + eps),
    )
    assert_close_relative(score_skorch(net, X, progress=False), expected, 1e-5)
    with_logits = score_pool(net.module_.logits, [torch.from_numpy(X)], progress=False)
    assert_close_relative(with_logits, expected, 1e-5)


def test_mappings_several_outputs_and_options(X, options):
    net = skorch.NeuralNet(TwoInputs, criterion=nn.CrossEntropyLoss, **options).initialize()
    inputs = {"left": X[:, :3], "right": X[:, 3:6]}
    found = score_skorch(net, inputs, scheme=["entropy", "expected"], progress=False)
    outside = score_pool(
        net.module_,
        [{name: torch.from_numpy(part) for name, part in inputs.items()}],
        scheme="entropy",
        progress=False,
    )
    assert list(found) == ["entropy", "expected"]
    assert_close_relative(found["entropy"], outside, 1e-5)


def test_what_is_no_fitted_net_is_refused(X):
    with pytest.raises(TypeError, match=r"`net` must be a skorch.NeuralNet. Got MLP"):
        score_skorch(MLP(), X)
    with pytest.raises(ValueError, match=r"`net` must be initialised"):
        score_skorch(skorch.NeuralNet(MLP, criterion=nn.CrossEntropyLoss), X)


@pytest.mark.parametrize("loading", [
    {"iterator_valid__shuffle": True},
    {"iterator_valid__sampler": [*range(22, -1, -1)]},
    {"iterator_valid__shuffle": True, "iterator_valid__num_workers": 1},
    {"iterator_valid__sampler": [*range(22, 11, -1), *range(12), 3]},
    {"iterator_valid__sampler": torch.utils.data.SubsetRandomSampler(range(23))},
])  # fmt: skip
@pytest.mark.filterwarnings(
    "ignore:`loader` gave 24 scores", "ignore:You set iterator_valid__shuffle"
)
def test_scores_are_in_the_order_of_the_samples_whatever_draws_them(X, options, loading):
    net = fit(skorch.NeuralNet(MLP, nn.CrossEntropyLoss, **options, **loading), X)
    found = score_skorch(net, X, progress=False, scheme=["expected", "entropy"])
    expected = score_pool(net.module_, [torch.from_numpy(X)], progress=False)
    assert_close_relative(found["expected"], expected, 1e-5)


@pytest.mark.parametrize("loading", [
    {"iterator_valid__drop_last": True}, {"iterator_valid__sampler": [3, 4]},
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:`loader` gave")
def test_a_net_that_leaves_samples_out_is_refused(X, options, loading):
    net = fit(skorch.NeuralNet(MLP, nn.CrossEntropyLoss, **options, **loading), X)
    with pytest.raises(ValueError, match="must read all of its 23 samples"):
        score_skorch(net, X, progress=False)
