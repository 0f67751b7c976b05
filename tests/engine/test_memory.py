"""`max_memory`, and what happens when memory runs out."""

import gc
import itertools
import weakref

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, SlowPathWarning, score_pool
from fastgradnorm._engine.engine import Engine
from fastgradnorm._model.batches import as_batch
from fastgradnorm._model.subject import Subject
from fastgradnorm._options import Options
from fastgradnorm._process.memory import (
    allowed_bytes,
    free_bytes,
    is_out_of_memory,
)
from fastgradnorm._process.states import autograd_ready
from fastgradnorm._witness.own_call import OwnModel
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import CASES

CPU_MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 137438953472 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = {
    "cpu": lambda: RuntimeError(CPU_MESSAGE),
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
}


class Limited(torch.autograd.Function):
    """Identity; runs out of memory above so many samples forward, or elements backward."""

    error = staticmethod(ERRORS["cpu"])
    samples = 10**9
    elements = 10**9
    seen: list[int] = []  # noqa: RUF012 - one list for all is what is wanted
    generate_vmap_rule = False

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, x):
        return Limited.judge(x, info.batch_size), in_dims[0]

    @staticmethod
    def judge(x, samples):
        Limited.seen.append(samples)
        if samples > Limited.samples:
            raise Limited.error()
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return LimitedBack.apply(g)


class LimitedBack(torch.autograd.Function):
    generate_vmap_rule = False

    @staticmethod
    def forward(g):
        return g.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, g):
        if g.numel() > Limited.elements:
            raise Limited.error()
        return LimitedBack.apply(g), in_dims[0]


class Tight(nn.Module):
    """Two linear layers with a limit between them; 5 classes, 16 features."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(6, 16), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(Limited.apply(torch.tanh(self.first(x))))


@pytest.fixture
def limits(monkeypatch):
    def set_limits(error="cpu", **values):
        monkeypatch.setattr(Limited, "error", staticmethod(ERRORS[error]))
        monkeypatch.setattr(Limited, "seen", [])
        for name, value in values.items():
            monkeypatch.setattr(Limited, name, value)

    return set_limits


@pytest.fixture
def tight():
    torch.manual_seed(0)
    return Tight().eval(), torch.randn(13, 6)


def referee(model, inputs):
    plain = nn.Sequential(model.first, nn.Tanh(), model.head)
    return oracle.scores(plain, oracle.ones(inputs))


class TestRunningOut:
    @pytest.mark.parametrize("error", ERRORS)
    def test_halves_the_samples_and_loses_nothing(self, tight, limits, error):
        model, inputs = tight
        limits(error, samples=3)
        with pytest.warns(SlowPathWarning, match=r"Nothing is lost.* 2 samples and 5 cotangents"):
            actual = score_pool(model, [inputs], verify=False, progress=False)
        assert_close_relative(actual, referee(model, inputs), 1e-5)
        assert Limited.seen == [13, 5, 2, 2, 2, 2, 2, 2, 1]

    def test_keeps_the_smaller_size_and_warns_once(self, tight, limits):
        model, inputs = tight
        limits(samples=3)
        with pytest.warns(SlowPathWarning) as warned:
            actual = score_pool(model, inputs.split(8), latency=0, verify=False, progress=False)
        assert len(warned) == 1
        assert_close_relative(actual, referee(model, inputs), 1e-5)
        assert Limited.seen == [8, 4, 2, 2, 2, 2, 2, 2, 1]

    def test_halves_the_cotangents_of_a_single_sample(self, tight, limits):
        model, inputs = tight
        limits(elements=2 * 16)  # the gradients of two cotangents
        with pytest.warns(SlowPathWarning, match=r"1 samples and 2 cotangents"):
            actual = score_pool(model, [inputs[:3]], verify=False, progress=False)
        assert_close_relative(actual, referee(model, inputs[:3]), 1e-5)

    @pytest.mark.parametrize("error", ERRORS)
    def test_of_one_sample_and_cotangent_is_an_error_with_the_bytes(self, tight, limits, error):
        model, inputs = tight
        limits(error, elements=0)
        with pytest.raises(MemoryError, match=r"One sample needs about .* bytes.*What ran out: "):
            score_pool(model, [inputs], verify=False, progress=False)

    def test_does_not_go_to_the_slow_loop(self, tight, limits):
        model, inputs = tight
        limits(samples=3)
        scorer = GradNormScorer(model, verify=False, progress=False)
        with pytest.warns(SlowPathWarning) as warned:
            scorer.score([inputs])
        assert "plain autograd" not in str(warned[0].message)

    @pytest.mark.parametrize("method", ["logits", "gradients"])
    def test_of_verification_is_told(self, tight, monkeypatch, method):
        def full(*_):
            raise ERRORS["cpu"]()

        model, inputs = tight
        monkeypatch.setattr(OwnModel, method, full)
        with pytest.warns(SlowPathWarning, match="could not be verified"):
            actual = score_pool(model, [inputs[:3]], progress=False)
        assert_close_relative(actual, referee(model, inputs[:3]), 1e-5)

    def test_lets_go_of_the_failed_attempt_before_the_next(self, tight, limits, monkeypatch):
        """The tensors of a chunk that failed would fill the memory its halves need."""
        model, inputs = tight
        alive, counts = [], []

        def judge(x, samples):
            counts.append(sum(ref() is not None for ref in alive))
            alive.append(weakref.ref(x))
            if samples > 3:
                raise ERRORS["cpu"]()
            return x.clone()

        monkeypatch.setattr(Limited, "judge", staticmethod(judge))
        with pytest.warns(SlowPathWarning):
            score_pool(model, [inputs], verify=False, progress=False)
        assert len(counts) == 9
        assert not any(counts)

    def test_is_told_from_other_errors(self):
        assert is_out_of_memory(MemoryError())
        assert is_out_of_memory(ERRORS["cpu"]())
        assert is_out_of_memory(ERRORS["cuda"]())
        assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
        assert not is_out_of_memory(RuntimeError("vmap: aten::item is not supported"))
        assert not is_out_of_memory(ValueError("out of memory"))


class TestMaxMemory:
    def test_less_than_one_sample_needs(self):
        model, inputs = CASES["groupnorm-cnn"].random()
        with pytest.raises(ValueError, match=r"`max_memory` must be at least .* bytes\).*Got 1000"):
            score_pool(model, [inputs], max_memory=1000, progress=False)

    @pytest.mark.slow
    def test_what_the_error_asks_for_is_enough(self):
        model, inputs = CASES["groupnorm-cnn"].random()
        with pytest.raises(ValueError, match="`max_memory`") as error:
            score_pool(model, [inputs[:6]], max_memory=1000, progress=False)
        needed = int(str(error.value).partition("(")[2].partition(" bytes")[0])
        actual = score_pool(model, [inputs[:6]], max_memory=needed, progress=False)
        expected = score_pool(model, [inputs[:6]], progress=False)
        assert_close_relative(actual, expected, 1e-6)
        with pytest.raises(ValueError, match="`max_memory`"):
            score_pool(model, [inputs[:6]], max_memory=needed - 1, progress=False)

    @pytest.mark.slow
    @pytest.mark.parametrize("params", ["all", "last_layer"])
    def test_bounds_the_chunks(self, tight, limits, params):
        model, inputs = tight
        limits()
        full = _planned(model, inputs, params=params)
        for most in (1, 2, 5):
            limits()
            score_pool(
                model,
                [inputs],
                params=params,
                max_memory=full(most) + most * inputs[0].nbytes,  # those that wait
                verify=False,
                progress=False,
            )
            assert max(Limited.seen) == most

    @pytest.mark.parametrize(
        "value, wanted", [(0, "integer >= 1"), (-1, ">= 1"), (0.0, r"\(0, 1\]"), (1.5, r"\(0, 1\]")]
    )
    def test_of_no_meaning_is_refused(self, value, wanted):
        for name in ("max_memory", "subset"):
            with pytest.raises(ValueError, match=f"`{name}` must be .*{wanted}"):
                GradNormScorer(nn.Linear(2, 2), **{name: value})
            with pytest.raises(TypeError, match=f"`{name}`"):
                GradNormScorer(nn.Linear(2, 2), **{name: "1GB"})

    def test_fraction_is_of_what_is_free(self):
        cpu = torch.device("cpu")
        assert allowed_bytes(12345, cpu) == 12345
        free = free_bytes(cpu)
        assert free > 1 << 20
        assert allowed_bytes(0.5, cpu) == pytest.approx(free / 2, rel=0.3)
        assert allowed_bytes(None, cpu) == pytest.approx(0.8 * free, rel=0.3)


# PyTorch 2.11 warns so, once, of a profiler that has one cycle, too.
@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")
class TestPeak:
    """Tensors that scoring holds beside model and inputs, as PyTorch's allocator counts them."""

    @staticmethod
    def peak(run):
        before = gc.get_threshold()
        gc.set_threshold(700, 10, 10)  # circles of objects are collected as often as elsewhere
        with torch.profiler.profile(profile_memory=True) as profile:
            run()
        gc.set_threshold(*before)
        events = profile.profiler.kineto_results.events()
        changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
        return max(itertools.accumulate(change for _, change in changes))

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["groupnorm-cnn", "transformer"])
    def test_is_below_max_memory_and_grows_with_it(self, name):
        model, inputs = CASES[name].random()
        inputs = inputs.repeat(4, *(1 for _ in inputs.shape[1:]))[:48]
        full = _planned(model, inputs, classes=classes_of(model, inputs))
        peaks = []
        for samples in (1, 4, 16):
            allowed = full(samples)
            scorer = GradNormScorer(model, max_memory=allowed, verify=False, progress=False)
            peaks.append(self.peak(lambda scorer=scorer: scorer.score_batch(inputs)))
            assert peaks[-1] <= allowed + inputs.nbytes
        assert peaks[0] < peaks[1] < peaks[2]
        assert peaks[2] > full(16) / 8  # what is allowed is made use of


def classes_of(model, inputs):
    with torch.no_grad():
        return model(inputs[:1]).shape[-1]


def _planned(model, inputs, classes=5, **options):
    """The estimate for a number of samples and all cotangents."""
    options = Options(**options)
    with autograd_ready():
        engine = Engine(Subject(model, options), options)
        plan = engine.plan(as_batch(inputs, torch.device("cpu")))
    closed = options.params == "last_layer"
    return lambda n: plan.bytes(n, 0, 0) if closed else plan.bytes(n, classes, classes)
