"""Logits `[N, *positions, C]` scored as `[N, C, *positions]`."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.cases import Custom, linear, perturb
from tests.support.doubts import findings, warned


def words(samples=4, length=7):
    return torch.randint(1, 12, (samples, length))


class Tagger(nn.Module):
    """Logits `[N, T, C]` of words."""

    def __init__(self, classes=3, end=None):
        super().__init__()
        self.embed, self.head, self.end = nn.Embedding(12, 8), nn.Linear(8, classes), end

    def forward(self, input_ids, attention_mask=None):
        z = self.head(torch.tanh(self.embed(input_ids)))
        return z if self.end is None else self.end(z)


def masked(length=7):
    mask = (torch.arange(length) < torch.tensor([7, 4, 6, 5])[:, None]).long()
    return {"input_ids": words(length=length), "attention_mask": mask}


def recurrent():
    lstm = nn.LSTM(4, 6, batch_first=True)
    return Custom(lambda m, x: m.head(m.rnn(x)[0]), rnn=lstm, head=linear(6, 3))


def channels_last():
    def forward(m, x):
        return m.head(torch.tanh(m.conv(x)).movedim(1, -1))

    return Custom(forward, conv=nn.Conv2d(3, 6, 3, padding=1), head=linear(6, 2))


def moved_convolution():
    return Custom(lambda m, x: m.conv(x).movedim(1, -1), conv=nn.Conv2d(3, 2, 3, padding=1))


class Raw(nn.Module):
    """Logits `[N, T, C]` by a product with a raw weight."""

    def __init__(self, words=True):
        super().__init__()
        self.embed = nn.Embedding(12, 8) if words else nn.Identity()
        self.weight = nn.Parameter(torch.randn(8, 3))

    def forward(self, x, attention_mask=None):
        return torch.tanh(self.embed(x)) @ self.weight


def features():
    return {"x": torch.randn(4, 7, 8), "attention_mask": masked()["attention_mask"]}


LAST = {
    "words, raw weight": lambda: (Raw(), words()),
    "features with a mask, raw weight": lambda: (Raw(words=False), features()),
    "words, linear": lambda: (Tagger(), words()),
    "words, after something": lambda: (Tagger(end=lambda z: z - z.mean((1, 2), True)), words()),
    "mask": lambda: (Tagger(), masked()),
    "mask, after something": lambda: (Tagger(end=lambda z: 2 * z), masked()),
    "recurrent": lambda: (recurrent(), torch.randn(3, 5, 4)),
    "pixels, linear": lambda: (channels_last(), torch.randn(3, 3, 8, 8)),
    "pixels, moved": lambda: (moved_convolution(), torch.randn(3, 3, 8, 8)),
    "pixels, not square": lambda: (moved_convolution(), torch.randn(3, 3, 8, 6)),
    "pixels last, linear": lambda: (linear(3, 5), torch.randn(3, 8, 8, 3)),
}


@pytest.mark.parametrize("name", LAST)
def test_classes_last_are_told(name):
    model, batch = LAST[name]()
    found = findings(perturb(model), [batch])
    level, message = found["class dimension"]
    assert level == "warn" and "class_dim=-1" in message
    assert ("attention_mask" in message) == ("mask" in name)


@pytest.mark.parametrize("name", LAST)
def test_what_is_advised_is_silent(name):
    model, batch = LAST[name]()
    perturb(model)
    assert not warned(model, [batch], class_dim=-1)
    shape = model(**batch).shape if isinstance(batch, dict) else model(batch).shape
    assert not warned(model, [batch], class_dim=1 - len(shape))


FIRST = {
    "convolution": lambda: (nn.Conv1d(4, 3, 1), torch.randn(3, 4, 7)),
    "as many classes as channels": lambda: (nn.Conv1d(3, 3, 1), torch.randn(3, 3, 7)),
    "fewer positions": lambda: (nn.Conv1d(4, 4, 3, stride=2), torch.randn(3, 4, 9)),
    "segmentation": lambda: (nn.Conv2d(3, 4, 3, padding=1), torch.randn(3, 3, 8, 8)),
    "as many classes as rows": lambda: (nn.Conv2d(3, 8, 3, padding=1), torch.randn(3, 3, 8, 8)),
    "smaller": lambda: (nn.Conv2d(3, 4, 3, stride=2), torch.randn(3, 3, 9, 7)),
    "volumes": lambda: (nn.Conv3d(1, 2, 3, padding=1), torch.randn(2, 1, 4, 5, 6)),
    "words, moved": lambda: (Tagger(end=lambda z: z.transpose(1, 2)), words()),
    "one class of a whole text": lambda: (Tagger(end=lambda z: z.mean(1)), masked()),
    "as many classes as words": lambda: (Tagger(7, end=lambda z: z.mean(1)), masked()),
    "pixels last, moved": lambda: (
        Custom(lambda m, x: m.head(x).movedim(-1, 1), head=linear(3, 5)), torch.randn(3, 8, 8, 3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRST)
def test_classes_first_are_silent(name):
    model, batch = FIRST[name]()
    assert not warned(perturb(model), [batch])


LOSSES = {
    "module": nn.CrossEntropyLoss(),
    "function": F.cross_entropy,
    "partial": functools.partial(F.cross_entropy, label_smoothing=0.1),
    "log-likelihood": nn.NLLLoss(),
}


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_a_loss_of_pytorchs_reads_dimension_1(loss):
    """With as many positions as classes it takes either order without an error."""
    model, x = perturb(nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(-1))), torch.randn(5, 3, 4)
    batch = (x, torch.randint(0, 3, (5, 3)))
    level, message = findings(model, [batch], scheme="loss", loss=loss)["class dimension"]
    assert level == "warn" and "class_dim=-1" in message
    assert not warned(model, [batch], scheme="loss", loss=loss, class_dim=-1)
    assert not warned(perturb(nn.Conv1d(4, 3, 1)), [(x.mT, batch[1])], scheme="loss", loss=loss)


def test_a_loss_of_ones_own_says_itself_where_its_classes_are():
    model, x = perturb(linear(4, 3)), torch.randn(5, 3, 4)

    def loss(output, batch):
        return F.cross_entropy(output.mT, batch[1])

    assert not warned(model, [(x, torch.randint(0, 3, (5, 3)))], scheme="loss", loss=loss)


def test_what_goes_into_a_loss_of_pytorchs_is_the_callers_own_word():
    model = perturb(nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)))
    batch = (torch.randn(5, 4), torch.randint(0, 3, (5,)))
    assert not warned(model, [batch], scheme="loss", loss=nn.CrossEntropyLoss())
