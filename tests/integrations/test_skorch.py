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


@pytest.mark.slow
def test_selects_what_score_pool_selects(X, options):
    net = fit(skorch.NeuralNet(MLP, criterion=nn.CrossEntropyLoss, **options), X)
    training = net.module_.training
    scores = score_skorch(net, X, progress=False)
    outside = score_pool(net.module_, [torch.from_numpy(X)], progress=False)
    assert_close_relative(scores, outside, 1e-5)
    assert select(scores, 5).tolist() == select(outside, 5).tolist()
    assert net.module_.training == training


@pytest.mark.slow
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


@pytest.mark.slow
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


class Squashed(nn.Module):
    """Probabilities of labels, or of one in a vector."""

    def __init__(self, labels=1, flat=False):
        super().__init__()
        self.logits, self.flat = MLP(10, 16, labels), flat

    def forward(self, x):
        p = self.logits(x).sigmoid()
        return p[:, 0] if self.flat else p


class Flat(MLP):
    """One logit, as `NeuralNetBinaryClassifier` wants it."""

    def forward(self, x):
        return super().forward(x)[:, 0]


def initialised(module, criterion, options, kind=skorch.NeuralNet, **more):
    given = {f"module__{name}": value for name, value in more.items()}
    return kind(module, criterion=criterion, **given, **options).initialize()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["expected", "entropy"])
@pytest.mark.parametrize(
    "more",
    [{"labels": 1}, {"labels": 1, "flat": True}, {"labels": 2}, {"labels": 3}],
    ids=["one", "one flat", "two", "three"],
)
def test_probabilities_of_labels(X, options, more, scheme):
    net = initialised(Squashed, nn.BCELoss, options, **more)
    expected = score_pool(
        net.module_.logits, [torch.from_numpy(X)], scheme=scheme, likelihood="bernoulli",
        progress=False,
    )  # fmt: skip
    assert_close_relative(score_skorch(net, X, scheme=scheme, progress=False), expected, 1e-4)
    said = score_skorch(net, X, scheme=scheme, progress=False, likelihood="bernoulli")
    assert_close_relative(said, expected, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", [nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss])
@pytest.mark.parametrize("labels", [2, 5])
def test_logits_of_labels(X, options, criterion, labels):
    net = initialised(MLP, criterion, options, classes=labels)
    outside = score_pool(
        net.module_, [torch.from_numpy(X)], likelihood="bernoulli", scheme="entropy", progress=False
    )
    assert_close_relative(score_skorch(net, X, scheme="entropy", progress=False), outside, 1e-5)
    classes = score_pool(net.module_, [torch.from_numpy(X)], scheme="entropy", progress=False)
    said = score_skorch(net, X, scheme="entropy", progress=False, likelihood="categorical")
    assert_close_relative(said, classes, 1e-5)


def test_a_binary_classifier(X, options):
    net = skorch.NeuralNetBinaryClassifier(Flat, module__classes=1, **options)
    net.fit(X, (np.arange(len(X)) % 2).astype(np.float32))
    samples = oracle.ones(torch.from_numpy(X))

    def call(model, x):
        return model(x)[:, None]

    expected = oracle.scores(net.module_, samples, call=call, likelihood="bernoulli")
    assert_close_relative(score_skorch(net, X, progress=False), expected, 1e-5)


@pytest.mark.parametrize(
    "criterion",
    [nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss],
)
@pytest.mark.parametrize("values", [1, 4])
def test_regressions_are_refused(X, options, criterion, values):
    net = initialised(MLP, criterion, options, skorch.NeuralNetRegressor, classes=values)
    with pytest.raises(ValueError, match=rf"`net` must be a classifier.*{criterion.__name__}"):
        score_skorch(net, X, progress=False)
    likelihood = "bernoulli" if values == 1 else "categorical"
    said = score_skorch(net, X, progress=False, likelihood=likelihood)
    outside = score_pool(net.module_, [torch.from_numpy(X)], progress=False)
    assert_close_relative(said, outside, 1e-5)


@pytest.mark.slow
def test_what_is_given_counts_instead_of_the_criterion(X, options):
    net = initialised(MLP, nn.MSELoss, options)
    given = score_skorch(net, X, progress=False, forward=lambda model, batch: model(batch[0]))
    assert_close_relative(
        given, score_pool(net.module_, [torch.from_numpy(X)], progress=False), 1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("nested", [False, True])
def test_a_pipeline_is_scored_by_what_its_steps_make(X, options, nested):
    pipelines = pytest.importorskip("sklearn.pipeline")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    net = skorch.NeuralNet(MLP, criterion=nn.CrossEntropyLoss, **options)
    last = pipelines.make_pipeline(preprocessing.MaxAbsScaler(), net) if nested else net
    pipeline = fit(pipelines.make_pipeline(preprocessing.StandardScaler(), last), 5 * X + 1)
    given = pipeline[:-1].transform(5 * X + 1)
    given = pipeline[-1][:-1].transform(given) if nested else given
    fitted = pipeline[-1][-1] if nested else pipeline[-1]
    expected = score_pool(fitted.module_, [torch.from_numpy(given)], progress=False)
    assert_close_relative(score_skorch(pipeline, 5 * X + 1, progress=False), expected, 1e-5)
    with pytest.raises(TypeError, match=r"`net` must be a skorch.NeuralNet. Got StandardScaler"):
        score_skorch(pipelines.make_pipeline(preprocessing.StandardScaler()), X)


@pytest.mark.parametrize("options", [{"scheme": "loss", "loss": "bce"}, {"scheme": "el2n"}])
def test_a_loss_needs_labels_which_skorch_makes_up(options):
    net = skorch.NeuralNet(nn.Linear(4, 1), nn.BCEWithLogitsLoss).initialize()
    with pytest.raises(ValueError, match=r"Dataset\(X, y\)"):
        score_skorch(net, np.zeros((5, 4), np.float32), progress=False, **options)


def test_a_loss_of_inputs_with_labels():
    x, y = torch.randn(9, 4), torch.randint(0, 3, (9,))
    model = nn.Linear(4, 3)
    net = skorch.NeuralNetClassifier(model, criterion=nn.CrossEntropyLoss).initialize()
    options = {"scheme": "loss", "loss": "cross_entropy", "progress": False}
    found = score_skorch(net, skorch.dataset.Dataset(x.numpy(), y.numpy()), **options)
    torch.testing.assert_close(found, score_pool(net.module_, [(x, y)], **options))
