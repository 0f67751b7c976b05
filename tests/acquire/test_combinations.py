"""Arguments of `acquire` in combination, and at the bounds of what they say."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from fastgradnorm import Options, acquire, score_pool
from fastgradnorm._candidates import labelled_indices
from fastgradnorm._gather import Wants, gather
from fastgradnorm._selection import Free
from tests.support.small_task import Blobs

N = 40
X = Blobs(N).x
GROUPS = [f"patient {i % 7}" for i in range(N)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


def shuffled():
    order = torch.Generator().manual_seed(3)
    return DataLoader(TensorDataset(X), 7, shuffle=True, generator=order)


POOLS = {
    "in order": (lambda: [X], {}),
    "shuffled": (shuffled, {}),
    "a part": (lambda: TensorDataset(X), {"subset": 30}),
    "a part of it shuffled": (shuffled, {"subset": 30}),
    "a sampler": (lambda: DataLoader(TensorDataset(X), 4, sampler=range(39, 8, -1)), {}),
}


@pytest.mark.filterwarnings("ignore:.*samples of the dataset")
@pytest.mark.parametrize("form", ["a list", "a mapping", "a tensor"])
@pytest.mark.parametrize("strategy", ["top", "auto", "random"])
@pytest.mark.parametrize("pool", POOLS)
def test_groups_are_those_of_the_samples(model, pool, strategy, form):
    """In whatever order they come; and with some of them labelled."""
    make, options = POOLS[pool]
    numbers = [int(name.split()[1]) for name in GROUPS]
    groups = {"a list": GROUPS, "a mapping": dict(enumerate(GROUPS)), "a tensor": numbers}[form]
    groups = torch.tensor(groups) if form == "a tensor" else groups
    given = {"groups": groups, "labelled": [0, 12], "strategy": strategy, "progress": False}
    made = acquire(model, make(), 14, max_per_group=2, **given, **options)
    assert sorted(numbers[i] for i in made) == sorted([*range(7)] * 2)
    if strategy == "top":
        values = made.scores.values
        places = torch.arange(N) if made.scores.indices is None else made.scores.indices
        best, left = [], dict.fromkeys(range(7), 2)
        for score, i in sorted(zip((-values).tolist(), places.tolist(), strict=True)):
            if i not in (0, 12) and left[numbers[i]]:
                left[numbers[i]] -= 1
                best.append((score, i))
        assert list(made) == [i for _, i in best]


@pytest.mark.slow
def test_sketches_follow_the_seed(model):
    """What is covered is measured on the sketches; the strategy itself has nothing random."""
    given = {"space": "sketch", "strategy": "coreset", "labelled": [1, 2], "progress": False}
    first, same, other = (acquire(model, [X], 3, seed=seed, **given) for seed in (3, 3, 4))
    assert first.pool["coverage"] == same.pool["coverage"]
    assert first.pool["coverage"] != other.pool["coverage"]


@pytest.mark.parametrize("strategy", ["auto", "coreset", "lcmd", "typiclust", "bait", "probcover"])
@pytest.mark.parametrize("place", [0, 2])
def test_a_labelled_sample_without_a_number_is_left_out(model, strategy, place):
    good = X[30:34]
    bad = torch.cat([good[:place], torch.full_like(good[:1], torch.nan), good[place:]])
    given = {"strategy": strategy, "progress": False, "on_nonfinite": "keep"}
    expected = acquire(model, [X[:30]], 6, labelled=[good], **given)
    found = acquire(model, [X[:30]], 6, labelled=[bad], **given)
    assert found.indices.tolist() == expected.indices.tolist()


@pytest.mark.parametrize("similarity", [None, 0.9, 0.999999])
def test_records_tell_what_the_call_calls_alike(model, similarity):
    twice = torch.cat([X, X + 0.05 * torch.randn(X.shape, generator=torch.manual_seed(0))])
    made = acquire(model, [twice], 3, max_similarity=similarity, progress=False)
    h = nn.functional.normalize(model[:3](twice).detach().double(), dim=1)
    near = (h @ h.T > (similarity or 0.99)).sum(1) - 1
    assert [row["alike"] for row in made.records] == near[made.indices].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_drawn_by_the_norms_of_sketches(seed):
    """Of the entropy, which has no gradient where all classes are alike, unlike the scores."""
    model = nn.Linear(36, 3, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_(1e3 * torch.eye(3, 36))
    alike, others = torch.eye(36).double()[10:13], 1e-3 * torch.eye(36).double()[:3]
    name, pool = "sketch/entropy/all/proportional", [torch.cat([alike, others])]
    scores = score_pool(model, pool, progress=False)
    assert float(scores[:3].min()) > 100 * float(scores[3:].max())
    found = acquire(model, pool, 3, strategy=name, seed=seed, progress=False)
    assert {*found} == {3, 4, 5}


def test_a_part_of_the_pool_and_all_that_is_labelled(model):
    """A `subset` is one of the pool."""
    given = {"strategy": "coreset", "progress": False}
    made = acquire(model, TensorDataset(X[:30]), 4, labelled=[X[30:]], subset=20, **given)
    assert (made.pool["labelled"], made.pool["samples"]) == (10, 20)
    drawn = made.scores.indices
    whole = acquire(model, [X[:30][drawn]], 4, labelled=[X[30:]], **given)
    assert made.indices.tolist() == drawn[whole.indices].tolist()


class Stubborn(nn.Module):
    """Is run sample by sample."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 3)
        self.alone = True

    def forward(self, x):
        factor = float(x.detach().numpy().max() > -99) if self.alone else 1.0
        return self.head(torch.tanh(self.body(x[:, 0]) * factor))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("masked", [False, True])
def test_predictions_of_models_that_run_one_by_one(params, masked):
    model, valid = Stubborn().eval(), torch.arange(6) < 4
    mask = {"mask": lambda x: valid.expand(len(x), 6)} if masked else {}
    options = Options(params=params, class_dim=-1, scheme="entropy", progress=False, **mask)
    wants = Wants("test", features=True, classes=True)
    slow = gather(model, [X[:5]], options, wants).columns
    model.alone = False
    fast = gather(model, [X[:5]], options, wants).columns
    assert slow.keys() == fast.keys()
    for name, values in fast.items():
        assert torch.allclose(slow[name], values, rtol=1e-4, atol=1e-6), name
    p = model(X[:5]).detach().softmax(-1)[:, : 4 if masked else 6]
    assert torch.allclose(slow["confidence"], p.mean(1).amax(-1), rtol=1e-4)


@pytest.mark.parametrize("labelled", [{64, 1, 8}, frozenset({64, 1, 8}), {64: "a", 1: "b", 8: "c"}])
def test_sets_are_in_order(labelled):
    """The order of their elements is by chance, and must decide nothing."""
    assert [*{64, 1, 8}] != [1, 8, 64]
    found = labelled_indices(labelled).tolist()
    assert found == ([64, 1, 8] if isinstance(labelled, dict) else [1, 8, 64])


class TestFree:
    @pytest.mark.parametrize("chunk", [1, 3, 4, 100])
    def test_all_that_is_near_is_closed(self, chunk):
        points = torch.eye(2).repeat(5, 1)  # [10, 2], by turns
        free = Free(10, points=points, similarity=0.5)
        free.close_near(torch.eye(2)[:1], chunk)
        assert free.mask.tolist() == [False, True] * 5

    def test_just_as_similar_is_not_more(self):
        free = Free(3, points=torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), similarity=0.0)
        free.take(0)
        assert free.mask.tolist() == [False, True, False]
        free = Free(2, points=torch.eye(2), similarity=0.0)
        free.close_near(torch.eye(2)[:1])
        assert free.mask.tolist() == [False, True]

    @pytest.mark.parametrize("most", [1, 2, 3])
    def test_groups_close_when_they_are_full(self, most):
        free = Free(6, groups=torch.tensor([0, 0, 0, 0, 1, 1]), most=most)
        for i in range(most):
            assert free.mask[i:].all()
            free.take(i)
        assert free.mask.tolist() == [False] * 4 + [True] * 2


def test_quantiles_of_the_confidence(model):
    p = model(X).detach().softmax(1).amax(1).double().sort().values
    found = acquire(model, [X], 2, progress=False).pool["confidence"]
    assert found["mean"] == pytest.approx(float(p.mean()), 1e-5)
    for name, place in (("5%", 1), ("50%", 19), ("95%", 37)):  # of 0 to 39
        assert found[name] == pytest.approx(float(p[place]), 1e-5)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_ties_at_the_last_place(model, k):
    """Of equal scores the first of the pool are chosen."""
    rows = X[[0, 1, 2]][[0, 1, 0, 1, 0, 1, 2]]
    scores = score_pool(model, [rows], params="last_layer", progress=False)
    order = sorted(range(7), key=lambda i: (-float(scores[i]), i))
    for pool in ([rows], Subset(TensorDataset(rows), range(7))):
        made = acquire(model, pool, k, strategy="top", progress=False)
        assert made.indices.tolist() == order[:k]
