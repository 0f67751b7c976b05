"""What a newcomer passes by mistake, in Python: the message says what to do."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fastgradnorm import acquire, score_pool

MODEL = nn.Sequential(nn.Linear(4, 3)).eval()
X = torch.ones(6, 4)


def scores(batch, **options):
    return score_pool(MODEL, [batch], progress=False, **options)


@pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(), "cross_entropy"])
@pytest.mark.parametrize("label", [-1, 3, 7])
def test_labels_without_a_class(loss, label):
    with pytest.raises(ValueError, match=rf"Got {label}\b"):
        scores((X, torch.full((6,), label)), loss=loss)


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
def test_labels_with_a_fraction(loss):
    with pytest.raises(ValueError, match=r"whole numbers of classes.*labels\.long\(\)"):
        scores((X, torch.rand(6)), loss=loss)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_whole_numbers_for_a_layer_that_wants_others(dtype):
    with pytest.raises(ValueError, match=r"whole numbers\. Convert them.*x\.float\(\)"):
        scores(X.to(dtype))


def test_an_index_out_of_range_is_not_told_to_be_converted():
    model = nn.Sequential(nn.Embedding(3, 4), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="out of range") as raised:
        score_pool(model, [torch.full((2, 2), 5)], progress=False)
    assert "Convert" not in str(raised.value)


@pytest.mark.parametrize("given, meant", [("startegy", "strategy"), ("labeled", "labelled"),
                                          ("parms", "params")])  # fmt: skip
def test_arguments_of_acquire_that_were_meant(given, meant):
    with pytest.raises(TypeError, match=f"Did you mean `{meant}`"):
        acquire(MODEL, [X], 2, **{given: "margin"})


def test_a_pool_of_which_all_is_labelled():
    with pytest.raises(ValueError, match=r"at most 0.*All have a label already"):
        acquire(MODEL, [X], 2, labelled=range(6), progress=False)


def test_an_empty_dataset_is_told_by_its_type():
    class Photos(Dataset):
        def __len__(self):
            return 0

    with pytest.raises(ValueError, match=r"Got an empty Photos\.$"):
        acquire(MODEL, Photos(), 2)


class Ragged(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.ones(4 + index // 3)


class Nothing(Ragged):
    def __getitem__(self, index):
        return None


class Broken(Ragged):
    def __getitem__(self, index):
        raise RuntimeError("the disk is gone")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("batch_size", [2, 4])
@pytest.mark.parametrize("dataset, told", [(Ragged(), "equal size"), (Nothing(), "NoneType")])
def test_samples_that_make_no_batch(dataset, told, batch_size, workers):
    loader = DataLoader(dataset, batch_size, num_workers=workers)
    with pytest.raises(ValueError, match=rf"^`loader` must make batches.*{told}.*collate_fn"):
        score_pool(MODEL, loader, progress=False)
    with pytest.raises(ValueError, match=r"^`pool` must make batches"):
        acquire(MODEL, loader, 1, progress=False)


@pytest.mark.parametrize("workers", [0, 1])
def test_other_failures_of_a_dataset_are_its_own(workers):
    loader = DataLoader(Broken(), 2, num_workers=workers)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        score_pool(MODEL, loader, progress=False)


@pytest.mark.parametrize("labelled", [[torch.ones(5, 6)], TensorDataset(torch.ones(5, 6))])
def test_labelled_samples_of_another_width_are_told_as_these(labelled):
    with pytest.raises(ValueError, match=r"one sample of `labelled`\. It failed.*\[1, 6\]"):
        acquire(MODEL, [X], 1, labelled=labelled, progress=False)
    with pytest.raises(ValueError, match=r"one sample of `pool`\. It failed.*\[1, 6\]"):
        acquire(MODEL, labelled, 1, progress=False)


class Embeds(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, ids):
        return self.head(self.rows(ids).mean(1))


def test_whole_numbers_that_a_model_wants_are_not_to_be_converted():
    """Out of range, or too few dimensions: it fails on floats as well."""
    for ids in (torch.tensor([[1, 9], [2, 3]]), torch.tensor([1, 2])):
        with pytest.raises(ValueError, match="must run on one sample") as found:
            score_pool(Embeds(), [ids])
        assert "whole numbers" not in str(found.value)
