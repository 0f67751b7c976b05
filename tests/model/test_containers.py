"""Whatever holds the tensors of a batch, and one sentence for what cannot be a batch."""

import types
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from fastgradnorm import GradNormScorer, naive_score_pool, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1, 1, 0, 1]] * 3 + [[1, 0, 0, 1]] * 2).float()


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x, mask):
        return self.head(x * mask)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Masked().eval()


@dataclass
class Plain:
    x: Any
    mask: Any
    name: str = "pool"


@dataclass(frozen=True)
class Frozen:
    x: Any
    mask: Any


@dataclass(slots=True)
class Slotted:
    x: Any
    mask: Any


@dataclass
class Checked:
    x: Any
    mask: Any
    counted: int = field(init=False)

    def __post_init__(self):
        assert isinstance(self.x, torch.Tensor)
        self.counted = len(self.x)


class Item:
    def __init__(self, x, mask):
        self.x, self.mask, self.note = x, mask, {"from": "a file"}

    def to(self, device):
        return Item(self.x.to(device), self.mask.to(device))


class Store:
    """As graphs of PyTorch Geometric keep what they hold: by a store that refers back."""

    def __init__(self, **items):
        self.__dict__["_store"] = types.SimpleNamespace(mapping=items, parent=lambda: self)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return self._store.mapping[name]


class ReadOnly(Mapping):
    def __init__(self, items):
        self._items = items

    def __getitem__(self, key):
        return self._items[key]

    def __iter__(self):
        return iter(self._items)

    def __len__(self):
        return len(self._items)


class Computed(Mapping):
    """Its items are not among its attributes."""

    __slots__ = ("note", "pair")

    def __init__(self, pair):
        self.pair, self.note = pair, "computed"

    def __getitem__(self, key):
        return self.pair[{"x": 0, "mask": 1}[key]]

    def __iter__(self):
        return iter(("x", "mask"))

    def __len__(self):
        return 2


class Attributes(dict):
    """Keys are attributes too."""

    def __init__(self, **items):
        super().__init__(**items)
        self.__dict__.update(items)


class Rows(list):
    pass


class Both(tuple):
    __slots__ = ()


Pair = namedtuple("Pair", "x mask")
by_name = lambda m, b: m(b.x, b.mask)  # noqa: E731
by_key = lambda m, b: m(b["x"], b["mask"])  # noqa: E731
by_place = lambda m, b: m(b[0], b[1])  # noqa: E731

CONTAINERS = {
    "dataclass": (Plain, by_name),
    "frozen dataclass": (Frozen, by_name),
    "dataclass with slots": (Slotted, by_name),
    "dataclass that checks": (Checked, by_name),
    "class": (Item, by_name),
    "class that is moved": (Item, lambda m, b: by_name(m, b.to("cpu"))),
    "namespace": (lambda x, mask: types.SimpleNamespace(x=x, mask=mask), by_name),
    "store": (lambda x, mask: Store(x=x, mask=mask), by_name),
    "nested": (lambda x, mask: Plain(Item(x, mask), mask), lambda m, b: m(b.x.x, b.mask)),
    "in a dict": (lambda x, m: {"a": Item(x, m), "b": [m]}, lambda m, b: by_name(m, b["a"])),
    "named tuple": (Pair, by_name),
    "UserDict": (lambda x, mask: UserDict(x=x, mask=mask), by_key),
    "mapping": (lambda x, mask: ReadOnly({"x": x, "mask": mask}), by_key),
    "computed mapping": (lambda x, mask: Computed((x, mask)), by_key),
    "dict of one's own": (lambda x, mask: Attributes(x=x, mask=mask), by_name),
    "ordered dict": (lambda x, mask: OrderedDict(x=x, mask=mask), by_key),
    "list of one's own": (lambda x, mask: Rows([x, mask, "name"]), by_place),
    "tuple of one's own": (lambda x, mask: Both((x, mask)), by_place),
}


def exact(model):
    pairs = list(zip(X.split(1), MASK.split(1), strict=True))
    return oracle.scores(model, pairs, call=lambda model, pair: model(*pair))


class TestContainers:
    @pytest.mark.parametrize("name", CONTAINERS)
    def test_are_cut_into_samples(self, model, name):
        make, forward = CONTAINERS[name]
        batch = make(X.clone(), MASK.clone())
        found = score_pool(model, [batch], forward=forward, progress=False)
        assert_close_relative(found, exact(model), 1e-5)
        assert_close_relative(naive_score_pool(model, [batch], forward=forward), exact(model), 1e-5)

    @pytest.mark.parametrize("name", CONTAINERS)
    def test_are_left_as_they_are(self, model, name):
        make, forward = CONTAINERS[name]
        x, mask = X.clone(), MASK.clone()
        batch = make(x, mask)
        GradNormScorer(model, forward=forward).score_batch(batch)
        held = []
        forward(lambda x, mask: held.extend((x, mask)), batch)
        assert (held[0] is x or "moved" in name) and torch.equal(held[0], X)
        assert torch.equal(held[1], MASK)

    @pytest.mark.parametrize("name", ["UserDict", "mapping", "ordered dict", "computed mapping"])
    def test_mappings_are_keywords_without_forward(self, model, name):
        batch = CONTAINERS[name][0](X, MASK)
        assert_close_relative(score_pool(model, [batch], progress=False), exact(model), 1e-5)

    @pytest.mark.slow
    def test_of_transformers(self, model):
        transformers = pytest.importorskip("transformers")
        for kind in (transformers.BatchEncoding, transformers.BatchFeature):
            batch = kind({"x": X, "mask": MASK, "labels": torch.zeros(5)})
            for forward in (None, by_key, lambda m, b: m(b.x, b.mask)):
                found = score_pool(model, [batch], forward=forward, progress=False)
                assert_close_relative(found, exact(model), 1e-5)
            assert type(batch) is kind
            assert batch["x"] is X


def scored(model, loader, **options):
    return score_pool(model, loader, progress=False, **options)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class TestRefusals:
    @pytest.mark.parametrize("batch", [
        X.numpy(), {"x": X.numpy(), "mask": X.numpy()}, [X.numpy()] * 2, (X.numpy(), np.zeros(5)),
        {"x": X, "mask": X.numpy()}, {"x": np.zeros(5), "mask": X},
    ])  # fmt: skip
    def test_arrays_for_a_forward_of_ones_own(self, model, batch):
        with pytest.raises((TypeError, ValueError), match=r"`loader` must .*torch.from_numpy"):
            scored(model, [batch], forward=by_key)

    def test_arrays_without_one_are_tensors(self, model):
        arrays, tensors = (scored(model, [{"x": x, "mask": x}]) for x in (X.numpy(), X))
        assert torch.equal(arrays, tensors)

    @pytest.mark.parametrize("batch", [
        object(), 3.0, Plain("a", "b"), {"x": "text"}, [], None, types.SimpleNamespace(x=3),
    ])  # fmt: skip
    def test_what_holds_no_tensor(self, model, batch):
        with pytest.raises(TypeError, match=r"`loader` must .*No tensor was found in it"):
            scored(model, [batch], forward=by_name)

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    @pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
    @pytest.mark.parametrize("wrap", [
        lambda x: x, lambda x: {"x": x, "mask": MASK}, lambda x: (x, MASK),
        lambda x: Plain(x, MASK), lambda x: {"mask": MASK, "x": x},
    ])  # fmt: skip
    def test_jagged_tensors(self, model, wrap, layout):
        batch = wrap(torch.nested.nested_tensor([X[:3], X[:2]], layout=layout))
        forward = by_name if isinstance(batch, Plain) else None
        with pytest.raises(ValueError, match=r"nested \(jagged\).*to_padded_tensor"):
            scored(model, [batch], forward=forward)

    @pytest.mark.parametrize("dataset", [
        TensorDataset(X), TensorDataset(X, MASK), Subset(TensorDataset(X), [1, 2]), Stream(),
        torch.utils.data.ConcatDataset([TensorDataset(X)]),
    ])  # fmt: skip
    def test_a_dataset_given_as_loader(self, model, dataset):
        with pytest.raises(TypeError, match=r"A dataset yields samples.*DataLoader\(dataset"):
            scored(model, dataset)

    @pytest.mark.parametrize("kind", ["plain", "torch", "numpy", "dict", "iterable"])
    def test_a_dataset_of_hugging_face_given_as_loader(self, model, kind):
        datasets = pytest.importorskip("datasets")
        dataset = datasets.Dataset.from_dict({"x": X.tolist(), "label": [0] * 5})
        if kind == "dict":
            dataset = datasets.DatasetDict({"train": dataset})
        elif kind == "iterable":
            dataset = dataset.to_iterable_dataset()
        elif kind != "plain":
            dataset = dataset.with_format(kind)
        told = r"A dataset yields samples.*DataLoader\(dataset.with_f"
        with pytest.raises(TypeError, match=r"one of its splits" if kind == "dict" else told):
            scored(model, dataset)

    @pytest.mark.parametrize("loader", [X, X.numpy(), {"x": X}, UserDict(x=X), ReadOnly({"x": X})])
    def test_one_batch_given_as_loader(self, model, loader):
        with pytest.raises(TypeError, match=r"`loader` must be an iterable of batches.*Wrap"):
            scored(model, loader)

    @pytest.mark.parametrize("output", [
        lambda logits: logits.sum(), lambda logits: (logits.mean(), logits),
        lambda logits: {"logits": logits.mean()}, lambda logits: [logits[0, 0], logits],
        lambda logits: types.SimpleNamespace(logits=logits.mean()),
    ])  # fmt: skip
    def test_a_single_number_for_logits(self, output):
        class Summed(nn.Linear):
            def forward(self, x):
                return output(super().forward(x))

        with pytest.raises(ValueError, match=r"`model` must .*One number is a loss.*forward="):
            scored(Summed(4, 3), [X])


def stacked(rows):
    return Plain(torch.stack([row.x for row in rows]), torch.stack([row.mask for row in rows]))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_of_containers(model, workers):
    items = [Plain(x, mask) for x, mask in zip(X, MASK, strict=True)]
    loader = DataLoader(items, 2, collate_fn=stacked, num_workers=workers, shuffle=True)
    scores = GradNormScorer(model, forward=by_name, progress=False).score(loader)
    order = range(5) if scores.indices is None else scores.indices.tolist()
    assert_close_relative(scores.values, exact(model)[[*order]], 1e-5)
