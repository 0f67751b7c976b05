"""What is told before a pool is read, and of the argument that it was passed as."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fastgradnorm import acquire, score_pool

MODEL = nn.Sequential(nn.Linear(4, 3)).eval()
X = torch.ones(6, 4)


@pytest.mark.parametrize("shape, turned", [((8, 8, 3), (3, 8, 8)), ((5, 3), (3, 5))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_channels_that_come_last_are_told(shape, turned, dtype):
    layer = nn.Conv2d(3, 4, 3) if len(shape) == 3 else nn.Conv1d(3, 4, 3)
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(2)).eval()
    model(torch.ones(1, *turned))
    with pytest.raises(ValueError, match=r"Channels come first: `x\.movedim\(-1, 1\)`") as raised:
        score_pool(model, [torch.ones(2, *shape).to(dtype)], progress=False)
    assert ("given bytes" in str(raised.value)) == (dtype == torch.uint8)
    with pytest.raises(ValueError, match="must run on one sample") as raised:
        score_pool(model, [torch.ones(2, 7, *turned[1:])], progress=False)
    assert "Channels" not in str(raised.value)


@pytest.mark.slow
def test_a_model_that_scales_bytes_itself_is_given_bytes():
    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x.float() / 255)

    model, x = Scales(), (255 * torch.rand(6, 4)).to(torch.uint8)
    of_floats = score_pool(model.layer, [x.float() / 255], progress=False)
    assert torch.equal(score_pool(model, [x], progress=False), of_floats)
    assert torch.equal(score_pool(model, [x.numpy()], progress=False), of_floats)


def test_what_is_known_before_the_pool_is_read_is_told_before():
    class Photos(Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            raise AssertionError("read")

    for k, options, told in (
        (7, {}, r"`k` must be at most 6.*Got 7"),
        (5, {"labelled": [0, 1]}, r"`k` must be at most 4.*Of 6 samples 2 have a label already"),
        (2, {"labelled": [6]}, r"`labelled` must be indices of the pool, in \[0, 6\)"),
        (2, {"labelled": [1, 1]}, "different indices"),
        (2, {"groups": [1, 2], "max_per_group": 1}, "`groups` must be .* 6 in all"),
    ):
        for pool in (Photos(), DataLoader(Photos(), 2)):
            with pytest.raises(ValueError, match=told):
                acquire(MODEL, pool, k, **options)


def test_a_loader_whose_indices_are_several_samples_each_is_read_first():
    class Bags(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return X

    assert len(acquire(MODEL, DataLoader(Bags(), None), 5, progress=False)) == 5


@pytest.mark.slow
def test_warnings_and_errors_of_acquire_say_pool():
    pool = DataLoader(TensorDataset(X), 4, drop_last=True)
    with pytest.warns(UserWarning, match="`pool` gave 4 scores for a dataset of 6 samples"):
        acquire(MODEL, pool, 2, progress=False)
    with pytest.warns(UserWarning, match="`labelled` gave 4 scores for a dataset of 6 samples"):
        acquire(MODEL, [X], 2, labelled=pool, progress=False)
    with pytest.warns(UserWarning, match="`loader` gave 4 scores for a dataset of 6 samples"):
        score_pool(MODEL, pool, progress=False)
    with pytest.raises(TypeError, match="`pool` must yield batches"):
        acquire(MODEL, [X.tolist()], 2, progress=False)
    with pytest.raises(ValueError, match=r"Of `labelled`: 2 of 2 scores are NaN"):
        acquire(MODEL, [X], 2, labelled=[torch.full((2, 4), float("nan"))], progress=False)
