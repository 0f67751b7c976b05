"""Models that write to their buffers while they run, whether a version counter sees it or not."""

import copy
import warnings

import pytest
import torch
from torch import nn

from fastgradnorm import (
    GradNormScorer,
    UnsupportedModelError,
    gradient_sketch,
    naive_score_pool,
    score_pool,
)
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import perturb
from tests.support.unchanged import assert_unchanged, snapshot

LARGE = 600  # [600, 600] is larger than what is copied for each run


class Model(nn.Module):
    """Adds something to a buffer that the logits depend on."""

    def __init__(self, write, size=4):
        super().__init__()
        self.write = write
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.register_buffer("mean", torch.randn(size, size) if size > 4 else torch.randn(4))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.cache = {"last": torch.zeros(4)}
        self.history = [torch.zeros(4)]

    def forward(self, x):
        self.write(self, x.detach())
        state = self.mean.flatten()[:4] + 0.1 * self.count + self.cache["last"] + self.history[0]
        return self.head(torch.tanh(self.body(x) + state))


def assign(buffer, value):
    buffer.data = value


def lerp(m, x):
    m.mean.data.lerp_(x[0].expand_as(m.mean), 0.3)


def through_numpy(m, x):
    m.mean.numpy()[...] += 0.5


def through_storage(m, x):
    m.mean.untyped_storage().copy_((m.mean + 0.5).untyped_storage())


WRITES = {
    "data-copy": lambda m, x: m.mean.data.copy_(0.5 * m.mean + x.mean(0)),
    "data-add": lambda m, x: m.mean.data.add_(0.5),
    "data-average": lerp,
    "data-item": lambda m, x: m.mean.data.__setitem__(0, 2.0),
    "data-assigned": lambda m, x: assign(m.mean, 0.9 * m.mean + x.mean(0)),
    "set-attribute": lambda m, x: setattr(m, "mean", 0.9 * m.mean + x.mean(0)),
    "in-place": lambda m, x: m.mean.mul_(0.9),
    "in-place-sample": lambda m, x: m.mean.copy_(x[0].expand_as(m.mean)),
    "count": lambda m, x: m.count.add_(1),
    "count-data": lambda m, x: m.count.data.add_(1),
    "detached": lambda m, x: m.mean.detach().add_(0.5),
    "view": lambda m, x: m.mean.data.view(-1)[:2].mul_(3.0),
    "dict": lambda m, x: m.cache["last"].data.add_(0.5),
    "list": lambda m, x: m.history[0].data.add_(0.5),
    "out": lambda m, x: torch.add(m.mean, 0.5, out=m.mean.data),
    "numpy": through_numpy,
    "storage": through_storage,
}  # fmt: skip


def one_by_one(model, x):
    """The referee: a copy of the caller's model, as it is, for each sample."""
    return torch.cat([oracle.scores(copy.deepcopy(model), [row]) for row in x.split(1)])


def quietly(function, *args, **options):
    """What has no vmap rule is scored one by one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, progress=False, **options)


def hold(model):
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    return buffers | {"dict": model.cache["last"].clone(), "list": model.history[0].clone()}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
class TestWrites:
    @pytest.mark.slow
    def test_the_callers_stay_as_they_are_and_scores_do_not_depend_on_the_order(self, write):
        model, x, order = perturb(Model(write)), torch.randn(6, 4), torch.randperm(6)
        expected, held, before = one_by_one(model, x), hold(model), snapshot(model)
        for verify in (True, False):
            for batches, target in (
                ([x], expected), (x.split(1), expected), (x[order].split(4), expected[order]),
            ):  # fmt: skip
                scores = quietly(score_pool, model, batches, verify=verify)
                assert_close_relative(scores, target, 1e-5, f"verify={verify}")
        assert_close_relative(naive_score_pool(model, [x]), expected, 1e-5, "naive")
        assert_unchanged(before, model)
        assert all(torch.equal(value, held[name]) for name, value in hold(model).items())

    def test_the_last_layer_alone(self, write):
        model, x = perturb(Model(write)), torch.randn(6, 4)
        expected = torch.cat(
            [
                oracle.scores(copy.deepcopy(model), [row], keep=lambda n: n.startswith("head"))
                for row in x.split(1)
            ]
        )
        before = snapshot(model)
        scores = quietly(score_pool, model, x.split(2), params="last_layer")
        assert_close_relative(scores, expected, 1e-5)
        assert_unchanged(before, model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data-add", "data-copy", "numpy", "in-place", "count-data"])
def test_buffers_too_large_to_be_copied_each_time(name):
    write = WRITES[name]
    if name == "data-copy":
        write = lambda m, x: m.mean.data.copy_(0.5 * m.mean + x.mean())  # noqa: E731
    model, x = perturb(Model(write, LARGE)), torch.randn(6, 4)
    expected, held = one_by_one(model, x), hold(model)
    for batches in ([x], x.split(1), x.split(4)):
        assert_close_relative(quietly(score_pool, model, batches), expected, 1e-5)
    assert all(torch.equal(value, held[key]) for key, value in hold(model).items())


@pytest.mark.slow
@pytest.mark.parametrize("late", [2, 4])
def test_a_write_that_later_samples_make(late):
    """What the first run does not show."""

    def write(m, x):
        if (x[:, 0] > 0).all():
            m.mean.data.add_(0.5)

    for size in (4, LARGE):
        model, x = perturb(Model(write, size)), torch.randn(6, 4)
        x[:, 0] = -1.0
        x[late:, 0] = 1.0
        expected, held = one_by_one(model, x), hold(model)
        for batches in ([x], x.split(1), x.split(2), x.flip(0).split(2)):
            target = expected.flip(0) if torch.equal(batches[0][0], x[5]) else expected
            assert_close_relative(quietly(score_pool, model, batches), target, 1e-5)
        assert all(torch.equal(value, held[name]) for name, value in hold(model).items())


@pytest.mark.slow
@pytest.mark.parametrize("observer", [
    torch.ao.quantization.MovingAverageMinMaxObserver,
    torch.ao.quantization.MinMaxObserver,
    torch.ao.quantization.HistogramObserver,
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")
def test_observers(observer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.Linear(4, 4), observer(), nn.Tanh(), nn.Linear(4, 3)).eval()
    x = torch.randn(5, 4)
    model(x[:2])
    held = {name: b.clone() for name, b in model.named_buffers()}
    plain = nn.Sequential(model[0], model[2], model[3])
    scores = quietly(score_pool, model, [x])
    assert_close_relative(scores, oracle.scores(plain, oracle.ones(x)), 1e-5)
    assert all(torch.equal(b, held[name]) for name, b in model.named_buffers())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")
def test_fused_observers_of_quantisation_aware_training():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fake = torch.ao.quantization.FusedMovingAvgObsFakeQuantize(
            torch.ao.quantization.MovingAverageMinMaxObserver, quant_min=0, quant_max=255
        )
        model = nn.Sequential(nn.Linear(4, 4), fake, nn.Tanh(), nn.Linear(4, 3)).eval()
    x = torch.randn(6, 4)
    model(x[:3])
    held = {name: b.clone() for name, b in model.named_buffers()}
    fresh = [quietly(score_pool, copy.deepcopy(model), [row]) for row in x.split(1)]
    for batches in ([x], x.split(2), x.split(1)):
        assert_close_relative(quietly(score_pool, model, batches), torch.cat(fresh), 1e-5)
        assert all(torch.equal(b, held[name]) for name, b in model.named_buffers())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fastgradnorm.SlowPathWarning")
@pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")
def test_streams_explanations_and_sketches():
    model, x = perturb(Model(WRITES["data-average"])), torch.randn(6, 4)
    before = snapshot(model)
    scorer = GradNormScorer(model, progress=False)
    parts = [part for part in scorer.stream(x.split(2)) if assert_unchanged(before, model) is None]
    assert_close_relative(torch.cat(parts), one_by_one(model, x), 1e-5)
    scorer.explain(x, measure=True)
    model.write = WRITES["data-add"]
    before = snapshot(model)
    sketches = gradient_sketch(model, [x], dim=8, progress=False)
    assert torch.equal(sketches, gradient_sketch(model, [x], dim=8, progress=False))
    assert_unchanged(before, model)


def test_buffers_reached_past_the_module_tree():
    """By a closure: what stands in for a buffer does so wherever it is used."""
    model, x = perturb(Model(lambda m, x: None)), torch.randn(6, 4)
    model.body.register_forward_hook(lambda module, args, out: out + model.mean.data.add_(0.5))
    held = hold(model)
    quietly(score_pool, model, x.split(2))
    assert all(torch.equal(value, held[name]) for name, value in hold(model).items())


def test_buffers_changed_unseen_are_given_back_and_told_by_name():
    """By NumPy's view of the caller's own, made before."""
    model, x = perturb(Model(lambda m, x: None)), torch.randn(6, 4)
    view = model.mean.numpy()

    def hook(module, args, output):
        view[...] += 1.0

    model.body.register_forward_hook(hook)
    held = hold(model)
    with pytest.raises(UnsupportedModelError, match=r"Got `mean`, changed past the module tree"):
        score_pool(model, [x], progress=False)
    assert all(torch.equal(value, held[name]) for name, value in hold(model).items())
