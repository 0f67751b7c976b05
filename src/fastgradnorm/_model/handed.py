"""What a call makes of a parameter, told by making it on plain tensors.

Under transforms PyTorch wraps anew what it would else hand back as it is, so that a cast to the
dtype that a parameter has gives a tensor which is not known to be that parameter. And a module
beside the model, as a teacher that a loss casts or moves, would be left with wrappers of a
transform that ends.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from fastgradnorm_kernels.functorch import in_memory
from fastgradnorm_kernels.levels import outside
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastgradnorm._operations import tensors_in

# fmt: off
_CASTS = frozenset({
    "__pos__", "as_tensor", "asarray", "atleast_1d", "atleast_2d", "atleast_3d", "bfloat16",
    "conj", "contiguous", "cpu", "cuda", "double", "flatten", "float", "half", "positive", "real",
    "resolve_conj", "resolve_neg", "to", "to_dense", "type", "type_as", "xpu",
})
# fmt: on


def handed(
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    of_model: Callable[[Tensor], bool],
    tracked: bool,
) -> Any:
    """What a cast or move gives, where it must be told by the tensors as they lie; else None.

    Args:
        func: What is called.
        args: Its arguments.
        kwargs: Likewise.
        of_model: Whether a tensor is one that the model was given.
        tracked: Whether a tracked parameter is among them.
    """
    if not _casts(func):
        return None
    tensors = tensors_in(args, kwargs)
    if tracked:
        return _same_object(func, args, kwargs, tensors)
    return _cast_beside(func, args, kwargs, tensors, of_model)


def _same_object(
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    tensors: Sequence[Tensor],
) -> Tensor | None:
    """The argument that is handed back as it is; None if none is."""
    given = {id(t): t for t in tensors}
    plain = {key: in_memory(t) for key, t in given.items()}
    output = _made(func, args, kwargs, plain)
    found = [given[key] for key, inside in plain.items() if output is inside]
    return found[0] if found else None


def _cast_beside(
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    tensors: Sequence[Tensor],
    of_model: Callable[[Tensor], bool],
) -> Any:
    """Of tensors that no transform has wrapped, one that none has, too.

    None of what is the model's own, and where a gradient goes back.
    """
    followed = torch.is_grad_enabled()
    if not tensors or any(in_memory(t) is not t or (followed and t.requires_grad) for t in tensors):
        return None
    if any(of_model(t) for t in tensors):
        return None
    with outside():
        return func(*args, **kwargs)


def _casts(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        name = getattr(getattr(func, "__self__", None), "__name__", "")
    return name in _CASTS


def constant(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], output: Any
) -> tuple[Any] | None:
    """What a call has made if nothing in it has a gradient by the arguments, else None.

    Tensors that were handed back as they are do not count, and are those that were given. A call
    whose arguments are not the same for all samples cannot be tried: its `output` it is.
    """
    given = {id(t): t for t in tensors_in(args, kwargs)}
    if not tensors_in([output], {}) or any(in_memory(t) is not t for t in given.values()):
        return (output,)
    with outside(), torch.enable_grad():
        # Not by `requires_grad_`, which a transform refuses whatever it is called on.
        probes: dict[int, Tensor] = {
            key: nn.Parameter(t.detach(), t.is_floating_point() or t.is_complex())
            for key, t in given.items()
        }
        made = _made(func, args, kwargs, probes)
    back = {id(probe): given[key] for key, probe in probes.items()}
    if any(t.requires_grad and id(t) not in back for t in tensors_in([made], {})):
        return None
    pairs = zip(pytree.tree_leaves(made), pytree.tree_leaves(output), strict=True)
    leaves = [back.get(id(m), o) for m, o in pairs]
    return (pytree.tree_unflatten(leaves, pytree.tree_structure(output)),)


def _made(
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    instead: Mapping[int, Tensor],
) -> Any:
    given = pytree.tree_map_only(Tensor, lambda t: instead[id(t)], (tuple(args), dict(kwargs)))
    with outside():
        return func(*given[0], **given[1])
