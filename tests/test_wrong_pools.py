"""What is no pool, and no scores: told with what to pass instead."""

import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from fastgradnorm import acquire, naive_score_pool, score_pool, select

MODEL = nn.Sequential(nn.Linear(4, 3)).eval()
X = torch.ones(6, 4)


class Endless(Dataset):
    def __getitem__(self, i):
        return X[0]


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(X)


@pytest.mark.parametrize(
    "wrong, told",
    [
        (Endless(), "Endless. Give the dataset a `__len__`."),
        (Streamed(), "Streamed. A dataset yields samples. Wrap it: `DataLoader"),
        (lambda: [X], "function. Pass what it returns."),
        (3, "int."),
    ],
)
@pytest.mark.parametrize(
    "call", [lambda pool: acquire(MODEL, pool, 1), lambda pool: score_pool(MODEL, pool)]
)
def test_what_is_no_pool(wrong, told, call):
    with pytest.raises(TypeError, match=re.escape(f"must be an iterable of batches. Got {told}")):
        call(wrong)


def test_a_dataset_is_for_acquire_alone_where_it_takes_it():
    datasets = pytest.importorskip("datasets").Dataset.from_dict({"input": X.tolist()})
    for wrong, other in (
        (datasets, datasets.to_iterable_dataset()),
        (TensorDataset(X), Streamed()),
    ):
        with pytest.raises(TypeError, match="as only `acquire` takes them"):
            score_pool(MODEL, wrong)
        for call in (lambda: score_pool(MODEL, other), lambda: acquire(MODEL, other, 1)):  # noqa: B023
            with pytest.raises(TypeError) as caught:
                call()
            assert "acquire" not in str(caught.value)


class Averaged(nn.Module):
    def __init__(self, inner, dims):
        super().__init__()
        self.inner, self.dims, self.head = inner, dims, nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.inner(x).mean(self.dims))


@pytest.mark.parametrize(
    "model, sample",
    [
        (Averaged(nn.Conv2d(1, 4, 3), (-2, -1)), (1, 6, 6)),
        (Averaged(nn.Conv1d(2, 4, 3), -1), (2, 6)),
        (Averaged(nn.Linear(5, 4), -2), (7, 5)),
    ],
    ids=["pictures", "signals", "sequences"],
)
def test_samples_that_a_model_takes_without_a_batch_are_told_from_batches(model, sample):
    """It runs on one, and what it gives has no dimension of samples."""
    pool = list(torch.randn(6, *sample))
    for call in (lambda: acquire(model, pool, 2), lambda: score_pool(model, pool)):
        with pytest.raises(ValueError, match=r"DataLoader\(samples, batch_size=64\)"):
            call()


@pytest.mark.parametrize("strategy", ["herding", "margin", "badge", None, 3])
def test_scores_alone_are_selected_by_score(strategy):
    with pytest.raises(ValueError, match=r"`strategy` must be one of 'top'.*`acquire`'s"):
        select([1.0, 2.0], 1, strategy=strategy)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Conv1d(1, 1, 3, padding=1), (1, 8)),
        (nn.Conv2d(1, 1, 3, padding=1), (1, 8, 8)),
        (nn.ConvTranspose2d(1, 1, 3, padding=1), (1, 8, 8)),
        (nn.Conv3d(1, 1, 3, padding=1), (1, 4, 4, 4)),
    ],
)
@pytest.mark.parametrize("wrap", [nn.Identity(), nn.Sequential(nn.Identity())], ids=["", "within"])
def test_samples_that_a_convolution_takes_without_a_batch(layer, shape, wrap):
    """Of one channel: what it makes of a sample has the shape of a batch of one."""
    model, samples = nn.Sequential(wrap, layer).eval(), torch.randn(5, *shape)
    with pytest.raises(ValueError, match=r"as one sample without a batch.*DataLoader\(samp"):
        score_pool(model, list(samples), class_dim=1, progress=False)
    batches = DataLoader(samples, batch_size=2)
    assert len(score_pool(model, batches, class_dim=1, progress=False)) == 5


def test_a_model_that_takes_images_one_by_one():
    class Looping(nn.Sequential):
        def forward(self, x):
            return torch.stack([super(Looping, self).forward(each).mean((1, 2)) for each in x])

    model, images = Looping(nn.Conv2d(1, 3, 3)), torch.randn(4, 1, 8, 8)
    found = score_pool(model.eval(), [images], progress=False)
    torch.testing.assert_close(found, naive_score_pool(model, [images]), rtol=1e-5, atol=0)
