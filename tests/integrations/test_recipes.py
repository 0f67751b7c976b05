"""The recipes under stand-ins that call them the way their frameworks do."""

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from fastgradnorm import score_pool, select
from fastgradnorm.integrations.recipes import (
    DeepALGradNorm,
    DistilGradNorm,
    LibactGradNorm,
    modal_sampling,
)
from tests.support.cases import MLP


@pytest.fixture
def model():
    return MLP()


@pytest.fixture
def X():
    return torch.randn(30, 10)


def outside(model, X, k, **options):
    return select(score_pool(model, [X], progress=False, **options), k).tolist()


class ModAL:
    """modAL 0.4.2's `BaseLearner.query`: what cannot be unpacked is computed a second time."""

    def __init__(self, estimator, query_strategy):
        self.estimator, self.query_strategy = estimator, query_strategy

    def query(self, X_pool, *args, **kwargs):
        try:
            result, metrics = self.query_strategy(self, X_pool, *args, **kwargs)
        except Exception:
            result, metrics = self.query_strategy(self, X_pool, *args, **kwargs), None
        return result, X_pool[result], metrics


@pytest.mark.parametrize("k", [1, 2, 5])
def test_modal(X, k):
    skorch = pytest.importorskip("skorch")
    net = skorch.NeuralNet(MLP, criterion=torch.nn.CrossEntropyLoss, batch_size=8).initialize()
    calls, strategy = [], modal_sampling(scheme="entropy", progress=False)

    def counted(*args, **kwargs):
        calls.append(1)
        return strategy(*args, **kwargs)

    indices, samples, scores = ModAL(net, counted).query(X.numpy(), n_instances=k)
    assert indices.tolist() == outside(net.module_, X, k, scheme="entropy")
    assert samples.shape == (k, 10)
    assert (np.diff(scores) <= 0).all()
    assert len(calls) == 1


class ScoreStreamingStrategy:
    """DISTIL's: the unlabelled data piece by piece, keeping the best."""

    def __init__(self, unlabeled_dataset, net, args):
        self.unlabeled_dataset, self.model, self.args = unlabeled_dataset, net, args
        self.device = args["device"]

    def select(self, budget):
        found, size = [], self.args["stream_buffer_size"]
        for start in range(0, len(self.unlabeled_dataset), size):
            stop = min(start + size, len(self.unlabeled_dataset))
            scores = self.acquire_scores(Subset(self.unlabeled_dataset, list(range(start, stop))))
            found += zip(scores, range(start, stop), strict=True)
        return [index for _, index in sorted(found, key=lambda pair: -float(pair[0]))][:budget]


@pytest.mark.slow
def test_distil(model, X):
    class GradNorm(DistilGradNorm, ScoreStreamingStrategy):
        pass

    args = {"batch_size": 4, "stream_buffer_size": 7, "device": "cpu"}
    args["gradnorm"] = {"params": "last_layer", "progress": False}
    assert GradNorm(list(X), model, args).select(6) == outside(model, X, 6, params="last_layer")


@pytest.mark.slow
@pytest.mark.parametrize("key", ["test_args", "loader_te_args"])
def test_deepal(model, X, key):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = model

        def forward(self, x):
            return self.body(x), self.body.body(x)

    class Data:
        unlabeled = np.arange(3, 30, 2)

        def get_unlabeled_data(self):
            labels, places = torch.zeros(len(self.unlabeled)), torch.arange(len(self.unlabeled))
            return self.unlabeled, TensorDataset(X[self.unlabeled], labels, places)

    class Strategy:
        def __init__(self, dataset, net):
            self.dataset, self.net = dataset, net

    class GradNorm(DeepALGradNorm, Strategy):
        options = {"progress": False}  # noqa: RUF012

    net = type("Net", (), {"clf": Network(), "params": {key: {"batch_size": 4}}})()
    found = GradNorm(Data(), net).query(5)
    assert found.tolist() == Data.unlabeled[outside(model, X[Data.unlabeled], 5)].tolist()


@pytest.mark.slow
def test_libact(model, X):
    class Data:
        def get_unlabeled_entries(self):
            return np.arange(10, 30), X[10:].double().numpy()

    class QueryStrategy:
        def __init__(self, dataset):
            self.dataset = dataset

    class GradNorm(LibactGradNorm, QueryStrategy):
        def __init__(self, dataset, module):
            super().__init__(dataset)
            self.module, self.options = module, {"progress": False}

    strategy = GradNorm(Data(), model)
    ids, scores = strategy._get_scores()
    assert ids.tolist() == list(range(10, 30))
    assert strategy.make_query() == 10 + outside(model, X[10:], 1)[0] == ids[scores.argmax()]
