"""In baal's own loop where it is installed.

It requires the whole of Jupyter; `pip install --no-deps baal==2.1.0 structlog==22.3.0` is enough.
"""

import warnings

import numpy as np
import pytest
import torch

from fastgradnorm import score_pool, select
from fastgradnorm.integrations.baal import GradNormHeuristic, GradNormScores
from tests.support.cases import MLP


class TestHeuristic:
    def test_ranks_best_first_ties_in_order_nan_last(self):
        scores = np.array([1.0, 3.0, np.nan, 3.0, 2.0])
        ranks, values = GradNormHeuristic().get_ranks(scores)
        assert ranks.tolist() == [1, 3, 4, 0, 2]
        assert values is scores
        assert GradNormHeuristic()(torch.tensor([1.0, 2.0])).tolist() == [1, 0]

    def test_batches_from_a_generator(self):
        ranks, values = GradNormHeuristic().get_ranks(np.full(2, i) for i in range(3))
        assert ranks.tolist() == [4, 5, 2, 3, 0, 1]
        assert values.shape == (6,)

    def test_has_no_order_to_get_wrong(self):
        with pytest.raises(TypeError):
            GradNormHeuristic(reverse=False)

    def test_refuses_class_probabilities(self):
        with pytest.raises(ValueError, match=r"`predictions` must be scores \[N\]. Got an array"):
            GradNormHeuristic().get_ranks(np.ones((4, 3, 2)))


def test_wrong_wrapper_and_options():
    with pytest.raises(TypeError, match=r"`wrapper` must be a baal.ModelWrapper. Got MLP"):
        GradNormScores(MLP())
    wrapper = type("Wrapper", (), {"model": MLP(), "args": None})()
    with pytest.raises(TypeError, match="Did you mean `scheme`"):
        GradNormScores(wrapper, schema="entropy")
    with pytest.raises(TypeError, match=r"`scheme` must be one name"):
        GradNormScores(wrapper, scheme=["entropy"])


def in_baal(test):
    """Passes over warnings about baal's own code: its logging, and its mean of losses."""
    test = pytest.mark.filterwarnings("ignore:getName:DeprecationWarning")(test)
    return pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")(test)


class Pool(torch.utils.data.Dataset):
    def __init__(self):
        self.x = torch.randn(40, 10)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], int(self.x[i, 0] > 0)


@pytest.fixture
def baal():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports: IProgress not found, pkg_resources
        baal = pytest.importorskip("baal", reason=__doc__)
        pytest.importorskip("baal.active.active_loop")
        pytest.importorskip("baal.modelwrapper")
    return baal


@pytest.fixture
def experiment(baal):
    """A dataset of which six samples are labelled, and a wrapper to train."""
    from baal.active.dataset import ActiveLearningDataset
    from baal.modelwrapper import TrainingArgs

    dataset = ActiveLearningDataset(Pool(), random_state=0)
    dataset.label_randomly(6)
    model = MLP(classes=2)
    args = TrainingArgs(
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        criterion=torch.nn.CrossEntropyLoss(),
        batch_size=8,
        epoch=1,
        workers=0,
        use_cuda=False,
    )
    return dataset, baal.ModelWrapper(model, args)


def outside(wrapper, dataset, k):
    """Dataset indices by `select(score_pool(...))`."""
    unlabelled = np.flatnonzero(~dataset.labelled)
    inputs = torch.stack([dataset._dataset[i][0] for i in unlabelled])
    return unlabelled[select(score_pool(wrapper.model, [inputs], progress=False), k)]


@pytest.mark.slow
@in_baal
def test_several_steps_of_the_loop(experiment):
    from baal.active import ActiveLearningLoop

    dataset, wrapper = experiment
    loop = ActiveLearningLoop(
        dataset,
        GradNormScores(wrapper, progress=False),
        GradNormHeuristic(),
        query_size=5,
        iterations=20,
    )
    for cycle in range(4):
        wrapper.train_on_dataset(dataset)
        before, expected = dataset.labelled.copy(), outside(wrapper, dataset, 5)
        training = wrapper.model.training
        assert loop.step()
        new = np.flatnonzero(dataset.labelled & ~before)
        assert new.tolist() == sorted(expected.tolist())
        assert wrapper.model.training == training
        assert len(dataset) == 6 + 5 * (cycle + 1)


@pytest.mark.slow
@in_baal
def test_a_random_part_of_the_pool_and_streams(experiment):
    from baal.active import ActiveLearningLoop

    dataset, wrapper = experiment
    scores = GradNormScores(wrapper, progress=False)
    everything = scores(dataset.pool)
    unlabelled = np.flatnonzero(~dataset.labelled)
    np.random.seed(3)
    part = np.random.choice(len(unlabelled), 9, replace=False)
    np.random.seed(3)
    loop = ActiveLearningLoop(
        dataset, lambda pool: iter_batches(scores, pool), GradNormHeuristic(), 2, max_sample=9
    )
    before = dataset.labelled.copy()
    loop.step()
    best = unlabelled[part[np.argsort(-everything[part])[:2]]]
    assert np.flatnonzero(dataset.labelled & ~before).tolist() == sorted(best.tolist())


def iter_batches(scores, pool):
    for start in range(0, len(pool), 4):
        yield scores(torch.utils.data.Subset(pool, range(start, min(start + 4, len(pool)))))


@in_baal
def test_power_sampling_over_our_heuristic(experiment):
    from baal.active.heuristics.stochastics import PowerSampling

    dataset, wrapper = experiment
    scores = GradNormScores(wrapper, progress=False)(dataset.pool)
    sampling = PowerSampling(GradNormHeuristic(), query_size=3)
    ranks, _ = sampling.get_ranks(scores)
    assert set(ranks[:3].tolist()) <= set(range(len(scores)))
