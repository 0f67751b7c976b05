"""What a sample is: told, or refused with what was read from where; inputs are not labels."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import MLP


def rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[0]))


def scored(model, loader, **options):
    return score_pool(model, loader, progress=False, **options)


def seeded(make):
    torch.manual_seed(0)
    return make()


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def joined(items):
    """Clouds end to end, with the number of the cloud for each point."""
    numbers = [torch.full((len(x),), i) for i, x in enumerate(items)]
    return {"x": torch.cat(items), "batch": torch.cat(numbers)}


CLOUDS = [rows(5, 10), rows(3, 10), rows(4, 10)]
SAME = [rows(4, 10), rows(4, 10) + 1, rows(4, 10) + 2]
PAIRS = [(x, torch.tensor(i)) for i, x in enumerate(CLOUDS)]

LISTS = {
    "different lengths": [CLOUDS],
    "different lengths, tuple": [tuple(CLOUDS)],
    "equal lengths": [SAME],
    "vectors": [list(rows(6, 10))],
    "images": [list(rows(3, 3, 8, 8))],
    "pairs": [PAIRS],
    "mappings": [[{"x": x} for x in CLOUDS]],
    "mappings of equal lengths": [[{"x": x} for x in SAME]],
    "tuple of mappings": [tuple({"x": x} for x in CLOUDS)],
    "texts": [[torch.arange(5), torch.arange(7)]],
    "labels, text and offsets": [[torch.zeros(2).long(), torch.arange(12), torch.tensor([0, 5])]],
    "collate_fn=list": DataLoader(Items(CLOUDS), 3, collate_fn=list),
    "collate_fn=list, five rows": DataLoader(Items([rows(5, 10)] * 6), 6, collate_fn=list),
    "collate_fn=tuple": DataLoader(Items([rows(4, 10)] * 6), 3, collate_fn=tuple),
    "collate_fn=list, pairs": DataLoader(Items(PAIRS), 3, collate_fn=list),
    "collate_fn=list, mappings": DataLoader(Items([{"x": x} for x in SAME]), 2, collate_fn=list),
}


class TestLists:
    @pytest.mark.parametrize("forward", [None, lambda m, b: m(torch.stack(list(b)))])
    @pytest.mark.parametrize("name", LISTS)
    def test_of_samples_are_refused(self, name, forward):
        model = MLP() if name != "images" else nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        with pytest.raises((ValueError, TypeError), match=r"`loader` must yield .*collate_fn"):
            scored(model, LISTS[name], forward=forward)

    def test_of_tensors_say_what_was_read_from_where(self):
        with pytest.raises(ValueError) as caught:
            scored(MLP(), [CLOUDS])
        told = str(caught.value)
        assert "[5, 10], [3, 10], [4, 10]" in told
        assert "3 samples, or inputs of 5 samples and their labels" in told

    @pytest.mark.slow
    @pytest.mark.parametrize("rest", [
        [torch.zeros(5).long()], [torch.zeros(5)], [torch.zeros(5, 3)], [torch.zeros(5, 7, 2)],
        [torch.zeros(5).long(), torch.arange(5)], [["a", "b", "c", "d", "e"]], [None], [],
        [torch.zeros(5, 10).long()], [{"boxes": torch.zeros(9, 4)}], [torch.zeros(5, 10).bool()],
        [[torch.zeros(2, 4)] * 5],
    ])  # fmt: skip
    def test_of_inputs_and_labels_are_silent(self, rest):
        model, x = MLP(), rows(5, 10)
        expected = oracle.scores(model, oracle.ones(x))
        for batch in ([x, *rest], (x, *rest)):
            assert_close_relative(scored(model, [batch]), expected, 1e-5)

    @pytest.mark.slow
    def test_that_a_loader_has_collated_are_inputs_and_labels(self):
        """Though two tensors of one shape could be samples: the sampler drew as many."""
        model, x = MLP(), rows(6, 10)
        loader = DataLoader(TensorDataset(x, x + 1), 3)
        assert_close_relative(scored(model, loader), oracle.scores(model, oracle.ones(x)), 1e-5)
        boxes = torch.zeros(9, 6)
        loader = DataLoader(Items(list(x)), 6, collate_fn=lambda items: [torch.stack(items), boxes])
        assert_close_relative(scored(model, loader), oracle.scores(model, oracle.ones(x)), 1e-5)


class Pooled(nn.Module):
    """Logits of clouds: as a model of graphs or points takes them."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(10, 3)

    def forward(self, x, **_):
        return self.head(x)


EDGES = torch.tensor([[0, 1, 2, 7], [1, 2, 0, 8]])
JOINED = {
    "batch": {"batch": torch.tensor([0] * 5 + [1] * 7)},
    "batch_index": {"batch_index": torch.tensor([0] * 5 + [1] * 7, dtype=torch.int32)},
    "ptr": {"ptr": torch.tensor([0, 5, 12])},
    "cu_seqlens": {"cu_seqlens": torch.tensor([0, 5, 12], dtype=torch.int32)},
    "starts": {"starts": torch.tensor([0, 5, 12])},
    "offsets": {"offsets": torch.tensor([0, 5])},
    "lengths": {"lengths": torch.tensor([5, 7])},
    "num_points": {"num_points": torch.tensor([5, 7])},
    "edge_index": {"edge_index": EDGES},
    "splits": {"splits": torch.tensor([5, 7])},
    "n": {"n": torch.tensor([4, 4, 4])},
}


class TestConcatenated:
    @pytest.mark.parametrize("forward", [None, lambda m, b: m(**b)])
    @pytest.mark.parametrize("name", JOINED)
    def test_samples_are_refused_by_what_tells_them_apart(self, name, forward):
        with pytest.raises(ValueError, match=rf"Got Tensor int.*batch\['{name}'\].*12 would") as e:
            scored(Pooled(), [{"x": rows(12, 10), **JOINED[name]}], forward=forward)
        assert "pad the samples" in str(e.value)

    @pytest.mark.parametrize("second", [
        torch.tensor([5, 7]), torch.tensor([0, 5, 12]), torch.tensor([0, 5]),
        torch.tensor([0, 3, 7, 9]), torch.tensor([4, 4, 4]),
    ])  # fmt: skip
    def test_lengths_and_beginnings_need_no_name(self, second):
        with pytest.raises(ValueError, match=r"batch\[1\]`, which looks like .*12 would be read"):
            scored(Pooled(), [(rows(12, 10), second)], forward=lambda m, b: m(b[0]))

    @pytest.mark.parametrize("forward", [None, lambda m, b: m(b.data)])
    @pytest.mark.parametrize("wrap", [
        lambda p: p, lambda p: {"x": p}, lambda p: (p, torch.ones(3)), lambda p: [p],
        lambda p: {"y": torch.ones(12), "x": p},
    ])  # fmt: skip
    def test_packed_sequences(self, wrap, forward):
        packed = nn.utils.rnn.pack_sequence(CLOUDS, enforce_sorted=False)
        with pytest.raises((ValueError, TypeError), match="`loader` must"):
            scored(Pooled(), [wrap(packed)], forward=forward)

    @pytest.mark.parametrize("collate", [
        joined, lambda items: torch.cat(items), lambda items: (torch.cat(items), torch.zeros(2)),
        lambda items: {"points": torch.cat(items), "scale": torch.ones(2)},
        lambda items: torch.cat(items).unbind(),
    ])  # fmt: skip
    @pytest.mark.parametrize("workers", [0, 1])
    def test_samples_are_more_than_were_drawn(self, collate, workers):
        loader = DataLoader(Items(CLOUDS * 2), 2, collate_fn=collate, num_workers=workers)
        options = {"forward": lambda m, b: m(b["points"])} if workers else {}
        with pytest.raises(ValueError, match="`loader` must yield"):
            scored(Pooled(), loader, **options)

    def test_the_size_read_and_the_size_drawn_are_told(self):
        loader = DataLoader(Items(CLOUDS), 2, collate_fn=lambda items: torch.cat(items))
        with pytest.raises(ValueError, match=r"Got 8, .* of Tensor float32 \[8, 10\], for 2 i"):
            scored(Pooled(), loader)
        loader = DataLoader(
            Items(list(rows(6, 10))), 6,
            collate_fn=lambda items: {"classes": torch.eye(3), "x": torch.stack(items)},
        )  # fmt: skip
        with pytest.raises(ValueError, match=r"Got 3, .*batch\['classes'\]`, for 6 .*'x'\]` there"):
            scored(Pooled(), loader)

    @pytest.mark.parametrize("extra", [
        {"batch": torch.tensor([3, 1, 2, 0, 1, 2])}, {"labels": torch.tensor([0, 3, 6])},
        {"table": torch.eye(4)}, {"classes": torch.arange(7)}, {"size": torch.tensor([224, 224])},
        {"positions": torch.tensor([1, 2, 3])}, {"lengths": torch.tensor([4, 5, 4, 5, 4, 5])},
        {"scale": torch.tensor(3.0)}, {"batch": rows(6, 2)}, {"ids": torch.arange(6)},
    ])  # fmt: skip
    def test_other_tensors_beside_the_inputs_are_silent(self, extra):
        model, x = Pooled(), rows(6, 10)
        expected = oracle.scores(model, oracle.ones(x))
        assert_close_relative(scored(model, [{"x": x, **extra}]), expected, 1e-5)


class Convolved(nn.Module):
    """A graph convolution over one graph that all samples share."""

    def __init__(self):
        super().__init__()
        self.linear, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x, edge_index):
        source, target = edge_index
        h = self.linear(x)
        h = h + torch.zeros_like(h).index_add(1, target, h[:, source])
        return self.head(h.relu().mean(1))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("forward", [None, lambda m, b: m(b["x"], b["edge_index"])])
def test_edges_of_one_graph_are_shared_by_any_number_of_samples(count, forward):
    model, x = seeded(Convolved), rows(5, 9, 4)[:count]
    found = scored(model, [{"x": x, "edge_index": EDGES}], forward=forward)
    exact = oracle.scores(model, oracle.ones(x), call=lambda model, x: model(x, EDGES))
    assert_close_relative(found, exact, 1e-5)


def test_default_collation_of_mappings_is_scored():
    model, x = Pooled(), rows(6, 10)
    items = Items([{"x": each, "labels": 3} for each in x])
    found = scored(model, DataLoader(items, 4, collate_fn=default_collate))
    assert_close_relative(found, oracle.scores(model, oracle.ones(x)), 1e-5)
