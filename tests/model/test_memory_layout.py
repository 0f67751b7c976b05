"""Convolutions put the channels last in memory, which no score may show."""

import pytest
import torch
from fastgradnorm_kernels import functorch
from fastgradnorm_kernels.functorch import in_memory
from torch import nn
from torch.nn import functional as F

from fastgradnorm import GradNormScorer
from fastgradnorm._engine.engine import Engine
from fastgradnorm._model.batches import as_batch
from fastgradnorm._model.subject import Subject
from fastgradnorm._options import Options
from fastgradnorm._pool.scored import score_one
from fastgradnorm._witness.witness import Witness
from tests.support import oracle


class _Net(nn.Module):
    """Convolutions, what a test puts after them, a head."""

    def __init__(self, between, features=6):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, padding=1)
        self.head, self.between = nn.Linear(features, 3), between

    def forward(self, x):
        return self.head(self.between(self.second(F.relu(self.first(x)))))


def _changed_after(shape):
    """What comes of a view that is changed: its source changes with it."""

    def between(x):
        y = shape(x)
        y.mul_(2)
        return x.flatten(1) + y.flatten(1)

    return between


def _written_into(x):
    y = x.reshape(len(x), -1)
    y[:, :7] = 0
    return x.flatten(1)


def _relu_in_place(x):
    F.relu(x.flatten(1), True)
    return x.flatten(1)


def _added_in_place(x):
    y = x.contiguous()
    y += 1
    return (x * x).flatten(1)


# Each counts on contiguous memory.
COUNT_ON_IT = {
    "view": lambda x: x.view(len(x), -1),
    "view, then changed": _changed_after(lambda x: x.view(len(x), -1)),
    "flatten, then changed": _changed_after(lambda x: x.flatten(1)),
    "contiguous, then changed": _changed_after(lambda x: x.contiguous()),
    "reshape_as, then changed": _changed_after(lambda x: x.reshape_as(x.new_empty(1, 384))),
    "reshape, then written into": _written_into,
    "contiguous, then added to": _added_in_place,
    "flatten, then relu in place": _relu_in_place,
    "as_strided": lambda x: torch.as_strided(x, (1, 384), (384, 1)).sin(),
}
FINE = {
    "mean": (lambda x: x.mean((2, 3)), 6),
    "flatten": (lambda x: x.flatten(1), 384),
    "flatten, a copy changed": (lambda x: (x.flatten(1) * 1).mul_(2), 384),
    "permuted": (lambda x: x.permute(0, 2, 3, 1).reshape(len(x), -1, 6).sum(1), 6),
    "max pool": (lambda x: F.max_pool2d(x, 3, 2, 1).flatten(1), 96),
}


@pytest.fixture(params=["expected", "entropy", "last layer"])
def scored(request):
    """Compares a model's scores with plain autograd's, and tells if its channels were last."""
    last = request.param == "last layer"
    scheme = "expected" if last else request.param

    def run(model, x):
        options = Options(scheme=scheme, params="last_layer" if last else "all")
        engine = Engine(Subject(model, options), options)
        found = engine.score(as_batch(x, engine.subject.device)).scores[scheme]
        keep = lambda name: not last or "head" in name  # noqa: E731
        exact = oracle.scores(model, oracle.ones(x), scheme, keep=keep)
        assert engine.loop_reason is None
        assert ((found - exact) / exact).abs().max() <= 1e-5
        return engine.passes.settings.channels_last

    return run


@pytest.mark.parametrize("name", COUNT_ON_IT)
def test_a_model_that_counts_on_contiguous_memory_gets_it(name, scored):
    model = _Net(COUNT_ON_IT[name], 384).eval()
    assert not scored(model, torch.randn(3, 3, 16, 16))


@pytest.mark.parametrize("name", FINE)
def test_other_models_have_the_channels_last(name, scored):
    between, features = FINE[name]
    seen = []

    def noted(x):
        if functorch.is_wrapped(x):  # not in a plain pass
            seen.append(in_memory(x).movedim(-3, -1).is_contiguous())
        return between(x)

    assert scored(_Net(noted, features).eval(), torch.randn(3, 3, 16, 16))
    assert seen
    assert all(seen)


def test_without_onednn(scored, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert scored(_Net(COUNT_ON_IT["view"], 384).eval(), torch.randn(3, 3, 16, 16))


def test_verification_is_not_skipped_for_a_model_that_counts_on_it():
    options = Options()
    model = _Net(COUNT_ON_IT["view"], 384).eval()
    engine = Engine(Subject(model, options), options)
    batch = as_batch(torch.randn(2, 3, 16, 16), engine.subject.device)
    witness = Witness(engine)
    witness.examine(witness.look(batch), score_one(engine, batch))
    assert witness.record.samples == 2
    assert not engine.passes.settings.channels_last


@pytest.mark.slow
def test_a_resumed_run_keeps_the_layout(tmp_path):
    """What the second batch taught it holds for the third: other layouts may differ in bits."""

    def between(x):
        return x.view(len(x), -1)[:, :384] if x.shape[-1] == 9 else x.flatten(1)

    torch.manual_seed(0)
    batches = [torch.randn(8, 3, size, size) for size in (16, 18, 16)]
    model = _Net(between, 384).eval()
    undisturbed = GradNormScorer(model, progress=False).score(batches).values

    def two_batches():
        yield from batches[:2]
        raise KeyboardInterrupt

    scorer = GradNormScorer(model, progress=False, checkpoint=tmp_path / "scores.jsonl")
    with pytest.raises(KeyboardInterrupt):
        scorer.score(two_batches())
    assert torch.equal(scorer.score(batches).values, undisturbed)
