"""Every strategy of `acquire` as a query strategy of scikit-activeml: the same samples."""

import copy

import numpy as np
import pytest
import torch

from fastgradnorm import acquire, score_pool
from fastgradnorm._selection.table import TABLE
from tests.support.cases import MLP

skactiveml = pytest.importorskip("skactiveml")

from skactiveml.classifier import SkorchClassifier  # noqa: E402
from skactiveml.pool import SubSamplingWrapper  # noqa: E402
from sklearn.base import clone  # noqa: E402

from fastgradnorm.integrations.skactiveml import AcquireSampling  # noqa: E402


def classifier():
    settings = {"max_epochs": 3, "lr": 0.1, "batch_size": 8, "verbose": 0, "train_split": None}
    settings |= {"module__inputs": 4, "module__classes": 3}
    return SkorchClassifier(MLP, neural_net_param_dict=settings, classes=[0, 1, 2], random_state=0)


@pytest.fixture
def data():
    X = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    truth = (X[:, :2] > 0).sum(1)
    y = truth.astype(float)
    y[8:] = np.nan
    return X, y, truth


@pytest.fixture
def fitted(data):
    X, y, _ = data
    return classifier().fit(X, y)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auto", "published", "sketch/predicted/all/lcmd", *TABLE])
def test_chooses_what_acquire_does(data, fitted, name):
    X, y, _ = data
    strategy = AcquireSampling(name, random_state=3)
    found = strategy.query(X, y, fitted, fit_clf=False, batch_size=5)
    model, pool = fitted.neural_net_.module_, [torch.from_numpy(X)]
    made = acquire(model, pool, 5, labelled=range(8), strategy=name, seed=3, progress=False)
    assert found.tolist() == made.indices.tolist()


@pytest.mark.slow
def test_options_and_utilities(data, fitted):
    X, y, _ = data
    options = {"params": "all", "scheme": "entropy", "space": "sketch"}
    strategy = AcquireSampling("lcmd", options=options, random_state=0)
    asked = {"fit_clf": False, "batch_size": 4, "return_utilities": True}
    found, utilities = strategy.query(X, y, fitted, **asked)
    model = fitted.neural_net_.module_
    made = acquire(model, [torch.from_numpy(X)], 4, labelled=range(8), strategy="lcmd", **options)
    assert found.tolist() == made.indices.tolist()
    assert np.isnan(utilities[:, :8]).all()
    expected = score_pool(model, [torch.from_numpy(X[8:])], scheme="entropy", progress=False)
    assert np.allclose(utilities[0, 8:], expected, rtol=1e-5)
    for i in range(1, 4):
        assert np.isnan(utilities[i, found[:i]]).all()
        assert np.isnan(utilities[i]).sum() == 8 + i


@pytest.mark.slow
def test_utilities_of_an_iterator_that_shuffles(data, fitted):
    X, y, _ = data
    asked = {"fit_clf": False, "batch_size": 3, "return_utilities": True}
    strategy = AcquireSampling("top", options={"params": "all"}, random_state=0)
    fitted.neural_net_.iterator_valid__shuffle = True
    found, utilities = strategy.query(X, y, fitted, **asked)
    model = fitted.neural_net_.module_
    expected = score_pool(model, [torch.from_numpy(X[8:])], progress=False)
    assert np.allclose(utilities[0, 8:], expected, rtol=1e-5)
    assert found.tolist() == (8 + expected.topk(3).indices).tolist()


@pytest.mark.slow
def test_candidates_as_indices_and_as_samples(data, fitted):
    X, y, _ = data
    few = np.array([20, 9, 25, 11, 28, 13])
    strategy = AcquireSampling(random_state=0)
    inside = strategy.query(X, y, fitted, fit_clf=False, candidates=few, batch_size=3)
    outside = strategy.query(X, y, fitted, fit_clf=False, candidates=X[few], batch_size=3)
    assert {*inside} <= {*few}
    assert len({*inside}) == 3
    assert X[few][outside].tolist() == X[inside].tolist()


@pytest.mark.slow
def test_cycles_from_no_label_to_the_last(data):
    X, y, truth = data
    y = np.full(len(X), np.nan)
    strategy, seen = AcquireSampling("uherding", random_state=1), []
    for size in (10, 10, 10):
        clf = classifier().fit(X[:4], truth[:4].astype(float))
        found = strategy.query(X, y, clf, fit_clf=False, batch_size=size)
        seen += found.tolist()
        y[found] = truth[found]
    assert sorted(seen) == list(range(30))


@pytest.mark.slow
def test_a_drawn_seed_and_a_subsampling_wrapper(data, fitted):
    X, y, _ = data
    asked = {"fit_clf": False, "batch_size": 6}
    strategy = AcquireSampling("random")
    draws = {tuple(strategy.query(X, y, fitted, **asked)) for _ in range(4)}
    assert len(draws) > 1
    generators = [AcquireSampling("random", random_state=np.random.RandomState(4))] * 2
    first, second = (copy.deepcopy(each).query(X, y, fitted, **asked) for each in generators)
    assert first.tolist() == second.tolist()
    wrapped = SubSamplingWrapper(AcquireSampling(), max_candidates=5, random_state=0)
    found = wrapped.query(X, y, clf=fitted, fit_clf=False, batch_size=2)
    assert len({*found}) == 2
    assert np.isnan(y[found]).all()


def test_parameters_and_errors(data, fitted):
    X, y, _ = data
    strategy = AcquireSampling("lcmd", {"space": "sketch"})
    assert clone(strategy).get_params() == strategy.get_params()
    assert {*strategy.get_params()} == {"strategy", "options", "missing_label", "random_state"}
    with pytest.raises(ValueError, match="`options` must be without 'labelled'"):
        AcquireSampling(options={"labelled": [1]}).query(X, y, fitted, fit_clf=False)
    with pytest.raises(ValueError, match="`strategy` must be one that is known"):
        AcquireSampling("herdin").query(X, y, fitted, fit_clf=False)
    with pytest.raises(TypeError, match="not an option of acquire"):
        AcquireSampling(options={"sheme": 1}).query(X, y, fitted, fit_clf=False)
