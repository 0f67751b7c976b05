"""Faults in attention, in equations, and in what is common to all operations."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

FAULTS = [
    Fault(
        "_operations/attention.py", "option that does nothing",
        "scale = math.pow(query.shape[-1], -0.5) if scale is None else scale\n    if attn_mask is not None", "scale = query.shape[-1] ** -0.5\n    if attn_mask is not None",
        "scaled_dot_product_attention ignores the scale it is given",
    ),
    Fault(
        "_operations/attention.py", "lost order",
        "return tensor.repeat_interleave(heads // tensor.shape[-3], -3)",
        "return torch.cat([tensor] * (heads // tensor.shape[-3]), -3)",
        "grouped queries attend to other heads' keys",
    ),
    Fault(
        "_operations/attention.py", "flipped mask",
        "masked_fill(~attn_mask, -torch.inf)", "masked_fill(attn_mask, -torch.inf)",
        "attention sees what is masked out",
    ),
    Fault(
        "_operations/attention_kernels.py", "dropped term",
        "p *= (wide_g @ wide_v.mT - inner) * scale", "p *= (wide_g @ wide_v.mT) * scale",
        "what is pulled back through attention with values of another size lacks a term",
    ),
    Fault(
        "_operations/linalg.py", "swapped axis",
        "return solve(A.mT, B.mT).mT", "return solve(A, B.mT).mT",
        "equations with the unknown on the left are solved with the matrix transposed",
    ),
    Fault(
        "_operations/linalg.py", "wrong sign",
        "return (1 - 2 * (swaps % 2)).to(LU.dtype)", "return torch.ones_like(swaps).to(LU.dtype)",
        "determinants lose the sign of their permutation",
    ),
    Fault(
        "_operations/linalg.py", "wrong sign",
        "of_A = -of_B @ X.mH", "of_A = of_B @ X.mH",
        "what is pulled back from an equation to its matrix has the wrong sign",
    ),
    Fault(
        "_operations/numbers.py", "dropped term",
        "gradient = torch.view_as_real(gradient.resolve_conj())", "gradient = gradient.real",
        "complex parameters count by their real parts",
    ),
    Fault(
        "_operations/rows.py", "swapped axis",
        "else x.movedim(1, -1).flatten(0, -2)", "else x.flatten(0, -2)",
        "norm layers of several frames mix channels with positions",
    ),
    Fault(
        "_operations/table.py", "dropped guard",
        "if make is None or any(t.is_complex() or t.numel() == 0 for t in tensors):",
        "if make is None or any(t.numel() == 0 for t in tensors):",
        "complex layers are counted by the rules of real ones",
    ),
    Fault(
        "_operations/attention_shared.py", "dropped term",
        "    slopes.sub_((g.float() * output.float()).sum(-1, keepdim=True))\n", "",
        "what several cotangents pull back through attention lacks the softmax's own term",
    ),
    Fault(
        "_operations/attention.py", "lost order",
        "movedim(order, leading).flatten(0, batch)", "flatten(0, batch)",
        "cotangents of attention are taken for samples",
    ),
]  # fmt: skip
