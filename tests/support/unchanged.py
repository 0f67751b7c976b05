"""Everything of a model and of the process that a caller could see change."""

import random

import numpy as np
import torch

from tests.support.process_state import process_state


def snapshot(model):
    """Everything that a caller could see change, by value and by identity."""
    state = {
        "rng": torch.get_rng_state().tolist(),
        "numpy rng": str(np.random.get_state()),
        "python rng": random.getstate(),
        **process_state(),
    }
    for kind, tensors in (("p", model.named_parameters()), ("b", model.named_buffers())):
        for name, t in tensors:
            grad = None if t.grad is None else (id(t.grad), t.grad.tolist())
            state[f"{kind} {name}"] = (
                id(t), t.tolist(), t.requires_grad, grad, t._version, type(t), t.data_ptr()
            )  # fmt: skip
            state[f"{kind} {name} hooks"] = len(t._backward_hooks or {})
    for name, module in model.named_modules():
        state[f"m {name}"] = (
            module.training,
            type(module),
            {key: id(value) for key, value in vars(module).items() if key != "training"},
            {key: len(value) for key, value in vars(module).items() if key.endswith("_hooks")},
            {key: id(value) for key, value in module._parameters.items()},
            {key: id(value) for key, value in module._buffers.items()},
        )
    return state


def assert_unchanged(before, model):
    after = snapshot(model)
    changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    assert not changed, f"changed: {sorted(changed)}"
