"""Faults in what is kept from call to call: appearances of models, traced passes."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_SAMENESS, _CHANGES, _SINGLE = "_model/sameness.py", "_model/changes.py", "_pool/single.py"
_LIGHTER, _TRACES = "_engine/lighter.py", "_engine/traces.py"

FAULTS = [
    Fault(
        _SAMENESS, "stale memory",
        "(_values(name, part) if isinstance(part, Tensor) else name), part", "name, part",
        "a tensor in a model's list that is written to between two calls of score_batch goes unseen",
    ),
    Fault(
        _SAMENESS, "stale memory",
        "    yield torch.get_default_dtype(), None\n", "",
        "a model that makes tensors of another dtype since the last call of score_batch is not verified anew",
    ),
    Fault(
        _SAMENESS, "stale memory",
        "        yield from _of_class(kind)\n", "        pass\n",
        "a method or setting of a model's class that is another one since the last call goes unseen",
    ),
    Fault(
        _SINGLE, "stale memory",
        "last.options is options and ", "",
        "a scorer whose options are others since its last call is not verified anew",
    ),
    Fault(
        _SINGLE, "stale memory",
        "last, self._last = self._last, None", "last = self._last",
        "after a call that failed, score_batch goes on with what was verified before it",
    ),
    Fault(
        _CHANGES, "told too often",
        "        self._told = True\n", "",
        "a setting that was changed while a pool is scored is told at each batch",
    ),
    Fault(
        _CHANGES, "dropped guard",
        "        return None if forward_hooks(self.module) == self._hooks else f\"{self._path}'s hooks\"", "        return None",
        "hooks that are added while a pool is scored are ignored in silence",
    ),
    Fault(
        _LIGHTER, "swapped operands",
        '    if name != "aten.mul.Tensor":\n        return None\n', "",
        "in a traced pass one over a number is the number",
    ),
    Fault(
        _LIGHTER, "wrong quantifier",
        "all(shape[dim] == 1 for dim in dims)", "any(shape[dim] == 1 for dim in dims)",
        "a traced pass whose sums go over one number of one dimension and several of another fails, and is run as it is",
    ),
    Fault(
        _LIGHTER, "dropped guard",
        'if name not in _KEEP_SIGNS or any(other < 0 for other in others):', "if name not in _KEEP_SIGNS:",
        "in a traced pass the sign of a zero that was multiplied by a negative number is another",
    ),
    Fault(
        _TRACES, "key that is too coarse",
        'cast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")', "cast = None",
        "passes under the caller's autocast are replayed as they were traced without",
    ),
    Fault(
        _TRACES, "key that is too coarse",
        "(a.shape, a.dtype, a.stride())", "(a.shape, a.dtype)",
        "batches that lie otherwise in memory are replayed as those that were traced",
    ),
    Fault(
        _TRACES, "key that is too coarse",
        "self._kinds[key, shapes, cast] = kind", "self._kinds[key, (), cast] = kind",
        "no pass is ever replayed",
    ),
    Fault(
        _TRACES, "dropped guard",
        "return min(_LONGEST, _LONGEST_BOUNDED) if self.bounded else _LONGEST", "return _LONGEST",
        "long passes are traced, which takes memory, where the caller bounds it",
    ),
    Fault(
        "kernels/fastgradnorm_kernels/_products.py", "wrong axis",
        "some.mT.reshape(-1, t)", "some.reshape(-1, t)",
        "gradients of narrow layers are made of positions that are taken for outputs",
    ),
    Fault(
        "kernels/fastgradnorm_kernels/_torch_norms.py", "wrong axis",
        "rows.transpose(0, 1).reshape(t, k * o)", "rows.reshape(t, k * o)",
        "ghost norms of several cotangents side by side take cotangents for positions",
    ),
    Fault(
        "_operations/joining.py", "wrong axis",
        "_PLACES = (0, 3, 1, 2)", "_PLACES = (0, 3, 2, 1)",
        "images that are joined one above the other are joined side by side",
    ),
    Fault(
        "_operations/transposed_convolutions.py", "forgotten argument",
        "weight, None, stride, padding, dilation, groups)", "weight, None, stride, padding, 1, groups)",
        "dilated transposed convolutions are pulled back as if they were not",
    ),
    Fault(
        "_operations/fused_norms.py", "dropped branch",
        "grad = grad.movedim(-1, 3) if last else grad", "grad = grad",
        "group norms of images with the channels last take channels for columns when pulled back",
    ),
    Fault(
        "_operations/pooling.py", "wrong reduction",
        "count = math.prod(input.shape[d] for d in dims)", "count = input.shape[dims[0]]",
        "averages over several dimensions are divided by the size of the first",
    ),
    Fault(
        "kernels/fastgradnorm_kernels/_sample_groups.py", "wrong axis",
        "torch.cat([torch.stack(found[i : i + k], 1) for i in blocks])",
        "torch.stack(found).view(len(x), k)",
        "norms of a volume's samples and cotangents change places",
    ),
    Fault(
        "kernels/fastgradnorm_kernels/operators.py", "dropped guard",
        "if 1 not in weight.stride():", "if False:",
        "pointwise convolutions of sequences of odd length with a stride fail",
    ),
]  # fmt: skip
