"""Passes captured on a GPU and replayed: here with a stand-in, which runs what was captured anew.

Like a CUDA graph it has fixed inputs and outputs, knows only the branches of its capture, and
runs nothing else. What a device does is tested by `python -m benchmarks gpu`.
"""

import contextlib

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer
from fastgradnorm._engine import replay
from fastgradnorm._model.branches import Branches, Foreseen
from tests.support.asserts import assert_close_relative


class StandIn(replay.Captured):
    """As a captured pass, on the CPU."""

    made = 0

    def __init__(self, run, branches, args, pool):
        self._run, self._branches = run, branches
        self._inputs = [None if arg is None else arg.clone() for arg in args]
        run(Foreseen(branches), *self._inputs)  # what cannot be captured raises now
        type(self).made += 1

    def __call__(self, args):
        for ours, given in zip(self._inputs, args, strict=True):
            if ours is not None:
                ours.copy_(given)  # which raises where shapes differ
        foreseen = Foreseen(self._branches)
        return self._run(foreseen, *self._inputs), foreseen.hold()


@pytest.fixture(autouse=True)
def captured(monkeypatch):
    """`Replays` of this test, all of which believe that they are on a GPU."""
    made = []
    before = replay.Replays.__init__

    def on_a_gpu(self, device):
        before(self, device)
        self._possible = True
        made.append(self)

    monkeypatch.setattr(replay.Replays, "__init__", on_a_gpu)
    monkeypatch.setattr(replay, "Captured", StandIn)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(StandIn, "made", 0)
    return made


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.body(x).tanh())


class Branching(Model):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else self.body(x)[:, :3]


class Refusing(Model):
    """Cannot be captured, as what copies from the device to the host cannot."""

    def forward(self, x):
        if StandIn.capturing:
            raise RuntimeError("operation not permitted when stream is capturing\nMore of it.")
        return super().forward(x)


def scores(model, batches, **options):
    return (
        GradNormScorer(model, latency=0, verify=False, progress=False, **options)
        .score(batches)
        .values
    )


def as_they_are(model, batches, **options):
    with replay.as_they_are():
        return scores(model, batches, **options)


def assert_same(model, batches, **options):
    expected = as_they_are(model, batches, **options)
    assert_close_relative(scores(model, batches, **options), expected, rtol=1e-6)


def replayed(captured):
    return sum(replays.replayed for replays in captured)


WAYS = [{"scheme": "expected"}, {"scheme": "entropy"}, {"params": "last_layer"}]


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_the_second_of_a_kind_is_captured_and_the_others_replayed(captured, options):
    assert_same(Model().eval(), list(torch.randn(20, 4).split(4)), **options)
    assert (StandIn.made, replayed(captured)) == (1, 4)


@pytest.mark.slow
def test_a_smaller_batch_is_filled_up(captured):
    assert_same(Model().eval(), list(torch.randn(19, 4).split(4)))
    assert (StandIn.made, replayed(captured)) == (1, 4)


@pytest.mark.slow
def test_a_much_smaller_batch_is_a_kind_of_its_own(captured):
    assert_same(Model().eval(), list(torch.randn(41, 4).split(10)))
    assert replayed(captured) == 3


@pytest.mark.slow
def test_lengths_are_kinds_of_their_own(captured):
    batches = [torch.randn(3, length, 4) for length in (2, 5, 2, 5, 2, 5)]
    assert_same(Model().eval(), batches, forward=lambda model, x: model(x).mean(1))
    assert (StandIn.made, replayed(captured)) == (2, 4)


class Many(Model):
    """So many classes that not all of them are pulled back."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 43)


class TestRounds:
    """What changes between rounds, samples and classes, reaches a captured pass by its inputs."""

    OPTIONS = ({}, {"scheme": ("expected", "entropy")}, {"scheme": "expected_squared"})

    @pytest.mark.slow
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    @pytest.mark.parametrize("rtol", [0.1, 0.03, 0.01, 1e-12])
    def test_later_rounds_and_batches_are_replayed(self, captured, rtol, options):
        # some samples are sure of a class, and others are not: rounds have ever fewer of them
        sizes = torch.linspace(0.1, 9, 15).repeat(5)[:, None]
        batches = list((torch.randn(75, 4) * sizes).split(15))
        model = Many().eval()
        with replay.as_they_are():
            expected = self._scores(model, batches, rtol=rtol, **options)
        actual = self._scores(model, batches, rtol=rtol, **options)
        for one, other in zip(actual, expected, strict=True):
            assert_close_relative(one, other, rtol=1e-5)
        assert StandIn.made > 1  # of the forward pass, and of rounds
        assert replayed(captured) >= 4 + 3

    @staticmethod
    def _scores(model, batches, **options):
        scorer = GradNormScorer(model, latency=0, verify=False, progress=False, **options)
        found = scorer.score(batches)
        return [each.values for each in (found.values() if isinstance(found, dict) else [found])]

    @pytest.mark.slow
    def test_few_sizes_are_captured(self, captured):
        sizes = torch.linspace(0.1, 9, 40).repeat(10)[:, None]
        scores(Many().eval(), list((torch.randn(400, 4) * sizes).split(40)), rtol=0.01)
        assert replayed(captured) > 3 * StandIn.made
        assert sum(len(sizes) for each in captured for sizes in each._kinds.values()) <= 10

    @pytest.mark.slow
    def test_a_forward_of_integers(self, captured):
        class Words(Many):
            def __init__(self):
                super().__init__()
                self.table = nn.Embedding(9, 4)

            def forward(self, ids):
                return super().forward(self.table(ids).mean(1))

        assert_same(Words().eval(), list(torch.randint(0, 9, (30, 6)).split(5)), rtol=0.05)
        assert replayed(captured) > 6


class TestBranches:
    @pytest.mark.parametrize("signs", [(1, 1, 1, 1), (1, 1, -1, 1), (1, -1, 1, -1)], ids=str)
    def test_a_batch_that_branches_otherwise_runs_as_it_is(self, captured, signs):
        assert_same(Branching().eval(), [sign * torch.rand(3, 4) for sign in signs])
        assert replayed(captured) > 0

    @pytest.mark.slow
    def test_samples_of_one_batch_that_branch_apart(self, captured):
        signs = torch.tensor([1.0, 1, -1])[:, None]
        batches = [torch.rand(3, 4), torch.rand(3, 4), signs * torch.rand(3, 4), torch.rand(3, 4)]
        assert_same(Branching().eval(), batches)
        assert replayed(captured) >= 2

    def test_what_is_foreseen_is_told_from_what_holds(self):
        seen = Branches()
        noted = torch.func.vmap(lambda x: x * seen.read(torch.Tensor.item, x.sum(), "item"))
        noted(torch.ones(3, 2))
        for values, hold in ((torch.ones(3, 2), True), (torch.ones(3, 2).cumsum(0), False)):
            foreseen = Foreseen(seen)
            run = torch.func.vmap(
                lambda x, f=foreseen: f.read(torch.Tensor.item, x.sum(), "item") * x
            )
            assert run(values).equal(2 * values)
            assert bool(foreseen.hold()) is hold


class TestWhatCannotBeCaptured:
    @pytest.fixture(autouse=True)
    def capturing(self, monkeypatch):
        def run(self, run, branches, args, pool):
            StandIn.capturing = True
            try:
                return before(self, run, branches, args, pool)
            finally:
                StandIn.capturing = False

        before = StandIn.__init__
        monkeypatch.setattr(StandIn, "capturing", False, raising=False)
        monkeypatch.setattr(StandIn, "__init__", run)

    def test_runs_as_it_is(self, captured):
        assert_same(Refusing().eval(), list(torch.randn(12, 4).split(3)))
        assert (StandIn.made, replayed(captured)) == (0, 0)

    def test_explain_tells_why(self):
        table = str(GradNormScorer(Refusing().eval()).explain(torch.randn(3, 4)))
        assert "launched one by one" in table
        assert "operation not permitted when stream is capturing" in table
        assert "More of it" not in table

    def test_explain_says_nothing_of_what_can(self):
        assert "launched" not in str(GradNormScorer(Model().eval()).explain(torch.randn(3, 4)))

    def test_objects_beside_the_samples(self, captured):
        batches = [(x, object()) for x in torch.randn(12, 4).split(3)]
        forward = {"forward": lambda model, batch: model(batch[0])}
        assert_same(Model().eval(), batches, **forward)
        assert replayed(captured) == 0
        table = str(GradNormScorer(Model().eval(), **forward).explain(batches[0]))
        assert "more than plain values" in table

    def test_no_room_for_captured_passes(self, captured):
        """They are done without: batches stay as large as they are."""

        class Full(Model):
            def forward(self, x):
                if StandIn.capturing:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                return super().forward(x)

        assert_same(Full().eval(), list(torch.randn(12, 4).split(3)))
        assert (StandIn.made, replayed(captured)) == (0, 0)
        assert any("out of memory" in (replays.reason or "") for replays in captured)


@pytest.mark.slow
def test_parameters_changed_in_place_between_pools_are_seen():
    model, batches = Model().eval(), list(torch.randn(12, 4).split(3))
    scorer = GradNormScorer(model, latency=0, verify=False, progress=False)
    before = scorer.score(batches).values
    with torch.no_grad():
        model.head.weight.mul_(3)
    after = scorer.score(batches).values
    assert_close_relative(after, as_they_are(model, batches), rtol=1e-6)
    assert not torch.allclose(before, after)
