"""Passes that look alike and are not: none is replayed as another."""

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer
from fastgradnorm._engine import traces
from tests.support.tracing import Kept, as_they_are, eager, replayed, scores  # noqa: F401

pytestmark = pytest.mark.slow


class Rows(nn.Module):
    """Of anything that can be read as rows of twelve numbers, in the order of its dimensions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(12, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x.to(self.body.weight.dtype).flatten(1) / 10)))


def numbers(*shape):
    return torch.randint(100, (3, *shape))


def otherwise(x):
    """The same tensor with its last two dimensions exchanged in memory."""
    return x.mT.contiguous().mT


OTHERS = {
    "bytes after floats": [numbers(12).float(), numbers(12).byte()],
    "floats after bytes": [numbers(12).byte(), numbers(12).float()],
    "doubles after floats": [numbers(12).float(), numbers(12).double() / 7],
    "whole numbers of two widths": [numbers(12), numbers(12).int()],
    "another shape of as many": [numbers(3, 4).float(), numbers(4, 3).float()],
    "another layout": [numbers(3, 4).float(), otherwise(numbers(3, 4).float())],
    "another layout before": [otherwise(numbers(3, 4).float()), numbers(3, 4).float()],
    "channels last": [
        numbers(2, 3, 2).float(),
        numbers(2, 3, 2).float().to(memory_format=torch.channels_last),
    ],
    "expanded": [numbers(3, 4).float(), numbers(1, 4).float().expand(3, 3, 4)],
    "fewer": [numbers(12).float(), numbers(12)[:2].float()],
}


@pytest.mark.parametrize("name", OTHERS)
def test_batches_that_lie_otherwise_or_are_of_other_numbers(monkeypatch, name):
    first, second = OTHERS[name]
    model, batches = Rows().eval(), [first] * 4 + [second] * 4 + [first]
    expected = as_they_are(monkeypatch, model, batches, scheme="entropy")
    assert torch.equal(scores(model, batches, scheme="entropy"), expected)
    assert replayed() >= 3


def test_under_the_callers_autocast(monkeypatch):
    """Entered and left between two batches of a stream."""

    def found():
        model, x = Rows().eval(), numbers(12).float()
        stream = GradNormScorer(model, latency=0, verify=False).stream([x] * 9)
        made = [next(stream) for _ in range(3)]
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype=dtype):
                made += [next(stream) for _ in range(3)]
        return torch.stack(made)

    torch.manual_seed(1)
    replays, count = found(), replayed()
    assert count >= 3
    torch.manual_seed(1)
    with monkeypatch.context() as patch:
        patch.setattr(traces, "_LONGEST", -1.0)
        plain = found()
    assert replayed() == count
    assert torch.equal(replays, plain)
    assert not torch.equal(plain[0], plain[3]) and not torch.equal(plain[3], plain[6])


def test_kinds_do_not_push_each_other_out():
    """Of two that come by turns both are replayed."""
    model, x = Rows().eval(), numbers(12).float()
    scores(model, [x, x[:2]] * 5)
    assert replayed() >= 6
    assert sum(each.traced for each in Kept.made) == 2
