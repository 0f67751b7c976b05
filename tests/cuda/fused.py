"""Fused attention kernels of CUDA, by their formula, as strict about what they are given."""

import math

import torch

_ALIGNED = 16  # bytes


def _check(*tensors):
    first = tensors[0]
    for tensor in tensors:
        assert tensor.dim() == 4 and tensor.dtype == first.dtype
        assert tensor.dtype in (torch.float32, torch.float16, torch.bfloat16)
        assert tensor.stride(-1) == 1, "the last dimension must be contiguous"
        each = _ALIGNED // tensor.element_size()
        assert tensor.shape[-1] % each == 0, "heads must be multiples of 16 bytes"
        steps = (tensor.storage_offset(), *tensor.stride()[:-1])
        assert not any(step % each for step in steps), "rows must begin at multiples of 16 bytes"


def _check_mask(mask, q, k):
    if mask is None:
        return
    assert mask.shape == (*q.shape[:3], k.shape[2]), "the mask must be expanded"
    assert mask.dtype == q.dtype and mask.stride(-1) == 1
    assert not any(step % 16 for step in (mask.storage_offset(), *mask.stride()[:-1]))


def _scores(q, k, mask, is_causal, scale):
    scores = q.double() @ k.double().mT * scale
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores if mask is None else scores + mask.double()


def _forward(q, k, v, mask, is_causal, scale):
    """Output, positions before heads in memory, and the log-sum-exp of rows."""
    scores = _scores(q, k, mask, is_causal, q.shape[-1] ** -0.5 if scale is None else scale)
    rows = scores.logsumexp(-1)
    p = (scores - rows[..., None]).exp().nan_to_num(0.0)
    output = (p @ v.double()).to(q.dtype)
    return output.transpose(1, 2).contiguous().transpose(1, 2), rows.float()


def _backward(g, q, k, v, mask, output, rows, is_causal, scale):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    p = (_scores(q, k, mask, is_causal, scale) - rows.double()[..., None]).exp().nan_to_num(0.0)
    g, wide = g.double(), v.double()
    inner = (g * output.double()).sum(-1, keepdim=True)
    grad = p * (g @ wide.mT - inner) * scale
    found = (grad @ k.double(), grad.mT @ q.double(), p.mT @ g)
    return tuple(t.to(q.dtype).transpose(1, 2).contiguous().transpose(1, 2) for t in found)


def _efficient(q, k, v, mask, wanted, dropout=0.0, is_causal=False, *, scale=None):
    assert wanted and dropout == 0
    _check(q, k, v)
    _check_mask(mask, q, k)
    output, rows = _forward(q, k, v, mask, is_causal, scale)
    padded = rows.new_full((*rows.shape[:2], math.ceil(rows.shape[2] / 32) * 32), torch.inf)
    padded[..., : rows.shape[2]] = rows
    return output, padded, torch.empty((), dtype=torch.int64), torch.empty((), dtype=torch.int64)


def _efficient_backward(
    g, q, k, v, mask, output, rows, seed, offset, dropout, wanted, is_causal=False, *, scale=None
):
    assert dropout == 0 and wanted == [True, True, True, False]
    _check(g, q, k, v, output)
    _check_mask(mask, q, k)
    assert rows.shape[-1] == math.ceil(q.shape[2] / 32) * 32 and rows.is_contiguous()
    rows = rows[..., : q.shape[2]]
    return *_backward(g, q, k, v, mask, output, rows, is_causal, scale), None


def _flash(q, k, v, dropout=0.0, is_causal=False, debug=False, *, scale=None):
    assert dropout == 0 and not debug and q.dtype != torch.float32
    assert q.shape[-1] == v.shape[-1] <= 256
    _check(q, k, v)
    assert not is_causal or q.shape[2] == k.shape[2], "bottom right, not top left"
    output, rows = _forward(q, k, v, None, is_causal, scale)
    state = torch.empty(2, dtype=torch.uint64)
    unused = torch.empty((), dtype=torch.uint64)
    return output, rows, None, None, q.shape[2], k.shape[2], state, unused, torch.empty(0)


def _flash_backward(
    g,
    q,
    k,
    v,
    output,
    rows,
    cum_q,
    cum_k,
    max_q,
    max_k,
    dropout,
    is_causal,
    seed,
    offset,
    *,
    scale=None,
):
    assert cum_q is None and cum_k is None and (max_q, max_k) == (q.shape[2], k.shape[2])
    assert seed.dtype == torch.uint64 and dropout == 0
    _check(g, q, k, v, output)
    assert rows.shape == q.shape[:3] and rows.is_contiguous()
    return _backward(g, q, k, v, None, output, rows, is_causal, scale)


def _lstm_cell(from_input, from_hidden, cell, input_bias=None, hidden_bias=None):
    """Of PyTorch's own LSTM, which runs where cuDNN's, which has no eval mode, is switched off."""
    if torch.backends.cudnn.enabled:
        raise RuntimeError("cudnn RNN backward can only be called in training mode")
    gates = from_input + from_hidden
    if input_bias is not None:
        gates = gates + input_bias + hidden_bias
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    after = f * cell + i * g
    return o * after.tanh(), after, torch.cat([i, f, g, o], 1)


def _lstm_cell_backward(grad_hidden, grad_cell, cell, after, gates, has_bias):
    i, f, g, o = gates.chunk(4, 1)
    squashed = after.tanh()
    total = torch.zeros_like(cell) if grad_cell is None else grad_cell
    to_o = torch.zeros_like(cell)
    if grad_hidden is not None:
        total = total + grad_hidden * o * (1 - squashed * squashed)
        to_o = grad_hidden * squashed
    parts = [total * g * i * (1 - i), total * cell * f * (1 - f), total * i * (1 - g * g)]
    grads = torch.cat([*parts, to_o * o * (1 - o)], 1)
    return grads, total * f, grads.sum(0) if has_bias else None


_NAME = "aten::_scaled_dot_product_"
FUSED = {
    f"{_NAME}efficient_attention": _efficient,
    f"{_NAME}efficient_attention_backward": _efficient_backward,
    f"{_NAME}flash_attention": _flash,
    f"{_NAME}flash_attention_backward": _flash_backward,
    "aten::_thnn_fused_lstm_cell": _lstm_cell,
    "aten::_thnn_fused_lstm_cell_backward_impl": _lstm_cell_backward,
}
