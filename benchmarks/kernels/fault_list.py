"""The faults that are planted: small edits of the kind that people make."""
# ruff: noqa: E501 - one fault a line

from dataclasses import dataclass
from pathlib import Path

from benchmarks.planting import replaced

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Fault:
    """One edit: the `index`-th place where `old` stands becomes `new`.

    Attributes:
        seen_by: A test that sees it, where those before it take long; it is run first.
    """

    module: str
    kernel: str
    kind: str
    old: str
    new: str
    index: int = 0
    seen_by: str = ""

    def planted(self) -> str:
        """The module's source with this fault."""
        source = (ROOT / "kernels" / "fastgradnorm_kernels" / f"{self.module}.py").read_text()
        return replaced(source, self.old, self.new, self.index)


_SCALED, _SETTLED = "_scaled_kernel", "_settled_kernel"
_TILE, _THREAD = "_head_scores_kernel", "_head_scores_thread_kernel"
_STREAM = "_head_scores_stream_kernel"
_GHOST, _DIRECT = "_ghost_sq_norm_kernel", "_direct_sq_norm_kernel"
_LAST = "_channels_last_kernel"
_AFFINE, _EMBEDDING = "_affine_sq_norm_kernel", "_embedding_sq_norm_kernel"

_HASHED = "_hashed_sums_kernel"
_EXACT, _SPLIT = "_exact_convolution_kernel", "_split_kernel"

FAULTS = [
    Fault("exact_convolution", _EXACT, "drop term", "part = tl.dot(high, weight_low, part)", "part = part"),
    Fault("exact_convolution", _EXACT, "drop term", "part = tl.dot(low, weight_high)", "part = tl.dot(low, 0 * weight_high)"),
    Fault("exact_convolution", _EXACT, "drop mask", " & (in_y < SPACE_Y)", ""),
    Fault("exact_convolution", _EXACT, "drop mask", "present & (in_z >= 0)", "present"),
    Fault("exact_convolution", _EXACT, "swap axis", "y * STEP_Y + first_y", "y * STEP_X + first_y"),
    Fault("exact_convolution", _EXACT, "swap axis", "tap_x * EACH_X", "tap_y * EACH_X"),
    Fault("exact_convolution", _EXACT, "drop factor", "total *= tl.load(inverse_ptr + row)[:, None]", "total *= tl.load(inverse_ptr)"),
    Fault("exact_convolution", _EXACT, "drop factor", "total *= tl.load(weight_inverse_ptr + column)[None, :]", "total *= tl.load(weight_inverse_ptr)"),
    Fault("exact_convolution", _EXACT, "drop term", "total += tl.load(bias_ptr + column)[None, :]", "total += 0.0"),
    Fault("exact_convolution", _EXACT, "drop phase", "out_x + x * OUT_STEP_X", "x * OUT_STEP_X"),
    Fault("exact_convolution", _EXACT, "drop mask", "present[:, None] & within[None, :]", "within[None, :]"),
    Fault("exact_plans", _EXACT, "drop sign", "*(-pad for pad in pads)", "*pads"),
    Fault("exact_plans", _EXACT, "drop factor", "-a * d // s", "-a"),
    Fault("exact_convolution", _EXACT, "drop guard", " and len(weights.high) == 1", ""),
    Fault("half_parts", _SPLIT, "drop factor", "x *= tl.load(balance_ptr + _channel(place, channels, VECTOR))", "x *= 1.0"),
    Fault("half_parts", _SPLIT, "lose NaN", 'tl.where((bits >> 23) == 255, float("nan"), inverse)', "inverse"),
    Fault("half_parts", _SPLIT, "off by one", "(254 - biased) << 23", "(253 - biased) << 23"),
    Fault("half_parts", _SPLIT, "drop term", "(x - high.to(tl.float32)).to(tl.float16)", "(0.0 * x).to(tl.float16)"),
    Fault("half_parts", _SPLIT, "first block alone", "range(0, blocks, _AT_ONCE)", "range(0, 1, _AT_ONCE)"),
    Fault("half_parts", _SPLIT, "drop factor", "weight / balance[:, None]", "weight * balance[:, None]"),
    Fault("half_parts", _SPLIT, "per tensor", "level.abs().amax((0, 1))", "level.abs().amax().expand(level.shape[2])"),
    Fault("bucket_sums", _HASHED, "drop sign", "tl.where(entry < 0, -x, x)", "x"),
    Fault("bucket_sums", _HASHED, "drop sign", "tl.where(code < 0, -sums, sums)", "sums"),
    Fault("bucket_sums", _HASHED, "wrong wrap", "tl.where(place < 0, place + dim, place)", "tl.abs(place)"),
    Fault("bucket_sums", _HASHED, "off by one", "(tl.abs(code) - 1)", "(tl.abs(code) - 2)"),
    Fault("bucket_sums", _HASHED, "first slot alone", "range(slots)", "range(1)"),
    Fault("bucket_sums", _HASHED, "first tile alone", "first + BLOCK_R * ROWS, R", "first + BLOCK_R, R"),
    Fault("bucket_sums", _HASHED, "drop mask", "mask=row < R, other=0", "mask=row < R, other=1"),
    Fault("bucket_sums", _HASHED, "swap stride", "group * table_stride_group", "group * 0"),
    Fault("bucket_sums", _HASHED, "swap stride", "n * shift_stride_n", "n * 0"),
    Fault("bucket_sums", _HASHED, "32-bit address", "n = tl.cast(tl.program_id(0) // blocks // parts // groups, tl.int64)", "n = tl.program_id(0) // blocks // parts // groups"),
    Fault("_math", "exp", "drop term", "whole + whole * (lost * LN_2)", "whole * LN_2"),
    Fault("_math", "finite", "drop guard", 'tl.where(base == -float("inf"), 0.0, base)', "base"),
    Fault("_math", "above_floor", "lose NaN", "tl.maximum(x, FLOOR, propagate_nan=_NAN)", "tl.where(x > FLOOR, x, FLOOR)"),
    Fault("_math", "exp_other", "wrong base", "tl.exp2(v * LOG2_E)", "tl.exp2(v)"),
    Fault("_math", "row_terms", "drop term", "tv * inverse + delta", "tv * inverse"),
    Fault("_math", "row_terms", "textbook form", "s / (1.0 + s)", "1.0 - 1.0 / (1.0 + s)"),
    Fault("_math", "other_sums", "drop term", "om * om * rr)", "om * rr)"),
    Fault("_math", "other_sums", "drop term", "delta - om * m", "delta"),
    Fault("_math", "other_shares", "drop term", "A - 2.0 * kappa * e", "A - kappa * e"),
    Fault("_math", "other_shares", "drop term", "e * (v + c)", "e * v"),
    Fault("_math", "top_terms", "drop term", "1.0 + p_top - om * rr", "1.0 + p_top"),
    Fault("_math", "top_terms", "drop factor", "p_top * m * p_top * m", "p_top * m * m"),
    Fault("logit_head", "_columns", "drop term", "found = (a, b, c, d)\n", "found = (a, c, b, a)\n"),
    Fault("logit_head", "_columns", "drop term", "(a, b, c, d, e, f, g, h)", "(a, b, c, d, e, f, g, g)"),
    Fault("logit_head", "_columns", "drop term", "found = tl.split(x)", "found = (tl.split(x)[0], tl.split(x)[0])"),
    Fault("logit_head", _THREAD, "take the largest", "tl.minimum(top, z, propagate_nan=_NAN)", "tl.maximum(top, z)"),
    Fault("logit_head", _THREAD, "off by one", "static_range(CLASSES)", "static_range(CLASSES - 1)"),
    Fault("logit_head", _THREAD, "drop guard", 'tl.where(base == -float("inf"), top, base)', "base"),
    Fault("logit_head", _THREAD, "swap stride", "rows * aligned(stride_n, VECTOR)", "rows * CLASSES"),
    Fault("logit_head", _THREAD, "drop mask", "mask=inside[:, None], other=0.0)\n        loaded", "mask=inside[:, None] | True, other=0.0)\n        loaded"),
    Fault("logit_head", _THREAD, "32-bit address", "tl.program_id(0).to(tl.int64) * BLOCK_N", "tl.program_id(0) * BLOCK_N"),
    Fault("logit_head", _TILE, "drop mask", "present = inside[:, None] & (columns", "present = (columns"),
    Fault("logit_head", _TILE, "off by one", "(columns < aligned(C, VECTOR))", "(columns < aligned(C, VECTOR) - 1)"),
    Fault("logit_head", _TILE, "drop mask", 'other=-float("inf"))', "other=0.0)"),
    Fault("logit_head", _TILE, "drop term", "+ tied * tied_share", ""),
    Fault("logit_head", _TILE, "drop term", "tl.sum(e * e, 1) + tied", "tl.sum(e * e, 1)"),
    Fault("logit_head", _TILE, "count the largest", "z - is_top * _FAR", "z - is_top * 9.0"),
    Fault("logit_head", _TILE, "swap stride", "q_ptr + rows, mask", "q_ptr + 2 * rows, mask", 1),
    Fault("logit_head", _TILE, "swap stride", "rows[:, None] * aligned(stride_n, VECTOR)", "rows[:, None] * C"),
    Fault("logit_head", _TILE, "32-bit address", "tl.program_id(0).to(tl.int64) * BLOCK_N", "tl.program_id(0) * BLOCK_N", 1),
    Fault("head_stream", _STREAM, "take the largest", "tl.minimum(top, z, propagate_nan=_NAN)", "tl.maximum(top, z)"),
    Fault("head_stream", _STREAM, "drop mask", 'other=-float("inf"))', "other=0.0)"),
    Fault("head_stream", _STREAM, "drop shift", "(tv + t * d) * f\n", "tv * f\n"),
    Fault("head_stream", _STREAM, "drop square", "t3 * f2 * f", "t3 * f2"),
    Fault("head_stream", _STREAM, "drop shift", "mean + d, m2 * f2", "mean, m2 * f2"),
    Fault("head_stream", _STREAM, "drop term", "m2 += s2 * share * gap * gap", "m2 += 0.0"),
    Fault("head_stream", _STREAM, "drop weight", "new_mean - share * gap", "new_mean"),
    Fault("head_stream", _STREAM, "off by one", "range(whole, C, W * STEPS)", "range(whole, C - 1, W * STEPS)"),
    Fault("head_stream", _STREAM, "swap stride", "row * aligned(stride_n, VECTOR)", "row * C"),
    Fault("head_stream", _STREAM, "count the largest", "tl.arange(0, W) == lane", "tl.arange(0, W) < 0"),
    Fault("head_stream", _STREAM, "drop term", "t2 * f * f + e * e", "t2 * f * f"),
    Fault("head_stream", _STREAM, "drop term", "0.5 * t3 + k * 0.5 * t4", "k * 0.5 * t4"),  # 2e-4; t4 alone is 4e-6
    Fault("head_stream", _STREAM, "drop guard", "tl.max(f, 0) > _SERIES", "tl.max(f, 0) > 1.0"),
    Fault("head_stream", _STREAM, "off by one", "range(0, C, W)", "range(0, C - W, W)"),
    Fault("head_stream", _STREAM, "32-bit address", "tl.program_id(0).to(tl.int64)", "tl.program_id(0)"),
    Fault("_addresses", "input_steps", "off by one", "% KERNEL[0], tap % KERNEL[1]", "% KERNEL[0], tap % (KERNEL[1] + 1)"),
    Fault("_addresses", "input_steps", "swap stride", "y * STEPS[1]", "y * STEPS[2]"),
    Fault("_addresses", "input_steps", "drop term", " + i % channels", ""),
    Fault("_addresses", "input_steps", "swap sizes", "tap // KERNEL[1] % KERNEL[0]", "tap // KERNEL[0] % KERNEL[1]"),
    Fault("windows", _LAST, "drop mask", "(x >= 0) & ", ""),
    Fault("windows", _LAST, "off by one", "(y < SPACE_Y)", "(y <= SPACE_Y)"),
    Fault("windows", _LAST, "drop mask", "& (channel < C)", ""),
    Fault("windows", _LAST, "off by one", "SPACE_X + 2 * PADDING_X) - PADDING_X", "SPACE_X + 2 * PADDING_X)"),
    Fault("windows", _LAST, "swap stride", "* x_stride_y", "* x_stride_z"),
    Fault("windows", _LAST, "swap sizes", "c // channels * C", "c // channels * channels"),
    Fault("windows", _LAST, "wrong layout", "places += x if X_LAST else", "places += x if C_LAST else"),
    Fault("windows", _LAST, "32-bit address", "// blocks_c // blocks_p, tl.int64", "// blocks_c // blocks_p, tl.int32"),
    Fault("windows", "of_convolution", "swap options", '("t", _three(stride, 1)), ("i", _three(dilation, 1))', '("t", _three(dilation, 1)), ("i", _three(stride, 1))'),
    Fault("windows", "of_linear", "wrong vector", "math.gcd(i, activations.stride(0))", "16", seen_by="test_of_linear"),
    Fault("gradients", "of", "wrong layout", "outputs_last = step_o == 1 or o == 1", "outputs_last = True"),
    Fault("gradients", "of", "wrong layout", "if not outputs_last and step_t != 1 and t != 1:", "if False:"),
    Fault("gradients", "of", "wrong vector", "math.gcd(contiguous, stride, *steps)", "math.gcd(stride, *steps)"),
    Fault("gradients", "of", "wrong vector", "math.gcd(contiguous, stride, *steps)", "math.gcd(contiguous, *steps)"),
    Fault("_grams", _GHOST, "off by one", "tile * BLOCK_T + row < T", "tile * BLOCK_T + row <= T"),
    Fault("_grams", _GHOST, "swap sizes", "row % T", "row"),
    Fault("_grams", _GHOST, "off by one", "range(0, I, BLOCK_D)", "range(0, I - 1, BLOCK_D)"),
    Fault("_grams", _GHOST, "off by one", "range(0, O, BLOCK_D)", "range(0, O - 1, BLOCK_D)"),
    Fault("_grams", _GHOST, "drop mask", "(depth < limit - start)[None, :]", "(depth < limit)[None, :]"),
    Fault("_grams", _GHOST, "drop mask", "mask=(o < limit)[None, :], other=0.0)", "mask=(o < limit + 1)[None, :], other=0.0)"),
    Fault("_grams", _GHOST, "off by one", "(x >= KERNEL[1]).to(tl.int32)", "(x > KERNEL[1]).to(tl.int32)"),
    Fault("_grams", _GHOST, "drop term", "z += (y >= KERNEL[0]).to(tl.int32)", "z += 0"),
    Fault("_grams", _GHOST, "swap stride", "y * TAPS[1]", "y * TAPS[2]"),
    Fault("_grams", _GHOST, "swap sizes", "t // OUT[1] % OUT[0]", "t // OUT[0] % OUT[1]"),
    Fault("_grams", _GHOST, "swap stride", "t if POSITIONS_LAST else t * g_stride", "t * g_stride"),
    Fault("_grams", _GHOST, "swap stride", "o * g_stride if POSITIONS_LAST else o", "o"),
    Fault("_grams", _GHOST, "drop term", "tl.where(slot < left, slot, 0), tl.int64) * g_stride_k", "tl.where(slot < left, 0, 0), tl.int64) * g_stride_k"),
    Fault("_grams", _GHOST, "32-bit address", "tl.where(slot < left, slot, 0), tl.int64)", "tl.where(slot < left, slot, 0), tl.int32)"),
    Fault("ghost_norm", _GHOST, "drop mask", "inside[:, None] & column_inside[None, :] & (slot", "(slot"),
    Fault("ghost_norm", _GHOST, "drop mask", " & (slot[:, None] == column_slot[None, :])", ""),
    Fault("ghost_norm", _GHOST, "drop term", "tl.where(row == column, 1.0, 2.0)", "1.0"),
    Fault("ghost_norm", _GHOST, "flip mask", "t[:, None] == column_t[None, :]", "t[:, None] == column_t[None, :] + 1"),
    Fault("ghost_norm", _GHOST, "swap stride", "aligned(n * g_stride_n", "aligned(n * g_stride_k"),
    Fault("ghost_norm", _GHOST, "swap stride", "* groups + group) * K + k) * width", "* groups) * K + k) * width"),
    Fault("ghost_norm", _GHOST, "drop term", "n * x_stride_n + group * x_stride_group", "n * x_stride_n"),
    Fault("ghost_norm", _GHOST, "drop term", "aligned(group * O, VECTOR_G)", "0 * group"),
    Fault("ghost_norm", _GHOST, "drop mask", "inside & (slot < K - k)", "inside"),
    Fault("ghost_norm", _GHOST, "off by one", "tl.minimum(first_k + chunk, K)", "tl.minimum(first_k + chunk - 1, K)"),
    Fault("ghost_norm", _GHOST, "32-bit address", "// pairs // chunks // groups, tl.int64", "// pairs // chunks // groups, tl.int32"),
    Fault("ghost_norm", _GHOST, "32-bit address", "tl.cast(k, tl.int64) * g_stride_k", "k * g_stride_k"),
    Fault("ghost_norm", "parts", "wrong constant", "STACKED=pairs == 1", "STACKED=True"),
    Fault("ghost_norm", "parts", "wrong constant", "EVEN_I=i % depth == 0", "EVEN_I=True"),
    Fault("ghost_norm", "parts", "wrong constant", "EVEN_O=o % depth == 0", "EVEN_O=True"),
    Fault("ghost_norm", "parts", "off by one", "max(1, side // max(1, t))", "max(1, side // max(1, t) + 1)"),
    Fault("ghost_norm", "_depth", "drop guard", "depth //= 2", "break"),
    Fault("direct_norm", _DIRECT, "drop mask", "tl.where(present, rows, 0)", "rows"),
    Fault("direct_norm", _DIRECT, "drop mask", "tl.where(columns < inputs, columns, 0)", "columns"),
    Fault("direct_norm", _DIRECT, "drop mask", "tl.where((columns < I)[None, :], gradients[part], 0.0)", "gradients[part]"),
    Fault("direct_norm", _DIRECT, "drop mask", "tl.where(t < T, places, 0)", "places"),
    Fault("direct_norm", _DIRECT, "drop mask", "mask = (t < limit)[None, :]", "mask = (t >= 0)[None, :]"),
    Fault("direct_norm", _DIRECT, "off by one", "range(0, T, BLOCK_T)", "range(0, T - 1, BLOCK_T)"),
    Fault("direct_norm", _DIRECT, "drop term", "totals[part] + tl.sum", "tl.sum"),
    Fault("direct_norm", _DIRECT, "drop term", "gradient + tl.dot", "tl.dot"),
    Fault("direct_norm", _DIRECT, "flip mask", "!= 0, last, end)", "!= 0, end, last)"),
    Fault("direct_norm", _DIRECT, "drop mask", "tl.where(needed[part], totals[part], 0.0)", "totals[part]"),
    Fault("direct_norm", _DIRECT, "swap stride", "t if POSITIONS_LAST else t * g_stride", "t * g_stride"),
    Fault("direct_norm", _DIRECT, "swap stride", "y * STEPS[1] + x", "y * STEPS[2] + x"),
    Fault("direct_norm", _DIRECT, "off by one", "x += more_x", "x += more_x + 1"),
    Fault("direct_norm", _DIRECT, "drop term", "y += more_y + (x >= OUT[1]).to(tl.int32)", "y += more_y"),
    Fault("direct_norm", _DIRECT, "off by one", "(y >= OUT[0]).to(tl.int32)", "(y > OUT[0]).to(tl.int32)"),
    Fault("direct_norm", _DIRECT, "drop term", "z += more_z", "z += 0"),
    Fault("direct_norm", _DIRECT, "swap stride", "far + o * g_stride", "far + o"),
    Fault("direct_norm", _DIRECT, "drop term", "group * outputs + row % outputs", "row % outputs"),
    Fault("direct_norm", _DIRECT, "swap stride", "* groups + group) * splits + split)", "* groups) * splits + split)"),
    Fault("direct_norm", _DIRECT, "32-bit address", "// splits // row_programs // groups, tl.int64", "// splits // row_programs // groups, tl.int32"),
    Fault("direct_norm", _DIRECT, "32-bit address", "tl.cast(k, tl.int64) * g_stride_k", "k * g_stride_k"),
    Fault("direct_norm", _DIRECT, "drop term", "row_tile * BLOCK_O + part * PART_O", "row_tile * BLOCK_O", seen_by="test_a_tile_of_several_products"),
    Fault("direct_norm", _DIRECT, "first part alone", "tl.max(present.to(tl.int32), 0) != 0, last, end)", "tl.max(present.to(tl.int32), 0) != 0, last, first)", seen_by="test_a_tile_of_several_products"),
    Fault("direct_norm", "_part", "wrong constant", "needed is None and t % tile.depth == 0", "True"),
    Fault("conv_norm", "_prepare", "drop term", "grad_outputs.flatten(3).mT, groups)", "grad_outputs.flatten(3).mT)", seen_by="test_tiles_and_channels_last"),
    Fault("conv_norm", "conv_ghost_sq_norm", "wrong constant", "options, groups, True)", "options, 1, True)"),
    Fault("checked_norm", _SETTLED, "flip comparison", "sq_norm < CANCELLED * uncancelled", "sq_norm > CANCELLED * uncancelled"),
    Fault("checked_norm", _SETTLED, "drop factor", "CANCELLED * uncancelled", "uncancelled"),
    Fault("checked_norm", "launch", "off by one", "first += again.shape[2]", "first += 1", seen_by="test_cotangents_that_come_in_parts"),
    Fault("checked_norm", "_again_kernel", "flip comparison", "lost_ptr + row) != 0", "lost_ptr + row) == 0"),
    Fault("checked_norm", "_added", "drop mask", "mask=place < width, other=0.0", "mask=place < BLOCK, other=0.0"),
    Fault("checked_norm", "_added", "swap stride", "((n * groups + group) * K + k) * width", "(n * groups * K + k) * width"),
    Fault("affine_norm", _AFFINE, "drop mask", "(t < T)[:, None] & (d < D)[None, :]", "(t < T)[:, None]"),
    Fault("affine_norm", _AFFINE, "drop mask", "(t < T)[:, None] & (d < D)[None, :]", "(d < D)[None, :]"),
    Fault("affine_norm", _AFFINE, "off by one", "range(0, T, BLOCK_T)", "range(0, T - 1, BLOCK_T)"),
    Fault("affine_norm", _AFFINE, "drop factor", "weight += g * x", "weight += g"),
    Fault("affine_norm", _AFFINE, "drop term", "bias += g", "bias = g"),
    Fault("affine_norm", _AFFINE, "swap stride", "t[:, None] * g_stride_t", "t[:, None] * x_stride_t"),
    Fault("affine_norm", _AFFINE, "swap stride", "k * g_stride_k", "k * g_stride_n"),
    Fault("affine_norm", _AFFINE, "32-bit address", "// K // blocks, tl.int64", "// K // blocks, tl.int32"),
    Fault("scaled", _SCALED, "swap stride", "row[:, None] * columns", "row[:, None] * channels"),
    Fault("scaled", _SCALED, "drop term", "row % channels", "0 * row"),
    Fault("scaled", _SCALED, "drop mask", " & (column < columns)[None, :]", ""),
    Fault("scaled", _SCALED, "drop mask", "(row < rows)[:, None] & ", ""),
    Fault("scaled", _SCALED, "drop factor", "mask=inside).to(tl.float32) * scale", "mask=inside).to(tl.float32)"),
    Fault("scaled", _SCALED, "drop term", ".to(tl.float32) + EPS)", ".to(tl.float32))"),
    Fault("scaled", _SCALED, "swap stride", "tl.where(column < columns, column, 0)", "tl.where(column < columns, column // 2, 0)"),
    Fault("scaled", "scaled_channels", "wrong constant", "HAS_WEIGHT=weight is not None", "HAS_WEIGHT=False"),
    Fault("scaled", "scaled_channels", "wrong constant", "CHANNELS_LAST=last", "CHANNELS_LAST=True"),
    Fault("scaled", "scaled_channels", "drop guard", "if not last:", "if False:"),
    Fault("ghost_norm", "_chunk", "off by one", "others * (chunks + 1)", "others * chunks", seen_by="test_chunks_are_even_and_keep_processors_busy"),
    Fault("ghost_norm", "launch", "wrong constant", "single = found[0].shape[1] == found[0].shape[3] == 1", "single = found[0].shape[1] == 1"),
    Fault("embedding_norm", _EMBEDDING, "drop mask", "(i < end)[:, None] & (o < O)[None, :]", "(i < end)[:, None]"),
    Fault("embedding_norm", _EMBEDDING, "off by one", "tile * BLOCK_S + tl.arange", "tile * BLOCK_S + 1 + tl.arange"),
    Fault("embedding_norm", _EMBEDDING, "off by one", "end = tl.load(bounds + 1)", "end = tl.load(bounds + 1) - 1"),
    Fault("embedding_norm", _EMBEDDING, "flip mask", "== slot[None, :]", "!= slot[None, :]"),
    Fault("embedding_norm", _EMBEDDING, "swap stride", "bounds_ptr + n * (tiles + 1)", "bounds_ptr + n * tiles"),
    Fault("embedding_norm", _EMBEDDING, "32-bit address", "// blocks // tiles, tl.int64", "// blocks // tiles, tl.int32"),
    Fault("embedding_norm", "_slots", "drop mask", ".mul_(tokens >= 0)", ""),
]  # fmt: skip
