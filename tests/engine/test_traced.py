"""Passes traced once and replayed on the CPU: the same bits, or the pass as it is."""

import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fastgradnorm import GradNormScorer, KernelError
from fastgradnorm._engine import traces
from fastgradnorm._engine.traced import NotTraceableError, Traced
from tests.support.tracing import Kept, as_they_are, eager, replayed, scores  # noqa: F401

WAYS = [{"scheme": "expected"}, {"scheme": "entropy"}, {"params": "last_layer"}]


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(self.layer(self.embed(ids)).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0].mean(1))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.one(x) if x.sum() > 0 else self.other(x).tanh()


class Tokens(nn.Module):
    """So many positions that norms are ghost norms, of which some lose their digits."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(39, 48), nn.Linear(48, 3)

    def forward(self, x):
        return self.head((self.body(x[..., 1:]) * x[..., :1]).mean(1))


def images():
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(4, 4, 3, groups=2), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 3)]
    return nn.Sequential(*layers)


MODELS = {
    "rows": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), (4,)),
    "images": (images, (2, 8, 8)),
    "text": (Text, None),
    "recurrent": (Recurrent, (7, 4)),
    "tokens": (Tokens, (6, 40)),
}


def pool(shape, count=20):
    return torch.randint(20, (count, 6)) if shape is None else torch.randn(count, *shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_replays_give_the_same_bits(monkeypatch, name, options):
    make, shape = MODELS[name]
    model, batches = make().eval(), pool(shape).split(4)
    expected = as_they_are(monkeypatch, model, batches, **options)
    assert torch.equal(scores(model, batches, **options), expected)
    assert replayed() >= 3


@pytest.mark.slow
def test_the_last_layer_of_many_samples_at_once_too(monkeypatch):
    model, batches = images().eval(), pool((2, 8, 8)).split(4)
    options = {"params": "last_layer", "verify": True}
    expected = as_they_are(monkeypatch, model, batches, **options)
    assert torch.equal(scores(model, batches, **options), expected)
    assert replayed() >= 3


@pytest.mark.slow
def test_a_batch_that_branches_otherwise_is_run_as_it_is(monkeypatch):
    x = torch.randn(24, 4).abs()
    x[12:20] *= -1
    x[21:23] *= -1  # two branches within one batch
    model = Branching().eval()
    expected = as_they_are(monkeypatch, model, x.split(4))
    assert torch.equal(scores(model, x.split(4)), expected)
    assert replayed() >= 1


@pytest.mark.slow
def test_a_batch_whose_norms_lose_their_digits_is_run_as_it_is(monkeypatch):
    x = torch.randn(20, 6, 40)
    x[12:16, :, 1:] = x[12:16, :1, 1:]
    x[12:16, :, 0] = torch.tensor([1.0, -1, 1, -1, 1, -1])  # gradients that cancel
    model = Tokens().eval()
    expected = as_they_are(monkeypatch, model, x.split(4), scheme="entropy")
    assert torch.equal(scores(model, x.split(4), scheme="entropy"), expected)
    assert [each.replayed for each in Kept.made if each.replayed] == [2]


@pytest.mark.slow
def test_a_model_trained_between_batches_is_followed():
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).eval(), torch.randn(8, 4)
    stream = GradNormScorer(model, latency=0, verify=False).stream([x] * 5)
    before = [next(stream) for _ in range(4)]
    with torch.no_grad():
        model[2].weight.mul_(3)
        model[0].bias.add_(1)
    after = next(stream)
    assert replayed() == 3
    assert torch.equal(before[0], before[3])
    assert torch.equal(after, scores(model, [x]))


@pytest.mark.slow
def test_other_batch_sizes_are_kinds_of_their_own(monkeypatch):
    model, x = images().eval(), pool((2, 8, 8), 22)
    batches = x.split([5, 5, 5, 2, 2, 2, 1])
    expected = as_they_are(monkeypatch, model, batches)
    assert torch.equal(scores(model, batches), expected)
    assert replayed() == 2


@pytest.mark.slow
def test_what_cannot_be_traced_is_run_as_it_is_and_told(monkeypatch):
    class Broken(Traced):
        def __init__(self, run, args):
            raise RuntimeError("not this one\nMore of it.")

    monkeypatch.setattr(traces, "Traced", Broken)
    model, batches = images().eval(), pool((2, 8, 8)).split(4)
    assert torch.equal(scores(model, batches), as_they_are(monkeypatch, model, batches))
    assert {each.reason for each in Kept.made if each.reason} == {"RuntimeError: not this one"}


def test_errors_of_ours_surface_while_a_pass_is_traced(monkeypatch):
    for error in (KernelError("the rule of `linear` failed.", "linear"), TypeError("a slip")):

        class Broken(Traced):
            def __init__(self, run, args, error=error):
                raise error

        monkeypatch.setattr(traces, "Traced", Broken)
        with pytest.raises(type(error), match=str(error)):
            scores(images().eval(), pool((2, 8, 8)).split(4))


def test_what_the_model_raises_while_it_is_traced_is_a_reason(monkeypatch):
    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            if get_proxy_mode() is not None:
                raise TypeError("not with proxies")
            return self.layer(x)

    model, batches = Untraceable().eval(), pool((4,)).split(4)
    assert torch.equal(scores(model, batches), as_they_are(monkeypatch, model, batches))
    assert {each.reason for each in Kept.made if each.reason} == {"TypeError: not with proxies"}


LOSSES = {
    "cross entropy": lambda o, b: F.cross_entropy(o, b[1]),
    "an index": lambda o, b: -o.log_softmax(1)[torch.arange(len(o)), b[1]].mean(),
    "one hot": lambda o, b: -(F.one_hot(b[1], 3) * o.log_softmax(1)).sum(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_label_out_of_range_in_a_replayed_batch_is_told(name):
    x, y = torch.randn(20, 4), torch.randint(3, (20,))
    y[14] = 7
    model, batches = nn.Linear(4, 3).eval(), [*zip(x.split(4), y.split(4), strict=True)]
    with pytest.raises(ValueError, match="Got 7, which is out of range for 3"):
        scores(model, batches, scheme="loss", loss=LOSSES[name])
    assert replayed() >= 1


@pytest.mark.slow
def test_a_trace_that_gives_other_numbers_is_not_used(monkeypatch):
    class Wrong(Traced):
        def __call__(self, args):
            made, holds = super().__call__(args)
            return torch.utils._pytree.tree_map(lambda t: t + 1, made), holds

    monkeypatch.setattr(traces, "Traced", Wrong)
    model, batches = images().eval(), pool((2, 8, 8)).split(4)
    assert torch.equal(scores(model, batches), as_they_are(monkeypatch, model, batches))
    assert replayed() == 0


@pytest.mark.slow
def test_short_pools_are_not_traced(monkeypatch):
    monkeypatch.setattr(traces, "_COMING", 4)
    model, x = nn.Linear(4, 3).eval(), torch.randn(24, 4)
    scores(model, DataLoader(TensorDataset(x[:20]), 4))
    assert replayed() == 0
    scores(model, DataLoader(TensorDataset(x), 4))
    assert replayed() == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "batches", "traced"),
    [(0.0, 6, True), (1.0, 9, False), (1.0, 11, True), (2.0, 99, False)],
)
def test_longer_passes_want_longer_pools(monkeypatch, seconds, batches, traced):
    """Of a second twice as many passes are to come, and of two none repay it."""
    monkeypatch.setattr(traces, "_COMING", 4)
    monkeypatch.setattr(traces, "_LONG", 1.0)
    monkeypatch.setattr(traces, "_LONGEST", 1.5)
    clock = iter(i * seconds for i in range(10**6))
    clocks = SimpleNamespace(perf_counter=lambda: next(clock), thread_time=time.thread_time)
    monkeypatch.setattr(traces, "time", clocks)
    model, x = nn.Linear(4, 3).eval(), torch.randn(4 * batches, 4)
    scores(model, DataLoader(TensorDataset(x), 4))
    assert bool(replayed()) is traced


def test_where_memory_is_bounded_long_passes_are_not_traced(monkeypatch):
    monkeypatch.setattr(traces, "_LONGEST", 1.5)
    clock = iter(i * 0.2 for i in range(10**6))
    clocks = SimpleNamespace(perf_counter=lambda: next(clock), thread_time=time.thread_time)
    monkeypatch.setattr(traces, "time", clocks)
    model, batches = nn.Linear(4, 3).eval(), [torch.randn(4, 4)] * 9
    told = [
        GradNormScorer(model, latency=0, max_memory=most, progress=False, verify=False)
        .score(batches)
        .provenance["replays"]
        for most in (None, 1 << 30)
    ]
    assert told[0]["replayed"] and not told[1]["replayed"]
    assert "`max_memory` bounds" in told[1]["reason"]


class TestOneTrace:
    @pytest.mark.parametrize(
        "run",
        [lambda x: x[x > 0].sum(), lambda x: x.nonzero().sum(), lambda x: F.dropout(x)],
        ids=["mask", "nonzero", "dropout"],
    )
    def test_what_depends_on_numbers_or_chance_is_refused(self, run):
        with pytest.raises(NotTraceableError):
            Traced(run, [torch.randn(6)])

    def test_reading_by_numbers_is_not(self):
        traced = Traced(lambda x: x[torch.tensor([2, 0])] * 2, [torch.randn(6)])
        assert traced([torch.arange(6.0)]).tolist() == [4, 0]

    def test_arguments_may_lie_anywhere_in_memory(self):
        def run(x):
            return x.view(2, 3).T.unsqueeze(0) * 2, x.view(3, 2)

        traced, x = Traced(run, [torch.randn(6)]), torch.arange(20.0)
        assert all(map(torch.equal, traced([x[7:13]]), run(x[7:13])))

    def test_what_is_returned_is_in_no_memory_of_others(self):
        weight = torch.randn(6)
        traced = Traced(lambda x: (x, x.view(2, 3), weight.view(3, 2), x + weight), [torch.ones(6)])
        x = torch.zeros(6)
        for made in traced([x])[:3]:
            made.add_(5)
        assert not x.any()
        assert torch.equal(traced([x])[3], weight)
        assert torch.equal(traced([x])[2].flatten(), weight)

    def test_views_of_views_are_one_and_what_is_written_to_them_counts(self):
        def run(x):
            y = x * 1
            y.view(2, 3).T[1].mul_(10)
            a, b = y.view(2, 3).unbind(0)
            return a.unsqueeze(0).permute(1, 0) + b[:, None], y.view(3, 2).view(6)

        traced, x = Traced(run, [torch.randn(6)]), torch.randn(6)
        assert all(map(torch.equal, traced([x]), run(x)))
        assert len(traced) < 12
