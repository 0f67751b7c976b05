"""Copies of a model's buffers for each run, so that none sees what another one wrote.

What a model does to its buffers cannot be seen for sure: `.data`, observers of quantisation-aware
training and NumPy's views write without a word to PyTorch's version counters. So the caller's own
are never handed out, and what is handed out is held against them.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from fastgradnorm_kernels import operators
from fastgradnorm_kernels.functorch import outside, works
from fastgradnorm_kernels.switches import is_untouched
from torch import Tensor, nn

from fastgradnorm._errors import ArgumentError
from fastgradnorm._model.marks import marked
from fastgradnorm._model.numbers_of import parts, same

# Larger ones are copied once, and again where the model has changed the copy: to compare costs no
# memory.
_LARGE = 1 << 20  # bytes
_COUNTED = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)


def check_plain(model: nn.Module, tensors: Mapping[int, Tensor]) -> Mapping[int, Tensor]:
    """The tensors that a model holds, if they can be copied and compared.

    Raises:
        ArgumentError: If one is nested.
    """
    for key, tensor in tensors.items():
        if tensor.is_nested:
            names = (name for name, each in _places(model) if id(each) == key)
            name = next(names, "one in a container")
            raise ArgumentError(
                f"`model` must hold no nested tensors. Got {name}, whose rows have "
                "lengths of their own. Keep its values and offsets as two tensors, or a list of "
                "its rows, and make the nested tensor of these in `forward`.",
                "model",
            )
    return tensors


def without_values(model: nn.Module) -> str | None:
    """The first tensor of a model that is on the meta device, in words; None if none is."""
    return next((name for name, tensor in _places(model) if tensor.is_meta), None)


def _places(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers, and tensors in attributes and lists of them, by name."""
    yield from ((f"the buffer `{name}`", buffer) for name, buffer in model.named_buffers())
    for path, module in model.named_modules():
        for name, value in module.__dict__.items():
            for each in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(each, Tensor):
                    yield f"the attribute `{f'{path}.{name}'.removeprefix('.')}`", each


class Buffers:
    """Tensors of a model that are no parameters.

    Args:
        originals: The caller's own, by `id`.
        usable: From one of them to a tensor without a graph, on the device.

    Attributes:
        written: Small ones that the first run has written to, by `id` of the caller's.
    """

    def __init__(self, originals: Mapping[int, Tensor], usable: Callable[[Tensor], Tensor]) -> None:
        self._originals = dict(originals)
        self._usable = {key: usable(tensor) for key, tensor in originals.items()}
        self._large: dict[int, Tensor] = {}
        self._changing: set[int] = set()
        self._handed: dict[int, Tensor] = {}
        self.written: set[int] = set()
        self._kept: dict[int, Tensor] | None = None
        self._first = True

    def copies(self) -> dict[int, Tensor]:
        """For one run, by `id` of the caller's."""
        if self._first and self._kept is None:
            small = {k: t for k, t in self._usable.items() if not _is_large(t)}
            self._kept = {key: tensor.clone() for key, tensor in small.items()}
        made = {} if self._first else self._together()
        return {
            key: marked(made[key] if key in made else self._copy(key, tensor), self._originals[key])
            for key, tensor in self._usable.items()
        }

    def follow(self) -> bool:
        """Whether runs to come see what was written to the caller's own since, however that was."""
        kept = self._large.items()
        return all(same(known, self._usable[key]) for key, known in kept) and all(
            [part.data_ptr() for part in parts(usable)]
            == [part.data_ptr() for part in parts(self._originals[key])]
            for key, usable in self._usable.items()
        )

    def _together(self) -> dict[int, Tensor]:
        """Of a GPU's, copies by one launch for many: a batch norm has three."""
        groups: dict[torch.dtype, list[int]] = {}
        for key, tensor in self._usable.items():
            if tensor.is_cuda and tensor.layout == torch.strided and tensor.dtype in _COUNTED:
                groups.setdefault(tensor.dtype, []).append(key)
        made: dict[int, Tensor] = {}
        if groups and works() and operators.has_copied_together():
            with outside(), torch.no_grad():
                for keys in groups.values():
                    copies = operators.copied_together([self._usable[key] for key in keys])
                    made |= zip(keys, copies, strict=True)
        return made

    def _copy(self, key: int, usable: Tensor) -> Tensor:
        if self._first:
            # With the graph that an earlier call may have left, to see if it is used.
            made = self._handed[key] = self._originals[key].to(usable.device).clone()
            return made
        # On a GPU a copy costs less than to wait for a comparison. Transforms copy no sparse ones.
        small = usable.layout == torch.strided and not _is_large(usable)
        if key in self._changing or small or usable.is_cuda or not works():
            return usable.clone()
        with outside(), torch.no_grad():
            known = self._large.get(key)
            if known is None:
                known = self._large[key] = usable.clone()
            elif not is_untouched(known) or not same(known, usable):
                self._changing.add(key)
        return usable.clone() if key in self._changing else known

    def restore(self) -> list[int]:
        """After the first run: gives the caller's their values back; which ones had changed."""
        changed: list[int] = []
        for key, tensor in self._handed.items():
            plain = tensor.layout == torch.strided and not tensor.is_quantized
            if plain and not _is_large(tensor) and not is_untouched(tensor):
                self.written.add(key)
        self._handed.clear()
        if self._kept is not None:
            for key, kept in self._kept.items():
                if not same(self._usable[key], kept):
                    self._usable[key].copy_(kept)
                    changed.append(key)
        self._kept, self._first = None, False
        return changed


def _is_large(tensor: Tensor) -> bool:
    return sum(part.nbytes for part in parts(tensor)) >= _LARGE
