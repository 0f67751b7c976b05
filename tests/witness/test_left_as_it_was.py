"""The witness calls the caller's own model: nothing of it, of the batch or the process changes."""

import random
import threading
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, Options, UnsupportedModelError, score_pool
from fastgradnorm._model.batches import as_batch
from fastgradnorm._model.subject import Subject
from fastgradnorm._witness.meaning import Meaning
from fastgradnorm._witness.own_call import OwnModel
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb
from tests.support.unchanged import assert_unchanged, snapshot


class Keeping(nn.Module):
    """Keeps what it has seen in every way that a module can."""

    def __init__(self):
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(1))
        self.history, self.cache, self.recent = [torch.ones(2)], {"a": 1}, deque([1, 2], maxlen=3)
        self.seen, self.count = {1}, 0

    def forward(self, x):
        h = torch.tanh(self.drop(self.body(x)))
        self.last, self.count = h, self.count + 1
        self.history.append(h)
        self.cache["h"] = h
        self.recent.append(h)
        self.seen.add(self.count)
        self.calls += 1
        return self.head(h)


@pytest.mark.parametrize("options", [
    {}, {"scheme": "entropy"}, {"params": "last_layer"}, {"verify": "all"}, {"rtol": 0.1},
], ids=str)  # fmt: skip
def test_attributes_and_modes(options):
    model = perturb(Keeping())
    model.train()
    model.head.eval()
    held = list(model.history), dict(model.cache), list(model.recent), set(model.seen)
    x = torch.randn(8, 4)
    before = snapshot(model)
    score_pool(model, x.split(4), progress=False, **options)
    assert_unchanged(before, model)
    assert (list(model.history), model.cache, list(model.recent), model.seen) == held
    assert not hasattr(model, "last")
    assert model.training
    assert not model.head.training


def test_after_an_error_too():
    class Failing(Keeping):
        def forward(self, x):
            out = super().forward(x)
            if len(x) > 1:
                raise KeyError("after everything was written")
            return out

    model = perturb(Failing())
    model.train()
    x = torch.randn(3, 4)
    before = snapshot(model)
    with pytest.raises(KeyError):
        score_pool(model, [x], progress=False)
    assert_unchanged(before, model)


@pytest.mark.slow
@pytest.mark.parametrize("verify", ["first", "all"])
def test_random_states_and_batches(verify):
    def forward(m, x):
        torch.rand(1), np.random.rand(), random.random()  # drawn, and of no effect
        return m.head(torch.tanh(x.mul_(2)))

    model, x = Custom(forward, head=linear(4, 3)), torch.randn(6, 4)
    kept, expected = x.clone(), oracle.scores(model, oracle.ones(x.clone()))
    before = snapshot(model)
    scores = score_pool(model, x.split(3), verify=verify, progress=False)
    assert_close_relative(scores, expected, 1e-5)
    assert torch.equal(x, kept)
    assert_unchanged(before, model)


@pytest.mark.parametrize("hooked", [0, 1, 2])
def test_hooks_on_gradients_are_noted(hooked):
    """As of tables of which some rows are frozen; scores are of the gradient itself."""
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), torch.randn(5, 4)
    plain = GradNormScorer(model, progress=False).score([x]).values
    for layer in (model[0], model[2])[:hooked]:
        layer.weight.register_hook(lambda g: 0 * g)
    scores = GradNormScorer(model, progress=False).score([x])
    notes = {f["kind"]: f["message"] for f in scores.provenance["findings"]}
    assert torch.equal(scores.values, plain)
    assert ("hooks on gradients" in notes) == (hooked > 0)
    if hooked:
        assert "`0.weight`" in notes["hooks on gradients"]
        assert ("and 1 more" in notes["hooks on gradients"]) == (hooked == 2)


def test_hooks_fire_in_its_own_calls_and_those_on_parameters_do_not():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    rows, gradients = [], []
    model[1].register_forward_hook(lambda module, args, out: rows.append(out))
    model[0].weight.register_hook(lambda g: gradients.append(g) or 0 * g)
    model[2].bias.register_post_accumulate_grad_hook(lambda p: gradients.append(p))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Meaning, "look", lambda *_: None)  # which calls copies of the model
        scores = score_pool(model, torch.randn(8, 4).split(4), verify="first", progress=False)
    own = [out for out in rows if type(out) is torch.Tensor and len(out) > 1]
    assert [len(out) for out in own] == [4, 2]  # the logits of a chunk, the gradients of two
    assert not gradients
    assert scores.isfinite().all()
    assert all(p.grad is None for p in model.parameters())


def test_the_callers_own_parameters_are_asked():
    """A copy with other values, such as a stale shadow, would be noticed."""
    from fastgradnorm import VerificationError
    from fastgradnorm._model.subject import Subject

    model = perturb(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    usable = Subject._usable

    def stale(subject, tensor):
        return usable(subject, tensor * 1.5 if tensor is model[0].weight else tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Subject, "_usable", stale)
        with pytest.raises(VerificationError, match="own call"):
            score_pool(model, [torch.randn(4, 4)], progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_two_threads(shared):
    models = [perturb(Keeping().train()) for _ in range(2)]
    models = [models[0]] * 2 if shared else models
    pools = [torch.randn(24, 4) for _ in range(2)]
    expected = [oracle.scores(m, oracle.ones(x)) for m, x in zip(models, pools, strict=True)]
    before, found = [snapshot(m) for m in models], [None, None]

    def job(i):
        scorer = GradNormScorer(models[i], verify="all", progress=False)
        found[i] = scorer.score(pools[i].split(4)).values

    threads = [threading.Thread(target=job, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i in range(2):
        assert_close_relative(found[i], expected[i], 1e-5)
        changed = {k for k, v in snapshot(models[i]).items() if before[i].get(k) != v}
        assert not {k for k in changed if "rng" not in k}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(6, 4), (5, 3), (), (1,), (2, 1, 4)], ids=str)
@pytest.mark.parametrize("place", [0, -1])
def test_parameters_written_where_pytorch_does_not_see_it_are_told(shape, dtype, place):
    """Any one number of any parameter, however it lies in memory."""
    for laid in (lambda t: t, lambda t: t.mT.contiguous().mT if t.dim() > 1 else t):
        model = nn.Linear(4, 3)
        model.gain = nn.Parameter(laid(torch.rand(shape).add(1).to(dtype)))
        numbers = model.gain.detach().numpy()

        def forward(model, x, numbers=numbers):
            index = np.unravel_index(place % numbers.size, numbers.shape)
            numbers[index] = np.nextafter(numbers[index], numbers.dtype.type(9))
            return model(x)

        own = OwnModel(Subject(model.eval(), Options(forward=forward)))
        batch = as_batch(torch.randn(3, 4), torch.device("cpu"), forward)
        with pytest.raises(
            UnsupportedModelError, match="which its own call on a batch has changed"
        ):
            own.logits(batch)


def test_a_model_elsewhere_is_called_as_a_copy():
    """Parameters made in inference mode have no gradients of their own."""
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(5, 4)
    plain = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    plain.load_state_dict({k: v.clone() for k, v in model.state_dict().items()})
    scored = GradNormScorer(model, progress=False).score([x])
    assert_close_relative(scored.values, oracle.scores(plain, oracle.ones(x)), 1e-5)
    assert scored.provenance["verified"]["samples"] == 2
