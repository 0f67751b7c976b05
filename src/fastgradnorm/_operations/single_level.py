"""Autograd functions that live within one `vjp`, and look through the `vmap` around it.

PyTorch takes a custom function through every transform that is active, in Python. These are applied
at the innermost alone, for a fraction of the time; what they compute they compute on plain tensors.
"""

from fastgradnorm_kernels import functorch
from fastgradnorm_kernels.functorch import SingleLevel, current_level, unwrap, wrap
from fastgradnorm_kernels.levels import bare
from torch import Tensor

__all__ = ["SingleLevel", "current_level", "is_differentiated", "is_frozen", "unwrap", "wrap"]

# Samples, and the derivative: transforms nested deeper are the model's.
_OWN_LEVELS = 2


def is_differentiated(*tensors: Tensor | None) -> bool | None:
    """Whether a derivative is taken of the tensors, right here and nowhere else.

    None where light functions do not apply: outside of transforms, or inside of the model's own,
    which may take a derivative of what is pulled back here.
    """
    level = current_level()
    if level is None or level > _OWN_LEVELS:
        return None
    found = False
    for tensor in tensors:
        if tensor is None:
            continue
        tensor = functorch.alive(tensor)
        if functorch.is_differentiable(tensor) and functorch.level_of(tensor) == level:
            found, tensor = True, unwrap(tensor)
        if bare(tensor) is None:
            return None
    return found


def is_frozen(*tensors: Tensor | None) -> bool:
    """Whether tensors are the same for all samples and have no gradient."""
    if not functorch.works():
        return False  # nobody can tell
    return not any(t.requires_grad or functorch.is_wrapped(t) for t in tensors if t is not None)
