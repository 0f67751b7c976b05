"""The faults that are planted: small edits of the kind that people make."""
# ruff: noqa: E501 - one fault a line

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Fault:
    """One edit: the `index`-th place where `old` stands becomes `new`."""

    module: str
    kernel: str
    kind: str
    old: str
    new: str
    index: int = 0

    def planted(self) -> str:
        """The module's source with this fault."""
        source = (ROOT / "kernels" / "fastgradnorm_kernels" / f"{self.module}.py").read_text()
        parts = source.split(self.old)
        assert len(parts) > self.index + 1, f"{self.module} has no {self.old!r} #{self.index}"
        head, tail = parts[: self.index + 1], parts[self.index + 1 :]
        return self.old.join(head) + self.new + self.old.join(tail)


_TILE, _SWEEP = "_head_scores_kernel", "_head_scores_sweep_kernel"
_STATE, _SUMS = "_linear_head_state_kernel", "_linear_head_scores_kernel"
_GHOST, _DIRECT = "_ghost_sq_norm_kernel", "_direct_sq_norm_kernel"
_CONV_DIRECT, _CONV_GHOST = "_conv_direct_kernel", "_conv_ghost_kernel"
_AFFINE, _EMBEDDING = "_affine_sq_norm_kernel", "_embedding_sq_norm_kernel"

FAULTS = [
    Fault("_math", "exp", "drop term", "whole + whole * (lost * LN_2)", "whole * LN_2"),
    Fault("_math", "merge", "drop term", "o_t * o_f + l_f", "o_t * o_f"),
    Fault("_math", "merge", "drop shift", "(tv + t * d) * f", "tv * f"),
    Fault("_math", "merge", "flip comparison", "o_top > top, o_index", "o_top < top, o_index"),
    Fault("_math", "merge", "drop square", "t2 * f * f", "t2 * f"),
    Fault("_math", "tile_state", "flip mask", "!= column[:, None]", "== column[:, None]"),
    Fault("_math", "tile_state", "off by one", "+ tl.min(classes, 0)", "+ tl.min(classes, 0) + 1"),
    Fault("_math", "finite", "drop guard", 'tl.where(base == -float("inf"), 0.0, base)', "base"),
    Fault("_math", "above_floor", "drop guard", "tl.where(x < FLOOR, FLOOR, x)", "x"),
    Fault("_math", "row_terms", "drop term", "tv * inverse + delta", "tv * inverse"),
    Fault("_math", "row_terms", "textbook form", "s / (1.0 + s)", "1.0 - 1.0 / (1.0 + s)"),
    Fault("_math", "other_terms", "drop term", "1.0 - 2.0 * p + p_sq", "1.0 - 2.0 * p"),
    Fault("_math", "other_terms", "drop term", "delta - om * m", "delta"),
    Fault("_math", "top_terms", "drop term", "1.0 + p_top - om * rr", "1.0 + p_top"),
    Fault("_math", "top_terms", "drop factor", "p_top * m * p_top * m", "p_top * m * m"),
    Fault("logit_head", _TILE, "drop mask", "mask=inside[:, None] & present", "mask=present"),
    Fault("logit_head", _TILE, "drop mask", "z = tl.where(present, z,", "z = tl.where(z == z, z,"),
    Fault("logit_head", _TILE, "off by one", "(columns < C)[None, :]", "(columns < C - 1)[None, :]"),
    Fault("logit_head", _TILE, "drop term", "+ tied * tied_term", ""),
    Fault("logit_head", _TILE, "drop term", "tl.sum(e * e, 1) + tied", "tl.sum(e * e, 1)"),
    Fault("logit_head", _TILE, "swap stride", "q_ptr + rows, mask", "q_ptr + 2 * rows, mask"),
    Fault("logit_head", _TILE, "swap stride", "rows[:, None] * stride_n", "rows[:, None] * C"),
    Fault("logit_head", _TILE, "32-bit address", "tl.program_id(0).to(tl.int64) * BLOCK_N", "tl.program_id(0) * BLOCK_N"),
    Fault("logit_head", _SWEEP, "off by one", "range(0, C, BLOCK_C)", "range(0, C - 1, BLOCK_C)"),
    Fault("logit_head", _SWEEP, "off by one", "range(0, C, BLOCK_C)", "range(0, C - 1, BLOCK_C)", 1),
    Fault("logit_head", _SWEEP, "drop mask", 'other=-float("inf"))', "other=0.0)", 1),
    Fault("logit_head", _SWEEP, "flip mask", "!= index[:, None]", "== index[:, None]"),
    Fault("logit_head", _SWEEP, "swap stride", "rows[:, None] * stride_n", "rows[:, None] * C", 1),
    Fault("linear_head", _STATE, "drop mask", '[None, :], z, -float("inf"))', "[None, :], z, 0.0)"),
    Fault("linear_head", _STATE, "drop mask", "(columns < C - column)[None, :] & (depth < D)[:, None]", "(columns < C - column)[None, :]"),
    Fault("linear_head", _STATE, "drop mask", "(rows < N - row)[:, None] & (depth", "(depth"),
    Fault("linear_head", _STATE, "off by one", "split * SPLIT + SPLIT, C), BLOCK_C", "split * SPLIT + SPLIT, C - 1), BLOCK_C"),
    Fault("linear_head", _STATE, "swap stride", "columns[None, :] * D", "columns[None, :] * C"),
    Fault("linear_head", _STATE, "swap stride", "slots + 2 * plane, base, mask", "slots + 3 * plane, base, mask"),
    Fault("linear_head", _STATE, "drop term", "        z += b.to(tl.float32)[None, :]\n", "        z += 0.0\n"),
    Fault("linear_head", _SUMS, "count twice", "expected = tl.where(split == 0, expected, 0.0)", "expected = expected"),
    Fault("linear_head", _SUMS, "flip mask", "!= index[:, None]", "== index[:, None]"),
    Fault("linear_head", _SUMS, "off by one", "range(splits)", "range(splits - 1)"),
    Fault("linear_head", _SUMS, "drop term", "square += tl.sum(squares, 1)", "square = tl.sum(squares, 1)"),
    Fault("linear_head", _SUMS, "swap stride", "partial_ptr + tl.cast(split, tl.int64) * N", "partial_ptr + tl.cast(split, tl.int64)"),
    Fault("ghost_norm", _GHOST, "drop mask", "(rows < T)[:, None] & (depth", "(depth"),
    Fault("ghost_norm", _GHOST, "drop mask", "(columns < T)[None, :] & (depth", "(depth"),
    Fault("ghost_norm", _GHOST, "off by one", "range(0, D, BLOCK_D)", "range(0, D - 1, BLOCK_D)"),
    Fault("ghost_norm", _GHOST, "drop term", "tl.where(row == column, 1.0, 2.0)", "1.0"),
    Fault("ghost_norm", _GHOST, "flip mask", "columns[None, :]\n    plane", "columns[None, :] + 1\n    plane"),
    Fault("ghost_norm", _GHOST, "swap stride", "n * g_stride_n", "n * g_stride_k"),
    Fault("ghost_norm", _GHOST, "swap stride", "rows[:, None] * D", "rows[:, None] * T"),
    Fault("ghost_norm", _GHOST, "off by one", "chunk * CHUNK + CHUNK, K", "chunk * CHUNK + CHUNK - 1, K"),
    Fault("ghost_norm", _GHOST, "32-bit address", "tl.program_id(0) // pairs // chunks, tl.int64", "tl.program_id(0) // pairs // chunks, tl.int32"),
    Fault("direct_norm", _DIRECT, "drop mask", "(outputs < O)[:, None] & (t < T)[None, :]", "(t < T)[None, :]"),
    Fault("direct_norm", _DIRECT, "drop mask", "(t < T)[:, None] & (inputs < I)[None, :]", "(t < T)[:, None]"),
    Fault("direct_norm", _DIRECT, "off by one", "range(0, T, BLOCK_T)", "range(0, T - 1, BLOCK_T)"),
    Fault("direct_norm", _DIRECT, "drop term", "total += tl.sum", "total = tl.sum"),
    Fault("direct_norm", _DIRECT, "flip mask", "!= 0, end, first", "!= 0, first, end"),
    Fault("direct_norm", _DIRECT, "swap stride", "t[None, :] * O", "t[None, :] * I"),
    Fault("direct_norm", _DIRECT, "32-bit address", "tl.program_id(0) // programs, tl.int64", "tl.program_id(0) // programs, tl.int32"),
    Fault("conv_norm", _CONV_DIRECT, "drop mask", "& (x >= 0) & (x < SPACE[2])", "& (x < SPACE[2])"),
    Fault("conv_norm", _CONV_DIRECT, "drop mask", "& (y >= 0) & (y < SPACE[1])", "& (y >= 0)"),
    Fault("conv_norm", _CONV_DIRECT, "off by one", "(z < SPACE[0])", "(z <= SPACE[0])"),
    Fault("conv_norm", _CONV_DIRECT, "swap dilation", "% KERNEL[1] * DILATION[1]", "% KERNEL[1] * DILATION[2]"),
    Fault("conv_norm", _CONV_DIRECT, "swap stride", "% OUT[1] * STRIDE[1]", "% OUT[1] * STRIDE[2]"),
    Fault("conv_norm", _CONV_DIRECT, "drop mask", "(t < T) & (i < I) & ", "(t < T) & "),
    Fault("conv_norm", _CONV_DIRECT, "drop term", "_group_start(group, I, SPACE, GEOMETRY)", "0 * group"),
    Fault("conv_norm", _CONV_DIRECT, "off by one", "range(0, T, BLOCK_T)", "range(0, T - 1, BLOCK_T)"),
    Fault("conv_norm", _CONV_DIRECT, "32-bit address", "programs // groups, tl.int64", "programs // groups, tl.int32"),
    Fault("conv_norm", _CONV_GHOST, "drop term", "tl.where(row == column, 1.0, 2.0)", "1.0"),
    Fault("conv_norm", _CONV_GHOST, "drop mask", "(rows < T)[:, None] & (o < O)[None, :]", "(rows < T)[:, None]"),
    Fault("conv_norm", _CONV_GHOST, "off by one", "range(0, I, BLOCK_D)", "range(0, I - 1, BLOCK_D)"),
    Fault("conv_norm", _CONV_GHOST, "off by one", "chunk * CHUNK + CHUNK, K", "chunk * CHUNK + CHUNK - 1, K"),
    Fault("conv_norm", _CONV_GHOST, "swap stride", "* groups + group) * pairs", "* groups) * pairs"),
    Fault("conv_norm", _CONV_GHOST, "drop term", "_group_start(group, I, SPACE, GEOMETRY)", "0 * group", 1),
    Fault("affine_norm", _AFFINE, "drop mask", "(t < T)[:, None] & (d < D)[None, :]", "(t < T)[:, None]"),
    Fault("affine_norm", _AFFINE, "drop mask", "(t < T)[:, None] & (d < D)[None, :]", "(d < D)[None, :]"),
    Fault("affine_norm", _AFFINE, "off by one", "range(0, T, BLOCK_T)", "range(0, T - 1, BLOCK_T)"),
    Fault("affine_norm", _AFFINE, "drop factor", "weight += g * x", "weight += g"),
    Fault("affine_norm", _AFFINE, "drop term", "bias += g", "bias = g"),
    Fault("affine_norm", _AFFINE, "swap stride", "t[:, None] * g_stride_t", "t[:, None] * x_stride_t"),
    Fault("affine_norm", _AFFINE, "swap stride", "k * g_stride_k", "k * g_stride_n"),
    Fault("affine_norm", _AFFINE, "32-bit address", "// K // blocks, tl.int64", "// K // blocks, tl.int32"),
    Fault("embedding_norm", _EMBEDDING, "drop mask", "(i < end)[:, None] & (o < O)[None, :]", "(i < end)[:, None]"),
    Fault("embedding_norm", _EMBEDDING, "off by one", "tile * BLOCK_S + tl.arange", "tile * BLOCK_S + 1 + tl.arange"),
    Fault("embedding_norm", _EMBEDDING, "off by one", "end = tl.load(bounds + 1)", "end = tl.load(bounds + 1) - 1"),
    Fault("embedding_norm", _EMBEDDING, "flip mask", "== slot[None, :]", "!= slot[None, :]"),
    Fault("embedding_norm", _EMBEDDING, "swap stride", "bounds_ptr + n * (tiles + 1)", "bounds_ptr + n * tiles"),
    Fault("embedding_norm", _EMBEDDING, "32-bit address", "// blocks // tiles, tl.int64", "// blocks // tiles, tl.int32"),
    Fault("embedding_norm", "_slots", "drop mask", ".mul_(tokens >= 0)", ""),
]  # fmt: skip
