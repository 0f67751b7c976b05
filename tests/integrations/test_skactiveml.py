"""The checks that scikit-activeml makes of its own strategies, and its loop.

Its template of tests is in its repository only, not in what is installed; the properties it asks of
a pool strategy for one annotator are asked here: parameters, types, candidates, batches, cycles.
"""

import copy
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from fastgradnorm import score_pool, select
from tests.support.cases import MLP

skactiveml = pytest.importorskip("skactiveml")

from skactiveml.classifier import SklearnClassifier, SkorchClassifier  # noqa: E402
from skactiveml.pool import SubSamplingWrapper  # noqa: E402
from skactiveml.utils import unlabeled_indices  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.naive_bayes import GaussianNB  # noqa: E402

from fastgradnorm.integrations.skactiveml import GradNormSampling  # noqa: E402

CLASSES = [0, 1, 2]


class Images(nn.Module):
    """A second output, as strategies that need an embedding have it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        embedding = self.conv(x).relu().mean((2, 3))
        return embedding, self.head(embedding)


def classifier(module=MLP, missing_label=np.nan, classes=CLASSES, forward_outputs=None, **settings):
    settings |= {"max_epochs": 3, "lr": 0.1, "batch_size": 8, "verbose": 0, "train_split": None}
    if module is MLP:
        settings |= {"module__inputs": 4, "module__classes": len(classes)}
    return SkorchClassifier(
        module,
        neural_net_param_dict=settings,
        classes=classes,
        missing_label=missing_label,
        random_state=0,
        forward_outputs=forward_outputs,
    )


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


def outside(clf, X, y, k):
    """Indices into X by `select(score_pool(...))`."""
    pool = unlabeled_indices(y)
    inputs = torch.from_numpy(X[pool])
    scores = score_pool(clf.neural_net_.module_, [inputs], progress=False)
    return pool[select(scores, k).numpy()]


class TestSelection:
    @pytest.mark.slow
    def test_several_cycles_select_what_score_pool_selects(self, data):
        X, y, truth = data
        strategy = GradNormSampling()
        for _ in range(4):
            clf = classifier().fit(X, y)
            expected = outside(clf, X, y, 3)
            found = strategy.query(X, y, clf, fit_clf=False, batch_size=3)
            assert found.tolist() == expected.tolist()
            y[found] = truth[found]
        assert np.isnan(y).sum() == 22 - 12

    @pytest.mark.slow
    def test_fit_clf_trains_a_copy(self, data):
        X, y, _ = data
        clf = classifier()
        torch.manual_seed(5)
        found = GradNormSampling().query(X, y, clf)
        assert not hasattr(clf, "neural_net_")
        torch.manual_seed(5)
        assert found.tolist() == outside(clone(clf).fit(X, y), X, y, 1).tolist()

    def test_images_and_a_later_output(self):
        X = np.random.default_rng(0).standard_normal((12, 1, 6, 6))
        y = np.r_[0, 1, np.full(10, np.nan)]
        clf = classifier(Images, forward_outputs={"proba": (1, nn.Softmax(dim=-1))}).fit(X, y)
        found = GradNormSampling("entropy").query(X, y, clf, fit_clf=False, batch_size=4)
        scores = score_pool(
            clf.neural_net_.module_,
            [torch.from_numpy(X[2:]).float()],
            scheme="entropy",
            forward=lambda model, batch: model(batch)[1],
            progress=False,
        )
        assert found.tolist() == (select(scores, 4) + 2).tolist()

    def test_options_reach_the_scorer(self, data, fitted):
        X, y, _ = data
        strategy = GradNormSampling(params="last_layer", options={"reduction": "per_tensor"})
        _, utilities = strategy.query(X, y, fitted, fit_clf=False, return_utilities=True)
        expected = score_pool(
            fitted.neural_net_.module_,
            [torch.from_numpy(X[8:])],
            params="last_layer",
            reduction="per_tensor",
            progress=False,
        )
        assert np.allclose(utilities[0, 8:], expected, rtol=1e-5)

    def test_inside_a_subsampling_wrapper(self, data, fitted):
        X, y, _ = data
        wrapped = SubSamplingWrapper(GradNormSampling(), max_candidates=5, random_state=0)
        found, utilities = wrapped.query(
            X, y, clf=fitted, fit_clf=False, batch_size=2, return_utilities=True
        )
        assert np.isfinite(utilities[0]).sum() == 5
        assert found[0] == np.nanargmax(utilities[0])


class TestTemplate:
    def test_parameters_are_stored_as_they_are(self):
        values = {
            name: object()
            for name in ("scheme", "params", "options", "missing_label", "random_state")
        }
        strategy = GradNormSampling(**values)
        assert strategy.get_params(deep=False) == values
        assert clone(GradNormSampling("entropy", random_state=3)).scheme == "entropy"

    @pytest.mark.parametrize(
        "change, error",
        [
            ({"clf": np.nan}, TypeError),
            ({"clf": "state"}, TypeError),
            ({"clf": GaussianNB()}, TypeError),
            ({"clf": SklearnClassifier(GaussianNB(), classes=CLASSES)}, TypeError),
            ({"fit_clf": np.nan}, TypeError),
            ({"fit_clf": "state"}, TypeError),
            ({"X": "string"}, (ValueError, TypeError)),
            ({"y": np.nan}, TypeError),
            ({"y": np.zeros(31)}, ValueError),
            ({"candidates": np.nan}, ValueError),
            ({"candidates": [31]}, (ValueError, IndexError)),
            ({"batch_size": 0}, ValueError),
            ({"batch_size": 1.2}, TypeError),
            ({"return_utilities": "string"}, TypeError),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_wrong_arguments_of_query(self, data, fitted, change, error):
        X, y, _ = data
        arguments = {"X": X, "y": y, "clf": fitted, "fit_clf": False, **change}
        with pytest.raises(error):
            GradNormSampling().query(**arguments)

    @pytest.mark.parametrize(
        "settings, error",
        [
            ({"scheme": "loud"}, ValueError),
            ({"scheme": ["entropy"]}, TypeError),
            ({"params": "first"}, ValueError),
            ({"options": {"rtl": 1}}, TypeError),
            ({"random_state": "state"}, ValueError),
            ({"missing_label": object}, TypeError),
        ],
    )
    def test_wrong_arguments_of_the_strategy(self, data, fitted, settings, error):
        X, y, _ = data
        with pytest.raises(error):
            GradNormSampling(**settings).query(X, y, fitted, fit_clf=False)

    @pytest.mark.parametrize(
        "missing, classes, dtype",
        [
            (np.nan, [1.0, 2.0], float),
            (0, [1, 2], int),
            (None, ["A", "B"], object),
            ("", ["A", "B"], str),
        ],
    )
    def test_missing_labels_of_any_type(self, data, missing, classes, dtype):
        X = data[0]
        y = np.full(len(X), missing, dtype=dtype if dtype is not str else "U1")
        y[:2] = classes
        clf = classifier(missing_label=missing, classes=classes)
        (found,) = GradNormSampling(missing_label=missing).query(X, y, clf)
        assert found >= 2
        with pytest.raises(TypeError):
            GradNormSampling(missing_label=object).query(X, y, clf)

    @pytest.mark.slow
    def test_candidates_as_indices_as_samples_or_none(self, data, fitted):
        X, y, _ = data
        pool = unlabeled_indices(y)

        def query(candidates):
            return GradNormSampling().query(
                X, y, fitted, False, candidates, batch_size=2, return_utilities=True
            )

        default, indices, samples = query(None), query(pool), query(X[pool])
        assert np.array_equal(default[1], indices[1], equal_nan=True)
        assert default[0].tolist() == indices[0].tolist() == pool[samples[0]].tolist()
        assert np.allclose(default[1][:, pool], samples[1], equal_nan=True)
        one = GradNormSampling().query(X, y, fitted, False, pool[:1], return_utilities=True)
        assert one[0].tolist() == pool[:1].tolist()
        assert (~np.isnan(one[1])).sum() == 1

    def test_utilities_of_each_pick(self, data, fitted):
        X, y, _ = data
        found, utilities = GradNormSampling().query(
            X, y, fitted, fit_clf=False, batch_size=5, return_utilities=True
        )
        assert utilities.shape == (5, len(X))
        assert np.isnan(utilities[0]).sum() == 8
        for i, row in enumerate(utilities):
            assert np.nanargmax(row) == found[i]
            assert np.isnan(row[found[:i]]).all()
            assert np.isnan(row).sum() == 8 + i

    def test_too_large_a_batch_warns_and_shrinks(self, data, fitted):
        X, y, _ = data
        with pytest.warns(UserWarning, match="'batch_size=23' is larger"):
            assert len(GradNormSampling().query(X, y, fitted, False, batch_size=23)) == 22

    @pytest.mark.parametrize("labels", [0, 1, 29])
    def test_cycles_from_no_label_to_the_last(self, data, labels):
        X, _, truth = data
        y = np.r_[truth[:labels].astype(float), np.full(30 - labels, np.nan)]
        (found,) = GradNormSampling().query(X, y, classifier())
        assert found >= labels

    @pytest.mark.slow
    def test_same_state_same_result_and_an_unchanged_classifier(self, data, fitted):
        X, y, _ = data
        net = fitted.neural_net_
        before = copy.deepcopy(net.module_.state_dict())
        strategy = GradNormSampling(random_state=np.random.RandomState(0))
        first, second = (
            strategy.query(X, y, fitted, False, batch_size=4, return_utilities=True)
            for _ in range(2)
        )
        assert np.array_equal(first[0], second[0])
        assert np.array_equal(first[1], second[1], equal_nan=True)
        assert net is fitted.neural_net_
        assert net.module_.training
        assert all(torch.equal(before[k], v) for k, v in net.module_.state_dict().items())
        assert all(not p.grad.isnan().any() for p in net.module_.parameters())


class TestRefusals:
    def test_an_untrained_classifier(self, data):
        X, y, _ = data
        with pytest.raises(NotFittedError):
            GradNormSampling().query(X, y, classifier(), fit_clf=False)

    def test_outputs_that_are_no_logits(self, data):
        X, y, _ = data
        clf = classifier(forward_outputs={"proba": (0, None)}).fit(X, y)
        with pytest.raises(ValueError, match=r"`clf` must have logits.*Got None"):
            GradNormSampling().query(X, y, clf, fit_clf=False)

    @pytest.mark.slow
    def test_memory_does_not_grow_with_the_batch(self):
        X = np.zeros((6_000, 4), dtype=np.float32)
        y = np.r_[0, 1, np.full(len(X) - 2, np.nan)]
        clf = classifier(iterator_valid__batch_size=3_000).fit(X[:2], y[:2])
        strategy = GradNormSampling(params="last_layer")
        tracemalloc.start()
        found = strategy.query(X, y, clf, fit_clf=False, batch_size=1_000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(set(found.tolist())) == 1_000
        assert peak < 10e6  # utilities for each pick would be 48 MB
