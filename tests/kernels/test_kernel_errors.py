"""A kernel that cannot be launched is told as what it is, and never becomes the slow loop."""

import pickle
import warnings

import fastgradnorm_kernels as kernels
import pytest
import torch
from fastgradnorm_kernels import KernelError, functorch, ghost_norm
from torch import nn
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from fastgradnorm import SlowPathWarning, score_pool
from tests.support.cases import MLP
from tests.support.kernel_support import DEVICE, randn

LAUNCHER = type(ghost_norm._ghost_sq_norm_kernel)
REASONS = {
    "shared memory": OutOfResources(300_000, 232_448, "shared memory"),
    "ptxas": PTXASError("ptxas died"),
    "compilation": CompilationError("x = 1", None, "at 1:0"),
    "launch": RuntimeError("Triton Error [CUDA]: misaligned address"),
    "driver": SystemError("the launcher returned NULL"),
    "assertion": AssertionError("not a supported layout"),
}


@pytest.fixture
def failing(monkeypatch):
    def fail(reason):
        def run(self, *args, **kwargs):
            raise reason

        monkeypatch.setattr(LAUNCHER, "run", run)

    return fail


def operations():
    a, g = randn(2, 5, 6), randn(2, 3, 5, 4)
    image, grad = randn(2, 3, 6, 6), randn(2, 3, 4, 4, 4)
    ids = torch.zeros(2, 5, dtype=torch.int64, device=DEVICE)
    options = (3, 3), (1, 1), (0, 0), (1, 1), 1
    return {
        "weight_sq_norm": lambda: kernels.weight_sq_norm(a, g, "triton"),
        "ghost_sq_norm": lambda: kernels.ghost_sq_norm(a, g, "triton"),
        "direct_sq_norm": lambda: kernels.direct_sq_norm(a, g, "triton"),
        "conv_sq_norm": lambda: kernels.conv_sq_norm(image, grad, *options, "triton"),
        "affine_sq_norm": lambda: kernels.affine_sq_norm(a[..., :4], g, "triton"),
        "embedding_sq_norm": lambda: kernels.embedding_sq_norm(ids, g, None, "triton"),
        "head_scores": lambda: kernels.head_scores(a[0], a[0, :, 0].exp(), backend="triton"),
        "linear_head_scores": lambda: kernels.linear_head_scores(a[0], a[1], backend="triton"),
    }


@pytest.mark.parametrize("reason", REASONS.values(), ids=REASONS)
@pytest.mark.parametrize("operation", operations())
def test_it_names_operation_shapes_and_reason(operation, reason, failing):
    run = operations()[operation]
    run()
    failing(reason)
    with pytest.raises(KernelError, match=r"(?s)float32 \[.*\] on c.*backend='torch'") as caught:
        run()
    assert caught.value.operation == operation
    assert f"`{operation}`" in str(caught.value)
    assert type(reason).__name__ in str(caught.value)
    assert caught.value.__cause__ is reason
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.operation) == (
        KernelError,
        str(caught.value),
        operation,
    )


@pytest.mark.parametrize("operation", operations())
def test_wrong_arguments_and_no_memory_stay_what_they_are(operation, failing):
    for error in (ValueError("v"), TypeError("t"), torch.OutOfMemoryError("o"), MemoryError("m")):
        failing(error)
        with pytest.raises(type(error)) as caught:
            operations()[operation]()
        assert caught.value is error


def texts():
    return nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 3))


def positions():
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3))


MODELS = {
    "linear": (positions, lambda: torch.randn(3, 5, 6), {}),
    "last layer": (MLP, lambda: torch.randn(3, 10), {"params": "last_layer"}),
    "rtol": (positions, lambda: torch.randn(3, 5, 6), {"rtol": 0.1}),
    "embedding": (texts, lambda: torch.randint(9, (3, 3)), {}),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3)),
        lambda: torch.randn(3, 3, 6, 6),
        {},
    ),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("reason", ["shared memory", "launch"])
@pytest.mark.parametrize("name", MODELS)
def test_scoring_raises_it(name, reason, verify, failing):
    make, inputs, options = MODELS[name]
    model, x = make().to(DEVICE), inputs()
    failing(REASONS[reason])
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        with pytest.raises(KernelError) as caught:
            score_pool(model, [x], backend="triton", verify=verify, progress=False, **options)
    assert caught.value.__cause__ is REASONS[reason]


@pytest.mark.slow
def test_memory_that_runs_out_at_a_launch_halves_the_chunk(monkeypatch):
    """Triton's driver says so by an ordinary `RuntimeError`."""
    launch, sizes = LAUNCHER.run, []

    def run(self, *args, **kwargs):
        sizes.append(len(args[0]))
        if sizes[-1] > 2:
            raise RuntimeError("Triton Error [CUDA]: out of memory")
        return launch(self, *args, **kwargs)

    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(12, 3)).to(DEVICE)
    x = torch.randn(4, 2, 6)
    expected = score_pool(model, [x], backend="torch", progress=False)
    monkeypatch.setattr(LAUNCHER, "run", run)
    with pytest.warns(SlowPathWarning, match="2 samples"):
        actual = score_pool(model, [x], backend="triton", verify=False, progress=False)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0)
    assert max(sizes) == 4


def test_an_error_of_the_device_is_no_reason_for_the_loop():
    class Broken(MLP):
        def forward(self, x):
            if functorch.current_level() is not None:
                raise torch.AcceleratorError("CUDA error: an illegal memory access", 700)
            return super().forward(x)

    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        with pytest.raises(torch.AcceleratorError):
            score_pool(Broken(), [torch.randn(3, 10)], progress=False)
