"""Faults in ways of writing a model: structured control flow, ties, masks and margins, bfloat16."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_FLOW, _NARROW = "_operations/control_flow.py", "kernels/fastgradnorm_kernels/_narrow.py"
_PLACING, _LOSSES = "_operations/placing.py", "_operations/unbatched_losses.py"
_NORMS = "kernels/fastgradnorm_kernels/_torch_norms.py"

FAULTS = [
    Fault(
        "_operations/table.py", "dropped branch",
        "    **control_flow.OPERATIONS,\n", "",
        "models with torch.cond are scored one by one, or without what a branch computes",
    ),
    Fault(
        "_model/substitution.py", "dropped branch",
        "        if func in CONTROL_FLOW:  # traced", "        if False:  # traced",
        "the referee has no gradient of what the branches of torch.cond take from around them",
    ),
    Fault(
        "_model/substitution.py", "dropped guard",
        "            with self:\n                return CONTROL_FLOW[func](*args, **kwargs)",
        "            if True:\n                return CONTROL_FLOW[func](*args, **kwargs)",
        "within torch.cond nothing is watched in verification and in plain loops",
    ),
    Fault(
        _FLOW, "swapped operands",
        "true_fn if bool(pred) else false_fn", "false_fn if bool(pred) else true_fn",
        "torch.cond takes the other branch",
    ),
    Fault(
        _FLOW, "dropped operand",
        "made = body_fn(*carried, *additional)", "made = body_fn(*carried)",
        "while_loop with further inputs ends in Python's words on arguments",
    ),
    Fault(
        _FLOW, "off by one",
        "    while bool(cond_fn(*carried, *additional)):\n", "    for _ in range(1):\n",
        "while_loop runs once",
    ),
    Fault(
        _FLOW, "stale state",
        "        carried, given = made[: len(init)], made[len(init) :]\n        rows.append(given)",
        "        given = made[len(init) :]\n        rows.append(given)",
        "scan carries nothing from row to row",
    ),
    Fault(
        _FLOW, "lost order",
        "return [*carried, *(torch.stack(column) for column in zip(*rows, strict=True))]",
        "return [*carried, *(torch.stack(column) for column in zip(*rows[::-1], strict=True))]",
        "scan gives its rows the other way round",
    ),
    Fault(
        _FLOW, "dropped operand",
        "made = list(combine_fn(*carried, *each, *additional))", "made = list(combine_fn(*carried, *each))",
        "scan with further inputs ends in Python's words on arguments",
    ),
    Fault(
        _FLOW, "dropped operand",
        "made = [function(*each, *others) for", "made = [function(*each) for",
        "torch.map with further inputs ends in Python's words on arguments",
    ),
    Fault(
        _FLOW, "lost structure",
        "return pytree.tree_unflatten(columns, pytree.tree_structure(made[0]))", "return columns[0]",
        "torch.map of a function that returns several gives the first one",
    ),
    Fault(
        "_model/marks.py", "dropped step",
        "        tensor.__class__ = kind if", "        kind = kind if",
        "a model that ties its weights in forward is scored one by one, with a warning",
    ),
    Fault(
        "_model/standins.py", "dropped branch",
        'known = {"grad": None, "grad_fn": None, ', 'known = {"grad": None, ',
        "a model that asks whether its weight has a history before it ties it is scored as if untied",
    ),
    Fault(
        _PLACING, "swapped operands",
        "return torch.where(mask, value.to(input.dtype), input)", "return torch.where(mask, input, value.to(input.dtype))",
        "masked_fill by a tensor fills what is not masked",
    ),
    Fault(
        _PLACING, "off by one",
        "places = mask.flatten().long().cumsum(0) - 1", "places = mask.flatten().long().cumsum(0)",
        "masked_scatter puts each value one place too late",
    ),
    Fault(
        _PLACING, "dropped branch",
        "            return function(input, indices, kernel_size, stride, padding, output_size)\n        sizes = asked\n",
        "            return function(input, indices, kernel_size, stride, padding, output_size)\n",
        "max_unpool has the size that it has by default",
    ),
    Fault(
        _PLACING, "lost in one branch",
        "partial(copied_back, masked_scatter)", "masked_scatter",
        "masked_scatter_ leaves its input as it was",
    ),
    Fault(
        _LOSSES, "dropped guard",
        "torch.where(is_label, 0.0, gaps).mean(-1)", "gaps.mean(-1)",
        "the label itself counts in a multi-margin loss",
    ),
    Fault(
        _LOSSES, "wrong unit",
        "gaps = gaps if weight is None else gaps * weight[label]", "gaps = gaps if weight is None else gaps * weight",
        "multi-margin losses are weighted by the other class",
    ),
    Fault(
        _LOSSES, "dropped guard",
        "counts = (target < 0).long().cumsum(-1) == 0", "counts = target >= 0",
        "labels after the first negative one count in a multi-label margin loss",
    ),
    Fault(
        _NARROW, "dropped guard",
        "    if work < _WORTH or any(t.dtype != torch.bfloat16 for t in tensors):\n", "    if any(t.dtype != torch.bfloat16 for t in tensors):\n",
        "small products of bfloat16 are rounded to it",
    ),
    Fault(
        _NARROW, "dropped guard",
        "    if work < _WORTH or any(t.dtype != torch.bfloat16 for t in tensors):\n", "    if work < _WORTH or tensors[0].dtype != torch.bfloat16:\n",
        "float32 gradients of bfloat16 activations fail in PyTorch's words on dtypes",
    ),
    Fault(
        _NARROW, "dropped guard",
        'return tensors[0].device.type == "cpu" and _multiplies()', 'return tensors[0].device.type == "cpu"',
        "processors without bfloat16 multiply it slowly, and round what they need not",
    ),
    Fault(
        _NARROW, "lost digits",
        "    wide = x.float().view(-1)\n", "    wide = x.view(-1)\n",
        "squares of bfloat16 gradients are added up in bfloat16",
    ),
    Fault(
        _NARROW, "wrong constant",
        "CANCELLED = 1e-1", "CANCELLED = 0.0",
        "ghost norms of bfloat16 whose terms cancel are noise",
    ),
    Fault(
        _NARROW, "swapped axis",
        "patches.view(1, inputs, t).mT, some[None]", "patches.view(1, t, inputs), some[None]",
        "norms of bfloat16 convolutions are those of other patches",
    ),
    Fault(
        _NORMS, "lost digits",
        "total = x.new_zeros(len(some), *out, *out, dtype=accumulation_dtype(x.dtype))",
        "total = x.new_zeros(len(some), *out, *out)",
        "Gram matrices of bfloat16 pixels are added up in bfloat16",
    ),
    Fault(
        _NORMS, "dropped branch",
        "if narrow or (wide and not columns):", "if wide and not columns:",
        "ghost norms of bfloat16 are those of a product that was rounded to it",
    ),
    Fault(
        _NORMS, "wrong constant",
        "share, sums, lost = _narrow.CANCELLED if narrow else CANCELLED, [], []", "share, sums, lost = CANCELLED, [], []",
        "ghost norms of bfloat16 whose terms mostly cancel have lost their digits",
    ),
]  # fmt: skip
