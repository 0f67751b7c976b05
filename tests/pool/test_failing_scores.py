"""Of samples that a model fails on, the error tells which they are."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from fastgradnorm import ArgumentError, GradNormScorer, UnsupportedModelError, score_pool

TOKENS = torch.randint(0, 10, (41, 5), generator=torch.Generator().manual_seed(0))
TOKENS[23, 1] = 77


class Own(Dataset):
    def __len__(self):
        return len(TOKENS)

    def __getitem__(self, index):
        return TOKENS[index]


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.embedding(x).mean(1))


def notes(loader, model=None, error=IndexError, **options):
    scorer = GradNormScorer((model or Words()).eval(), progress=False, **options)
    with pytest.raises(error) as raised:
        scorer.score(loader)
    return getattr(raised.value, "__notes__", [])


ODD = [*range(1, 41, 2)]  # of which number 11 is 23


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loader", "options", "told"),
    [
        (DataLoader(Own(), 1), {"latency": 0}, "sample 23 of the dataset"),
        (DataLoader(Own(), 3), {"latency": 0}, "one of samples 21 to 23 of the dataset"),
        (DataLoader(Subset(Own(), ODD), 1), {"latency": 0}, "sample 11 of the dataset"),
        (DataLoader(Own(), 1), {"latency": 0, "verify": False}, "sample 23 of the dataset"),
        (DataLoader(Own(), 4, sampler=[1, 23, 7]), {}, "one of samples 1, 23, 7 of the dataset"),
        (DataLoader(Own(), 1), {}, "one of samples 20 to 23 of the dataset"),
        ([*TOKENS.split(1)], {"latency": 0}, "sample 23 in its order"),
        ([*TOKENS.split(2)], {"verify": False}, "one of samples 20 to 23 in its order"),
    ],
)
def test_samples_that_a_model_fails_on_are_named(loader, options, told):
    assert notes(loader, **options)[-1] == f"Scoring `loader` failed at {told}."


def test_so_is_the_sample_of_another_shape():
    images = [torch.zeros(1, 3, 8, 8) for _ in range(20)]
    images[13] = torch.zeros(1, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(), nn.Linear(4, 3))
    found = notes(images, model, ValueError)
    assert found == ["Scoring `loader` failed at sample 13 in its order."]


@pytest.mark.slow
def test_a_stream_is_told_alike():
    scorer = GradNormScorer(Words().eval(), verify=False, latency=0, progress=False)
    with pytest.raises(IndexError) as raised:
        for _ in scorer.stream(DataLoader(Own(), 1)):
            pass
    assert raised.value.__notes__ == ["Scoring `loader` failed at sample 23 of the dataset."]


def test_what_is_wrong_with_a_model_is_not_told_of_samples():
    images = torch.zeros(4, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(), nn.Linear(4, 3))
    assert notes([images], model, ValueError) == []
    mixing = nn.Sequential(nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3))
    assert notes([*torch.randn(40, 5).split(2)], mixing, UnsupportedModelError) == []


def test_scores_are_those_of_a_model_that_fails_on_none():
    assert len(score_pool(Words().eval(), [TOKENS[:23]], progress=False)) == 23


@pytest.mark.parametrize("size", [1, 2, 41])
@pytest.mark.parametrize("loss", ["cross_entropy", "by chance"])
def test_a_label_that_there_is_none_of_is_told_by_its_sample(size, loss):
    x, y = torch.randn(41, 5), torch.zeros(41, dtype=torch.long)
    y[20] = 7
    model = nn.Linear(5, 3)
    options = {"scheme": "loss", "loss": "cross_entropy"}
    if loss == "by chance":
        options["likelihood"], y = "bernoulli", y[:, None].expand(41, 3).float()
    order = [*range(40, -1, -1)]
    loader = DataLoader(TensorDataset(x, y), size, sampler=order)
    assert notes(loader, model, ArgumentError, **options)[-1] == (
        "Scoring `loader` failed at sample 20 of the dataset."
    )


@pytest.mark.slow
def test_a_batch_of_one_that_a_worker_cannot_load_is_one_sample():
    class Broken(Own):
        def __getitem__(self, index):
            if index == 3:
                raise RuntimeError("broken")
            return super().__getitem__(index)

    found = notes(DataLoader(Broken(), 1, num_workers=1), error=RuntimeError)
    assert found == ["Loading `loader` failed at sample 3 of the dataset."]
