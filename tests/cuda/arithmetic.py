"""What an operation of the device that is not there gives, of tensors of the CPU."""

import contextlib

import torch
from fused import FUSED
from torch._prims_common import suggest_memory_format
from torch.utils._pytree import tree_map

_PRODUCTS = frozenset({"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::mv"})
_CONVOLUTIONS = frozenset({"aten::convolution", "aten::convolution_backward"})


_computed = True
_TOUCHED = 1 << 20  # bytes of a tensor above which its memory is left as it came


@contextlib.contextmanager
def shapes_alone():
    """Inside, operations give tensors of the right shapes that hold nothing, of models of any size.

    Large ones take no memory: nothing touches it.
    """
    global _computed
    _computed = False
    try:
        yield
    finally:
        _computed = True


def values(func, *args, **kwargs):
    """As a GPU would have it: fused attention by its formula, products in TF32 where allowed."""
    name = func._schema.name
    if not _computed:
        return _nothing(func, args, kwargs)
    if name in FUSED:
        return FUSED[name](*args, **kwargs)
    return func(*_rounded(name, args), **kwargs)


def _nothing(func, args, kwargs):
    written = [a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments]
    if any(written):
        return args[written.index(True)]
    made = func._schema.returns
    views = any(each.alias_info is not None for each in made) or "empty" in func._schema.name
    if views or not any("Tensor" in str(each.type) for each in made):
        return func(*args, **kwargs)
    meta = tree_map(lambda v: v.to("meta") if isinstance(v, torch.Tensor) else v, (args, kwargs))
    if "device" in kwargs:
        meta[1]["device"] = "meta"
    made = FUSED.get(func._schema.name, func)(*meta[0], **meta[1])
    if func._schema.name in _CONVOLUTIONS:
        made = tree_map(lambda tensor: _as_cudnn_has_it(tensor, *args), made)
    return tree_map(_untouched, made)


def _as_cudnn_has_it(made, *given):
    """What a convolution gives, with the channels last where its input or its weight has them."""
    tensors = [t for t in given if isinstance(t, torch.Tensor) and t.dim() == 4][-2:]
    last = torch.channels_last in map(suggest_memory_format, tensors)
    if made is None or made.dim() != 4 or not last or made.dtype == torch.float64:
        return made
    return made.contiguous(memory_format=torch.channels_last)


def _untouched(value):
    if not isinstance(value, torch.Tensor):
        return value
    made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    return made if made.untyped_storage().nbytes() > _TOUCHED else made.zero_()


def _rounded(name, args):
    """float32 as TF32 has it, where the switches of PyTorch let the operation round."""
    backends = torch.backends
    rounds = (name in _PRODUCTS and backends.cuda.matmul.fp32_precision == "tf32") or (
        name in _CONVOLUTIONS and backends.cudnn.conv.fp32_precision == "tf32"
    )
    return tree_map(_tf32, args) if rounds else args


def _tf32(value):
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return value
    bits = value.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@contextlib.contextmanager
def widened(args):
    """What the interpreter is given: it multiplies bfloat16 wrongly, and float32 as it should."""
    narrow, given = [], []
    for tensor in args:
        if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.bfloat16:
            narrow.append(tensor)
            wide = torch.empty_strided(tensor.shape, tensor.stride(), dtype=torch.float32)
            tensor = wide.copy_(tensor)
            narrow.append(tensor)
        given.append(tensor)
    yield given
    for tensor, wide in zip(narrow[::2], narrow[1::2], strict=True):
        tensor.copy_(wide)
