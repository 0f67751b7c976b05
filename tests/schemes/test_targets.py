"""Where labels stand in a batch, how they fit the logits, and what is said where they do not."""

import warnings
from collections import UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import (
    DoubtfulScoresWarning,
    SlowPathWarning,
    UnsupportedModelError,
    gradient_dots,
    gradient_sketch,
)
from tests.support.asserts import assert_close_relative
from tests.support.losses import RTOL, score, truth

Pair = namedtuple("Pair", "x y")
Labelled = namedtuple("Labelled", "label x more")


@dataclass
class Item:
    x: torch.Tensor
    y: torch.Tensor


@dataclass
class WithLabels:
    x: torch.Tensor
    labels: torch.Tensor


@dataclass(slots=True)
class Slots:
    x: torch.Tensor
    y: torch.Tensor


def made(kind, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).eval()
    x, y = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    return model, [kind(x[:3], y[:3]), kind(x[3:], y[3:])], [(x, y)], options


CONTAINERS = {
    "a named tuple": lambda: made(Pair, target="y"),
    "a named tuple with a label first": lambda: made(
        lambda x, y: Labelled(y, x, x), forward=lambda model, batch: model(batch.x)
    ),
    "a dataclass": lambda: made(Item, target="y", forward=lambda model, batch: model(batch.x)),
    "a dataclass with labels": lambda: made(
        WithLabels, forward=lambda model, batch: model(batch.x)
    ),
    "slots": lambda: made(Slots, target="y", forward=lambda model, batch: model(batch.x)),
    "attributes": lambda: made(
        lambda x, y: SimpleNamespace(x=x, y=y),
        target="y",
        forward=lambda model, batch: model(batch.x),
    ),
    "a mapping": lambda: made(
        lambda x, y: UserDict(x=x, y=y), target="y", forward=lambda model, batch: model(batch["x"])
    ),
    "a key that the model does not take": lambda: made(
        lambda x, y: {"input": x, "y": y}, target="y"
    ),
}


@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss()])
@pytest.mark.parametrize("kind", CONTAINERS)
def test_labels_by_name(kind, loss):
    model, batches, pair, options = CONTAINERS[kind]()
    exact = truth(model, pair, lambda m, s: F.cross_entropy(m(s[0]), s[1]))
    assert_close_relative(score(model, batches, loss=loss, **options), exact, RTOL)


def test_inputs_that_are_the_labels_are_given_to_the_model():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x)

    model, x = Encoder(), torch.randn(3, 4)
    exact = truth(model, [(x,)], lambda m, s: F.mse_loss(m(s[0]), s[0]))
    found = score(model, [{"x": x}], loss="mse", target="x")
    assert_close_relative(found, exact, RTOL)


def test_names_that_are_not_there_are_told():
    model, _, pair, _ = made(Pair)
    options = {"loss": "cross_entropy", "forward": lambda model, batch: model(batch.x)}
    for item in (Item(*pair[0]), Pair(*pair[0]), SimpleNamespace(x=pair[0][0], y=pair[0][1])):
        with pytest.raises(ValueError, match=r"Got 'z'; the batch is a .*'x', 'y'"):
            score(model, [item], target="z", **options)


def test_class_maps_with_a_dimension_of_one():
    torch.manual_seed(0)
    model = nn.Conv2d(2, 3, 3, padding=1)
    x, y = torch.randn(4, 2, 5, 6), torch.randint(3, (4, 5, 6))
    exact = truth(model, [(x, y)], lambda m, s: F.cross_entropy(m(s[0]), s[1]))
    assert_close_relative(score(model, [(x, y[:, None])], loss="cross_entropy"), exact, RTOL)


class Tagger(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.words, self.head = nn.Embedding(9, 6), nn.Linear(6, classes)

    def forward(self, ids, log=False):
        return self.head(torch.tanh(self.words(ids)))


class LogTagger(Tagger):
    def forward(self, ids):
        return super().forward(ids).log_softmax(-1)


OF_CLASSES = {
    "module": (Tagger, nn.CrossEntropyLoss(), F.cross_entropy),
    "function": (Tagger, F.cross_entropy, F.cross_entropy),
    "sum": (Tagger, nn.CrossEntropyLoss(reduction="sum"), nn.CrossEntropyLoss(reduction="sum")),
    "nll": (LogTagger, nn.NLLLoss(), F.nll_loss),
}


@pytest.mark.parametrize("length", [4, 5])
@pytest.mark.parametrize("name", OF_CLASSES)
def test_losses_of_classes_find_them_where_class_dim_says(name, length):
    """Of as many positions as classes they read one for the other, and said nothing."""
    torch.manual_seed(0)
    make, loss, plain = OF_CLASSES[name]
    model, ids, y = make().eval(), torch.randint(9, (5, length)), torch.randint(4, (5, length))
    y[:, 0] = -100
    exact = truth(model, [(ids, y)], lambda m, s: plain(m(s[0]).movedim(-1, 1), s[1]))
    batches = [(ids[:3], y[:3]), (ids[3:], y[3:])]
    assert_close_relative(score(model, batches, loss=loss, class_dim=-1), exact, RTOL)
    if length == 5:
        with pytest.raises(ValueError, match="`class_dim` must say where the classes are"):
            score(model, batches, loss=loss)


@pytest.mark.parametrize("length", [4, 5])
@pytest.mark.parametrize("first", [False, True])
def test_probabilities_move_with_the_classes(length, first):
    torch.manual_seed(0)
    model, ids = Tagger().eval(), torch.randint(9, (5, length))
    y = torch.rand(5, length, 4).softmax(-1)
    exact = truth(
        model, [(ids, y)], lambda m, s: F.cross_entropy(m(s[0]).movedim(-1, 1), s[1].movedim(-1, 1))
    )
    given = y.movedim(-1, 1) if first and length != 4 else y
    found = score(model, [(ids, given)], loss=nn.CrossEntropyLoss(), class_dim=-1)
    assert_close_relative(found, exact, RTOL)


MANY = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
SUMS = {
    "several labels": (MANY, r"zeros and ones that sum to 2 for sample 0.*bernoulli"),
    "none": (MANY[[2, 1]], r"sum to 0 for sample 1"),
    "not divided": (torch.full((3, 3), 0.5), r"numbers that sum to 1\.5 for sample 0"),
}


@pytest.mark.parametrize("options", [{"loss": "cross_entropy"}, {"scheme": "el2n"}], ids=str)
@pytest.mark.parametrize("kind", SUMS)
def test_labels_that_are_no_probabilities_are_told(kind, options):
    target, told = SUMS[kind]
    model, x = nn.Linear(4, 3), torch.randn(len(target), 4)
    with pytest.warns(DoubtfulScoresWarning, match=told):
        score(model, [(x, target)], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DoubtfulScoresWarning)
        score(model, [(x, target)], likelihood="bernoulli", **options)
        rounded = torch.rand(len(target), 3).softmax(-1).half()
        score(model, [(x, rounded)], **options)


def test_positions_without_probabilities_are_left_out():
    model, x = nn.Conv1d(2, 3, 1), torch.randn(4, 2, 5)
    target = torch.rand(4, 3, 5).softmax(1)
    target[1, :, 3:] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", DoubtfulScoresWarning)
        score(model, [(x, target)], loss="cross_entropy")
        with pytest.raises(DoubtfulScoresWarning, match="that sum to 2 "):
            score(model, [(x, 2 * target)], loss="cross_entropy")


def test_labels_that_are_the_inputs_in_place_are_told():
    model, ids = Tagger(9).eval(), torch.randint(1, 9, (3, 5))
    labels = ids.masked_fill(ids == 3, -100)
    with pytest.warns(DoubtfulScoresWarning, match="the model's own inputs, in place"):
        score(model, [(ids, labels)], loss="cross_entropy", class_dim=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DoubtfulScoresWarning)
        after = torch.cat([ids[:, 1:], torch.full((3, 1), -100)], 1)
        score(model, [(ids, after)], loss="cross_entropy", class_dim=-1)


class Speaker(Tagger):
    """Returns its loss if it is given labels."""

    def forward(self, ids, labels=None):
        z = super().forward(ids)
        return z if labels is None else {"loss": F.cross_entropy(z.movedim(-1, 1), labels)}


@pytest.mark.slow
def test_a_label_that_the_models_own_loss_has_no_class_for_is_told():
    model, ids, y = Speaker().eval(), torch.randint(9, (6, 3)), torch.randint(4, (6, 3))
    batches = [(ids[:3], y[:3]), (ids[3:], y[3:])]
    for place in (0, 5):
        wrong = y.clone()
        wrong[place, 1] = 4
        with pytest.raises(ValueError, match=r"`loss` must be given labels.*Got 4, .* for 4"):
            score(model, [(ids[:3], wrong[:3]), (ids[3:], wrong[3:])], loss="model")
    batches[1][0][2, 2] = 9  # a word, and no label, that there is none of
    with pytest.raises((ValueError, IndexError, RuntimeError)) as raised:
        score(model, batches, loss="model")
    assert "labels within" not in str(raised.value)


@pytest.mark.parametrize("label", [3, 255, -1])
def test_classes_of_a_map_are_counted_by_its_classes(label):
    """Not by its longest side."""
    model, x, y = nn.Conv2d(2, 3, 1), torch.randn(4, 2, 5, 6), torch.randint(3, (4, 5, 6))
    y[2, 1, 1], y[2, 0, 0] = label, -100
    for loss in (nn.CrossEntropyLoss(), lambda o, b: F.nll_loss(o.log_softmax(1), b[1])):
        with pytest.raises(ValueError, match=f"Got {label}, which is out of range for 3"):
            score(model, [(x, y)], loss=loss)


@pytest.mark.slow
def test_what_a_loss_does_is_told_of_the_loss():
    model, _, pair, _ = made(Pair)
    mixing = nn.Sequential(nn.BatchNorm1d(3), nn.Softmax(-1))
    noisy = nn.Dropout(0.5)
    with pytest.raises(UnsupportedModelError, match="`loss`: batch normalisation"):
        score(model, pair, loss=lambda o, b: mixing(o).square().mean())
    with pytest.raises(UnsupportedModelError, match="`loss` draws random numbers, so"):
        score(model, pair, loss=lambda o, b: F.cross_entropy(noisy(o), b[1]))
    noisy_model = nn.Sequential(model, _Noise()).eval()
    with pytest.raises(UnsupportedModelError, match=r"`model\.1` \(_Noise\) draws"):
        score(noisy_model, pair, loss=nn.CrossEntropyLoss())

    def through_numpy(output, batch):
        return F.cross_entropy(output, torch.as_tensor(batch[1].numpy()))

    with pytest.warns(SlowPathWarning, match="`loss` cannot run under vmap"):
        score(model, pair, loss=through_numpy)


class _Noise(nn.Module):
    def forward(self, z):
        return z + torch.randn_like(z)


def test_options_that_a_loss_of_outputs_does_not_read():
    model, _, pair, _ = made(Pair)
    with pytest.raises(ValueError, match="`mask` must be None for a loss"):
        score(model, pair, loss=nn.CrossEntropyLoss(), mask=lambda b: b[1] > 0)
    with pytest.raises(ValueError, match=r"the class CrossEntropyLoss. Make one"):
        score(model, pair, loss=nn.CrossEntropyLoss)
    with pytest.raises(ValueError, match=r"called as `loss\(output, batch\)`.*`batch\[1\]`"):
        score(model, pair, loss=lambda logits, target: F.cross_entropy(logits, target))
    with pytest.raises(ValueError, match=r"called as `\(logits, target\)`"):
        score(model, pair, loss=nn.GaussianNLLLoss())
    v = {"0.bias": torch.ones(6)}
    with pytest.raises(ValueError, match="`group_by` must be None for `gradient_dots`"):
        gradient_dots(model, pair, v, loss="cross_entropy", group_by="module")
    found = gradient_sketch(model, [Pair(*pair[0])], 8, loss="cross_entropy", target="y")
    assert found.shape == (5, 8)
