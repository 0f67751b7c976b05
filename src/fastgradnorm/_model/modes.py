"""Which modules a model's own `eval()` leaves in training mode: by what it does, on a copy.

Some override `train` or `eval`, so that dropout goes on or a frozen norm stays as it is. What the
caller's model would do then is what is scored, or refused where it draws random numbers.
"""

from collections.abc import Callable, Mapping
from types import FunctionType

import torch
from torch import Tensor, nn

_WAYS = ("train", "eval")


def staying_in_training(
    model: nn.Module, cast: Callable[[Mapping[int, Tensor]], dict[int, nn.Module]]
) -> frozenset[int]:
    """Modules of the model, by `id`, that are in training mode after its `eval()`.

    Args:
        model: The caller's; its modes are as they were afterwards.
        cast: Makes a copy of its tree with other tensors: the copies by `id` of the modules.
    """
    modules = list(model.modules())
    if not any(map(_overrides, modules)):
        return frozenset()
    modes = [module.training for module in modules]
    try:
        copies = cast(_without_memory(model))
        for module, mode in zip(modules, modes, strict=True):
            copies[id(module)].training = mode
        copies[id(model)].eval()
        return frozenset(key for key, copy in copies.items() if copy.training)
    except Exception:  # of the caller's, on tensors without values: as if it did nothing of its own
        return frozenset()
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _overrides(module: nn.Module) -> bool:
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        return False
    # A plain function among the attributes would change the model itself.
    own = [module.__dict__.get(way) for way in _WAYS]
    if any(isinstance(way, FunctionType) for way in own):
        return False
    return any(own) or kind.train is not nn.Module.train or kind.eval is not nn.Module.eval


def _without_memory(model: nn.Module) -> dict[int, Tensor]:
    tensors: dict[int, Tensor] = {}
    for parameter in model.parameters():
        bare = torch.empty_like(parameter, device="meta")
        tensors[id(parameter)] = nn.Parameter(bare, parameter.requires_grad)
    for buffer in model.buffers():
        tensors[id(buffer)] = torch.empty_like(buffer, device="meta")
    return tensors
