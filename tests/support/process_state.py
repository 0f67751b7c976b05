"""Everything of the process that code under test may change, and a user would notice."""

import gc

import torch
from fastgradnorm_kernels import functorch
from torch.nn.utils import parametrize
from torch.utils import checkpoint


def process_state():
    """What must be the same after any call as before it, by name; random numbers apart."""
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "deterministic warning": torch.is_deterministic_algorithms_warn_only_enabled(),
        "autocast": (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
        ),
        "matmul precision": _precision(torch.get_float32_matmul_precision),
        "cuda matmul": torch.backends.cuda.matmul.fp32_precision,
        "cudnn": (
            torch.backends.cudnn.enabled,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.conv.fp32_precision,
            torch.backends.cudnn.rnn.fp32_precision,
        ),
        "mkldnn": torch.backends.mkldnn.enabled,
        "attention fast path": torch.backends.mha.get_fastpath_enabled(),
        "torch.utils.checkpoint": {
            name: id(value) for name, value in vars(checkpoint).items() if callable(value)
        },
        "code of checkpoint": id(checkpoint.checkpoint.__code__),
        "parametrize": dict.fromkeys(["cached"], parametrize._cache_enabled),
        "garbage collection": gc.isenabled(),
        "torch function modes": torch._C._len_torch_function_stack(),
        "torch dispatch modes": torch._C._len_torch_dispatch_stack(),
        "functorch level": functorch.current_level(),
    }


def changed(before):
    """What is not as `process_state` was before, as (before, after) by name."""
    after = process_state()
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def _precision(read):
    try:
        return read()
    except RuntimeError:  # the two interfaces contradict each other, as a test has set them
        return "contradiction"
