"""Every kind of pool gives the same choice, is read once, and nobody looks at its labels."""

import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
)

import fastgradnorm
from fastgradnorm import acquire
from tests.support.small_task import Blobs, Secret

N, K = 60, 7
LABELLED = [3, 11, 12, 40]


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def x():
    return Blobs(N).x


@pytest.fixture(scope="module")
def expected(model, x):
    return acquire(model, [x], K, labelled=LABELLED, progress=False)


class Unlabelled(Dataset):
    """Items whose labels are placeholders."""

    def __init__(self, x, label=None):
        self.x, self.label = x, label

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.label


class Mappings(Unlabelled):
    def __getitem__(self, i):
        return {"input": self.x[i], "label": Secret(), "name": f"sample {i}", "extra": None}


class Rows:
    """No subclass of anything."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


class Stream(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


def hugging_face(x):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict(
        {"input": x.tolist(), "label": [0] * len(x), "text": ["a"] * len(x)}
    )


def shuffled(x):
    generator = torch.Generator().manual_seed(3)
    return DataLoader(TensorDataset(x), 16, sampler=RandomSampler(x, generator=generator))


POOLS = {
    "loader": lambda x: DataLoader(TensorDataset(x, torch.zeros(len(x))), 16),
    "one batch": lambda x: [x],
    "batches": lambda x: list(x.split(13)),
    "generator": lambda x: iter(x.split(13)),
    "tensors": lambda x: TensorDataset(x),
    "no labels": lambda x: Unlabelled(x),
    "secret labels": lambda x: Unlabelled(x, Secret()),
    "mappings": Mappings,
    "rows": Rows,
    "stream": lambda x: DataLoader(Stream(x), 16),
    "hugging face": hugging_face,
    "workers": lambda x: DataLoader(TensorDataset(x), 16, num_workers=1),
    "subset": lambda x: Subset(TensorDataset(torch.cat([torch.ones(5, *x.shape[1:]), x])),
                               range(5, 5 + len(x))),
}  # fmt: skip


@pytest.mark.parametrize("kind", POOLS)
def test_every_kind_of_pool(model, x, kind, expected):
    made = acquire(model, POOLS[kind](x), K, labelled=LABELLED, progress=False)
    assert torch.equal(made.indices, expected.indices)
    assert torch.allclose(made.scores.values, expected.scores.values, rtol=1e-5)
    assert not {*made} & {*LABELLED}
    assert len({*made}) == K


@pytest.mark.slow
def test_a_loader_that_shuffles_tells_indices_of_the_dataset(model, x, expected):
    loader = shuffled(x)
    made = acquire(model, loader, K, labelled=LABELLED, strategy="top", progress=False)
    straight = acquire(model, [x], K, labelled=LABELLED, strategy="top", progress=False)
    assert torch.equal(made.indices, straight.indices)
    for record in made.records:
        assert record["score"] == pytest.approx(
            straight.scores.values[record["index"]].item(), 1e-5
        )
    whole = acquire(model, shuffled(x), N - 4, labelled=LABELLED, strategy="random", progress=False)
    assert sorted(whole) == [i for i in range(N) if i not in LABELLED]
    herded = acquire(model, shuffled(x), K, labelled=LABELLED, progress=False)
    assert torch.equal(herded.indices, expected.indices)


class Counting(Dataset):
    def __init__(self, x):
        self.x, self.read = x, []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        self.read.append(i)
        return self.x[i], Secret()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strategy": "bait"},
        {"space": "sketch"},
        {"params": "all"},
        {"strategy": "expected/all/diverse"},
        {"strategy": "top"},
        {"strategy": "random"},
        {"max_similarity": 0.999},
    ],
    ids=str,
)
def test_the_pool_is_read_once(model, x, options):
    data = Counting(x)
    acquire(model, data, K, labelled=LABELLED, progress=False, **options)
    assert data.read == list(range(N))


@pytest.mark.slow
def test_what_is_labelled_may_be_other_samples(model, x):
    """As indices of one pool, or as a pool of their own: the same choice."""
    rest = [i for i in range(N) if i not in LABELLED]
    inside = acquire(model, [x], K, labelled=LABELLED, progress=False)
    data = Counting(x[LABELLED])
    for labelled in ([x[LABELLED]], data, DataLoader(Unlabelled(x[LABELLED], 1), 2)):
        outside = acquire(model, [x[rest]], K, labelled=labelled, progress=False)
        assert [rest[i] for i in outside] == inside.indices.tolist()
        assert outside.pool["labelled"] == len(LABELLED)
    assert data.read == [0, 1, 2, 3]
    cold = acquire(model, [x[rest]], K, progress=False)
    assert [rest[i] for i in cold] != inside.indices.tolist()


def test_a_strategy_that_starts_from_nothing_does_not_read_it(model, x):
    data = Counting(x[:4])
    made = acquire(model, [x], K, labelled=data, strategy="margin", progress=False)
    assert data.read == []
    assert made.pool["labelled"] is None


@pytest.mark.parametrize(
    "labelled",
    [(3, 11, 12, 40), {3, 11, 12, 40}, torch.tensor(LABELLED), torch.tensor(LABELLED).numpy()],
    ids=["tuple", "set", "tensor", "array"],
)
def test_indices_of_any_kind(model, x, labelled, expected):
    made = acquire(model, [x], K, labelled=labelled, progress=False)
    assert torch.equal(made.indices, expected.indices)
    assert made.pool["labelled"] == 4


@pytest.mark.parametrize("labelled", [None, [], range(0)], ids=str)
def test_cold_start(model, x, labelled):
    made = acquire(model, [x], K, labelled=labelled, progress=False)
    assert len({*made}) == K
    assert made.pool["coverage"]["before"] == 0
    assert made.pool["candidates"] == N


@pytest.mark.slow
def test_a_part_of_the_pool(model, x):
    """What is labelled and was not drawn is read too, where the strategy starts from it."""
    data = Counting(x)
    made = acquire(model, data, K, labelled=LABELLED, subset=20, progress=False)
    assert len({*made}) == K
    assert len(made.scores) == 20
    drawn = {*made.scores.indices.tolist()}
    assert {*made} <= drawn - {*LABELLED}
    assert sorted(data.read) == sorted([*drawn, *(i for i in LABELLED if i not in drawn)])
    with pytest.raises(ValueError, match="`labelled` must be among the samples"):
        acquire(model, list(x.split(9)), 2, labelled=LABELLED, subset=0.3, progress=False)


def test_of_samples_that_come_twice_one_is_chosen(model, x):
    with pytest.warns(UserWarning, match="came again"):
        loader = DataLoader(TensorDataset(x), 16, sampler=[*range(10)] * 2)
        made = acquire(model, loader, 10, progress=False)
    assert sorted(made) == list(range(10))


@pytest.mark.parametrize(
    "given, error, match",
    [
        ({"k": 0}, ValueError, "`k` must be an integer >= 1"),
        ({"k": 61}, ValueError, "`k` must be at most 60"),
        ({"k": 57, "labelled": LABELLED}, ValueError, "`k` must be at most 56"),
        ({"labelled": [60]}, ValueError, r"`labelled` must be indices of the pool, in \[0, 60\)"),
        ({"labelled": [-1]}, ValueError, "`labelled` must be indices of the pool"),
        ({"labelled": [3, 3]}, ValueError, "`labelled` must be different indices.*3 more"),
        ({"labelled": [1, "a"]}, TypeError, "`labelled` must be indices.*'a' at place 1"),
        ({"labelled": [0.5]}, TypeError, "`labelled` must be indices.*0.5 at place 0"),
        ({"labelled": ["a"]}, TypeError, "`labelled` must be indices.*'a' at place 0"),
        ({"labelled": [True, False]}, TypeError, "`labelled` must be indices.*True at place 0"),
        ({"labelled": torch.ones(60).bool()}, TypeError, "nonzero"),
        ({"labelled": torch.ones(4)}, TypeError, "`labelled` must be indices.*Wrap one batch"),
        ({"labelled": "a.csv"}, TypeError, "`labelled` must be indices"),
        ({"pool": "photos"}, TypeError, "`pool` must be"),
        ({"pool": torch.ones(3, 1, 6, 6)}, TypeError, "`pool` must be.*list"),
        ({"pool": TensorDataset(torch.ones(0, 1, 6, 6))}, ValueError, "`pool` must be a dataset"),
        ({"strategy": "herdings"}, ValueError, "`strategy`.*herding"),
        ({"space": "pixels"}, ValueError, "`space`"),
        ({"groups": [0] * 60}, ValueError, "`max_per_group` must be given with `groups`"),
        ({"max_per_group": 1}, ValueError, "`groups` must be given with `max_per_group`"),
        ({"groups": [0] * 9, "max_per_group": 1}, ValueError, "`groups` must be.*60.*9"),
        ({"groups": {0: 1}, "max_per_group": 1}, ValueError, "`groups` must be.*none for 1"),
        ({"groups": "abc", "max_per_group": 1}, TypeError, "`groups`"),
        ({"groups": [0] * 60, "max_per_group": 3}, ValueError, "`k` must be at most 3"),
        ({"groups": [0] * 60, "max_per_group": 0}, ValueError, "`max_per_group`"),
        ({"max_similarity": 0}, ValueError, "`max_similarity`"),
        ({"max_similarity": 1e-9}, ValueError, "`k` must be at most.*`max_similarity`"),
        ({"schem": "entropy"}, TypeError, "Did you mean `scheme`"),
        ({"scheme": ["entropy"]}, ValueError, "`scheme` must be one name"),
        ({"loss": "cross_entropy"}, ValueError, "`scheme` must be one that reads no labels"),
        ({"scheme": "el2n"}, ValueError, "`scheme` must be one that reads no labels"),
        ({"likelihood": "gaussian"}, ValueError, "`likelihood` must be that of a classifier"),
        ({"checkpoint": 3}, TypeError, "`checkpoint` must be a path"),
        ({"strategy": "expected/all/top", "params": "last_layer"}, ValueError, "`params` must be"),
        ({"seed": -1}, ValueError, "`seed`"),
        ({"batch_size": 0}, ValueError, "`batch_size`"),
        ({"strategy": "badge", "space": "sketch"}, ValueError, "`space`"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(model, x, given, error, match):
    asked = {"pool": [x], "k": K, "progress": False, **given}
    with pytest.raises(error, match=match):
        acquire(model, asked.pop("pool"), asked.pop("k"), **asked)


def test_a_dataset_of_pictures_is_told_to_make_tensors(model):
    with pytest.raises(
        TypeError, match=r"`pool` must be a dataset whose inputs are tensors.*transform"
    ):
        acquire(model, Unlabelled([object(), object()]), 1)
    with pytest.raises(TypeError, match=r"`pool` must be a dataset.*of one shape"):
        acquire(model, Unlabelled([torch.ones(3), torch.ones(4)]), 1)


def test_forward_is_given_the_whole_sample(model, x):
    data = TensorDataset(torch.zeros(N), x)
    made = acquire(
        model, data, K, labelled=LABELLED, forward=lambda m, batch: m(batch[1]), progress=False
    )
    assert torch.equal(made.indices, acquire(model, [x], K, labelled=LABELLED).indices)


def test_it_is_on_the_face():
    assert {"acquire", "Selection"} <= {*fastgradnorm.__all__}
