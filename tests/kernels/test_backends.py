"""Which backend computes an operation: asked for, or chosen."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import fastgradnorm_kernels as kernels
import pytest
import torch
from fastgradnorm_kernels import _backends, _dispatch

CPU = torch.device("cpu")


def test_auto_on_the_cpu_is_torch():
    assert kernels.resolve_backend("auto", CPU) == "torch"
    assert kernels.resolve_backend("torch", CPU) == "torch"


def test_what_surrounds_the_call_is_asked_where_the_call_leaves_it_open(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with kernels.computed_by("triton"):
        assert kernels.resolve_backend("auto", CPU) == "triton"
        assert kernels.resolve_backend("torch", CPU) == "torch"
        with kernels.computed_by("torch"):
            assert kernels.resolve_backend("auto", CPU) == "torch"
        with pytest.raises(KeyError), kernels.computed_by("auto"):
            assert kernels.resolve_backend("auto", CPU) == "torch"
            raise KeyError
        assert kernels.resolve_backend("auto", CPU) == "triton"
        with ThreadPoolExecutor(1) as threads:  # which asked for nothing
            found = threads.submit(kernels.resolve_backend, "auto", CPU).result()
            assert found == "torch"
    assert kernels.resolve_backend("auto", CPU) == "torch"


def test_triton_needs_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="must be given CUDA tensors"):
        kernels.resolve_backend("triton", CPU)
    with pytest.raises(RuntimeError, match="must be given CUDA tensors"):
        kernels.weight_sq_norm(torch.ones(1, 1, 1), torch.ones(1, 1, 1, 1), "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels.resolve_backend("triton", CPU) == "triton"


def test_triton_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(_backends, "_HAS_TRITON", False)
    with pytest.raises(RuntimeError, match="needs Triton"):
        kernels.resolve_backend("triton", CPU)
    assert kernels.resolve_backend("auto", torch.device("cuda")) == "torch"


def test_unknown_backend():
    with pytest.raises(ValueError, match="`backend` must be 'auto', 'torch' or 'triton'"):
        kernels.resolve_backend("jax", CPU)


@pytest.mark.parametrize(
    "dtype, expected",
    [
        (torch.float16, "triton"),
        (torch.bfloat16, "triton"),
        (torch.float32, "triton"),
        (torch.float64, "torch"),
    ],
)
def test_auto_on_cuda(dtype, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert kernels.resolve_backend("auto", torch.device("cuda"), dtype) == expected


def test_auto_on_an_old_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert kernels.resolve_backend("auto", torch.device("cuda")) == "torch"


@pytest.mark.slow
def test_torch_needs_no_triton():
    script = (
        "import sys\n"
        "sys.modules['triton'] = None\n"  # importing it raises
        "import torch, fastgradnorm_kernels as k\n"
        "k.weight_sq_norm(torch.ones(1, 3, 4), torch.ones(1, 1, 3, 4), 'torch')\n"
        "k.head_scores(torch.ones(1, 3), torch.ones(1), backend='auto')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ, timeout=120)


@pytest.mark.parametrize("exact", ["ieee", "tf32x3", "bf16x6"])
def test_norms_multiply_exactly_as_one_constant_says(exact, monkeypatch):
    device = torch.device("cuda", 0)
    monkeypatch.setattr(_backends, "_EXACT", exact)
    monkeypatch.setattr(_backends, "_interpreted", lambda: False)
    monkeypatch.setattr(_backends, "_capability", lambda device: (9, 0))
    assert _backends.norm_precision(torch.float32, device) == exact
    assert _backends.norm_precision(torch.bfloat16, device) == "ieee"
    assert _backends.norm_precision(torch.float32, torch.device("cpu")) == "ieee"
    # The head sums over all features at once: no parts there.
    assert _backends.input_precision(torch.float32) == "ieee"
    monkeypatch.setattr(_backends, "_capability", lambda device: (8, 6))
    assert _backends.norm_precision(torch.float32, device) == "ieee"
    monkeypatch.setattr(_backends, "input_precision", lambda dtype: "tf32")
    assert _backends.norm_precision(torch.float32, device) == "tf32"


def test_gpus_of_amd_are_not_taken_for_those_whose_numbers_they_have(monkeypatch):
    device = torch.device("cuda", 77)  # of which nothing is remembered
    monkeypatch.setattr(_backends, "_interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 4))
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert _backends.norm_precision(torch.float32, device) == "ieee"
    monkeypatch.setattr(torch.version, "hip", None)
    _backends._capability.cache_clear()
    assert _backends.norm_precision(torch.float32, device) == "bf16x6"
    _backends._capability.cache_clear()


@pytest.mark.parametrize("kernel", ["ghost_norm", "direct_norm", "conv_norm"])
def test_every_norm_asks_it(kernel, monkeypatch):
    from fastgradnorm_kernels import conv_norm, direct_norm, ghost_norm

    module = {"ghost_norm": ghost_norm, "direct_norm": direct_norm, "conv_norm": conv_norm}[kernel]
    asked = []
    for name in [name for name in vars(module) if name.endswith("_sq_norm")]:
        original = getattr(module, name)

        def spy(*args, original=original, **named):
            asked.append(named["input_precision"])
            return original(*args, **named)

        monkeypatch.setattr(module, name, spy)
    monkeypatch.setattr(_dispatch, "norm_precision", lambda dtype, device: "tf32x3")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, g = torch.ones(1, 4, 6, device=device), torch.ones(1, 2, 4, 5, device=device)
    if kernel == "conv_norm":
        x, g = torch.ones(1, 3, 4, 4, device=device), torch.ones(1, 2, 5, 4, 4, device=device)
        kernels.conv_sq_norm(x, g, (1, 1), (1, 1), (0, 0), (1, 1), 1, "triton")
    else:
        getattr(kernels, kernel.replace("_", "_sq_"))(a, g, "triton")
        kernels.weight_sq_norm(a, g, "triton")
    assert asked
    assert {*asked} == {"tf32x3"}
