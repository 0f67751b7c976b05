"""Faults in operations: their rules and their forms under vmap."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_CONVOLUTIONS, _RULES, _NORMS = (
    "_operations/convolutions.py",
    "_operations/rules.py",
    "_operations/norms.py",
)
_EMBEDDINGS, _PRODUCTS = "_operations/embeddings.py", "_operations/products.py"

FAULTS = [
    Fault(
        _EMBEDDINGS, "dropped guard",
        "    if padding is not None and padding < 0:\n        padding += len(weight)\n", "",
        "F.embedding with padding_idx=-1: the padding row's gradient counts",
    ),
    Fault(
        _EMBEDDINGS, "dropped guard",
        'if call["scale_grad_by_freq"]:', "if False:",
        "an embedding with scale_grad_by_freq is scored without it",
    ),
    Fault(
        _EMBEDDINGS, "dropped guard",
        "padding_idx if padding_idx >= 0 else padding_idx + len(weight)", "padding_idx",
        "bags with padding_idx=-1 add up the padding rows",
    ),
    Fault(
        _EMBEDDINGS, "option that does nothing",
        "scale = scale * per_sample_weights", "scale = scale * torch.ones_like(per_sample_weights)",
        "weights of an embedding bag have no effect",
    ),
    Fault(
        _EMBEDDINGS, "wrong reduction",
        "return bags / keep.sum(1, keepdim=True).clamp_min(1)", "return bags / keep.shape[1]",
        "the mean of a bag counts its padding",
    ),
    Fault(
        _RULES, "dropped guard",
        "if joint.padding_idx is not None:", "if False:",
        "an embedding with padding_idx tied to the head counts the padding row",
    ),
    Fault(
        _RULES, "dropped factor",
        "return total + 2 * ((a[0] @ row_grads.mT) * chosen).sum()",
        "return total + ((a[0] @ row_grads.mT) * chosen).sum()",
        "an embedding tied to the head: half of the cross terms are missing",
    ),
    Fault(
        _RULES, "dropped guard",
        "parts[joint.kind].append((own, a) if exchanged else (a, own))",
        "parts[joint.kind].append((a, own))",
        "a square weight used as it is and transposed is added up the wrong way round",
    ),
    Fault(
        _RULES, "dropped guard",
        'if any(j.flipped for j in known if j.kind == "rows"):', "if False:",
        "an embedding whose rows and columns are both looked up adds the columns to rows",
    ),
    Fault(
        "_engine/coverage.py", "dropped guard",
        "table.mT if table.dim() == 2 else None", "table.mT",
        "a kernel of one dimension and its mirror image are added up as one weight and its transpose",
    ),
    Fault(
        _RULES, "dropped term",
        "of_bias = kernels.bias_sq_norm(rows(g))", "of_bias = rows(g).square().sum()",
        "biases of layers with positions are sums of squares, not squares of sums",
    ),
    Fault(
        _RULES, "dropped guard",
        "if a.shape[:2] == (1, 1) and not joint.flipped:", "if a.shape[0] == 1 and not joint.flipped:",
        "weights of layers with positions are products of two norms",
    ),
    Fault(
        _RULES, "wrong reduction",
        "outer = _cat([a for a, _ in parts[\"outer\"]]), _cat([g for _, g in parts[\"outer\"]])",
        "outer = parts[\"outer\"][-1]",
        "of a weight that is used several times only the last use counts",
    ),
    Fault(
        _RULES, "dropped term",
        ".scatter_add(0, index, row_grads).square().sum()", ".square().sum()",
        "lookups of long texts do not count for an embedding that is tied to a head",
    ),
    Fault(
        _CONVOLUTIONS, "dropped term",
        "return bare._replace(padding=padding), tuple(each % 2 for each in total)",
        "return bare._replace(padding=padding), none",
        "padding='same' with an even kernel lacks one more on the right",
    ),
    Fault(
        _CONVOLUTIONS, "dropped guard",
        "if not unbatched and len(saved[0]) > 1:  # frames", "if False:  # frames",
        "of frames that a model puts into the batch only the first counts",
    ),
    Fault(
        _CONVOLUTIONS, "dropped term",
        "more = [extra // step for extra, step in added]", "more = [0 for extra, step in added]",
        "transposed convolutions with an output padding of a stride or more fail",
    ),
    Fault(
        _CONVOLUTIONS, "swapped options",
        "return Geometry(kernel, stride, sizes(padding, dims), dilation), none",
        "return Geometry(kernel, dilation, sizes(padding, dims), stride), none",
        "strides and dilations of convolutions change places",
    ),
    Fault(
        _CONVOLUTIONS, "dropped guard",
        "    if x.dim() == dims + 1 or len(x) > 1:\n", "    if x.dim() == dims + 1:\n",
        "transposed convolutions of several frames count the first alone",
    ),
    Fault(
        _CONVOLUTIONS, "swapped axis",
        "return g.flatten(1).mT if unbatched else position_rows(g)",
        "return g.flatten(1) if unbatched else position_rows(g)",
        "biases of convolutions of unbatched inputs are summed over channels",
    ),
    Fault(
        "_operations/linear.py", "dropped guard",
        'if "bias" in tracked and call["bias"].shape != (outputs,):', "if False:",
        "a bias of one number for all outputs is counted as if it were many",
    ),
    Fault(
        _PRODUCTS, "dropped guard",
        'if call["beta"] != 1 or call["alpha"] != 1 or "mat1" in tracked:', 'if "mat1" in tracked:',
        "addmm with alpha or beta is scored without them",
    ),
    Fault(
        _PRODUCTS, "swapped axis",
        "        if not right:  # w x: the columns of x and of g are the positions\n            a, g = a.mT, g.mT\n", "",
        "products with the parameter on the left are added up along the wrong dimension",
    ),
    Fault(
        _PRODUCTS, "dropped guard",
        "    if any(sizes[c] != n for c, n in zip(w, call[slot].shape, strict=True)):\n        return None  # a dimension of 1 that is broadcast\n", "",
        "einsum with a parameter of one row for all is counted as if it were many",
    ),
    Fault(
        _PRODUCTS, "swapped axis",
        "outer = (input1.unsqueeze(-1) * input2.unsqueeze(-2)).flatten(-2)",
        "outer = (input2.unsqueeze(-1) * input1.unsqueeze(-2)).flatten(-2)",
        "bilinear layers of two inputs of one size are transposed",
    ),
    Fault(
        _NORMS, "wrong constant",
        "return function(x, shape, eps=eps)", "return function(x, shape, eps=1e-5)",
        "layer and RMS norms with an eps of their own are scored with another",
    ),
    Fault(
        _NORMS, "wrong constant",
        'normalize = partial(group_norm, num_groups=call["num_groups"], eps=call["eps"])',
        'normalize = partial(group_norm, num_groups=1, eps=call["eps"])',
        "scales of group norms are scored as those of one group",
    ),
    Fault(
        _NORMS, "wrong constant",
        '    eps = call["eps"]\n', "    eps = 1e-5\n",
        "scales of batch norms with an eps of their own are scored with another",
    ),
    Fault(
        _NORMS, "dropped guard",
        '    if not call["use_input_stats"]:\n        return _batch_norm_rule(call, tracked)\n', "",
        "instance norms with running statistics are scored by the sample's own",
    ),
    Fault(
        "_operations/fused_norms.py", "dropped factor",
        "            scale = scale if weight is None else scale * weight\n        shape = (-1,)",
        "        shape = (-1,)",
        "what is pulled back through a batch norm lacks the weight",
    ),
    Fault(
        "_operations/fused_norms.py", "wrong default",
        "return group_norm(input, input.shape[1], weight, bias, eps).to(input.dtype)",
        "return group_norm(input, 1, weight, bias, eps).to(input.dtype)",
        "instance norms are layer norms",
    ),
    Fault(
        "_operations/fused_norms.py", "wrong divisor",
        "var, mean = torch.var_mean(input, others, correction=0, keepdim=True)",
        "var, mean = torch.var_mean(input, others, keepdim=True)",
        "weights standardised by a batch norm have another scale",
    ),
    Fault(
        "_operations/others.py", "swapped axis",
        "others = [d for d in range(v.dim()) if d != dim]", "others = [d for d in range(v.dim()) if d != 0]",
        "weight norms over another dimension than the first have another scale",
    ),
    Fault(
        "_operations/others.py", "swapped axis",
        "shape = (1, -1) + (1,) * (input.dim() - 2) if weight.numel() > 1 else (1,)",
        "shape = (-1,) if weight.numel() > 1 else (1,)",
        "PReLUs of several slopes apply them along the last dimension",
    ),
    Fault(
        "_operations/others.py", "option that does nothing",
        "torch.linalg.vector_norm(difference, ord=p, dim=-1)", "torch.linalg.vector_norm(difference, dim=-1)",
        "distances by another norm than the Euclidean are Euclidean",
    ),
    Fault(
        "_operations/pooling.py", "wrong constant",
        "value=-math.inf)\n        reach", "value=0.0)\n        reach",
        "max pools with padding take the zeros of the border for values",
    ),
    Fault(
        "_operations/pooling.py", "off by one",
        "reach = x.shape[dim] - d * (k - 1)", "reach = x.shape[dim] - d * (k - 1) - 1",
        "max pools lose their last window",
    ),
    Fault(
        "_operations/pooling.py", "dropped guard",
        "    if any(size != 1 for size in sizes):\n        return None\n", "",
        "adaptive average pools to more than one value give one",
    ),
    Fault(
        "_operations/recurrent.py", "dropped term",
        "projection = flat[-1] if len(flat) in (3, 5) else None", "projection = flat[-1] if len(flat) == 5 else None",
        "LSTMs with a projection and no biases fail, or leave it out",
    ),
    Fault(
        "_operations/recurrences.py", "lost order",
        "return range(steps - 1, -1, -1) if self.backwards else range(steps)", "return range(steps)",
        "both directions of a bidirectional layer read forwards",
    ),
    Fault(
        "_operations/recurrences.py", "swapped gates",
        "i_f, i, f, g, o, cells, tanh", "i_f, i, g, f, o, cells, tanh",
        "the gates of LSTMs change places",
    ),
    Fault(
        "_operations/recurrent.py", "wrong term",
        "n = (n_x + (r_x + r_h).sigmoid() * n_h).tanh()", "n = ((r_x + r_h).sigmoid() * (n_x + n_h)).tanh()",
        "the gate of GRUs acts on the input too",
    ),
    Fault(
        "_operations/recurrences.py", "lost order",
        "torch.cat([kept, first] if self.backwards else [first, kept], dim)", "torch.cat([first, kept], dim)",
        "steps that run backwards are taken to begin with the states of those that run forwards",
    ),
    Fault(
        "_operations/recurrences.py", "state not put back",
        "slope = torch.addcmul(act, act, act, value=-1)", "slope = act.addcmul_(act, act, value=-1)",
        "a second pull-back through an LSTM is made of what the first has left",
    ),
    Fault(
        "_operations/recurrence_pulls.py", "dropped term",
        "        self._cell.mul_(self._kept[t])\n", "",
        "LSTMs forget nothing on the way back",
    ),
    Fault(
        "_operations/recurrence_pulls.py", "dropped term",
        "zeros if g_cell is None else zeros.add_(g_cell)", "zeros",
        "the last cell state has no gradient of its own",
    ),
    Fault(
        "_operations/recurrent_gates.py", "dropped guard",
        "    if not is_frozen(*weights):\n", "    if False:\n",
        "normalised weights of recurrent layers have no gradient",
    ),
    Fault(
        "_operations/recurrent_gates.py", "wrong branch",
        'own = shares[slot == "bias_hidden"]', "own = shares[0]",
        "both biases of GRUs have the gradient of the one",
    ),
    Fault(
        "_operations/recurrent_gates.py", "off by one",
        "{slot: norms[i] for i", "{slot: norms[i - 1] for i",
        "weights and biases of recurrent layers have each other's norms",
    ),
    Fault(
        "kernels/fastgradnorm_kernels/recurrent_norm.py", "dropped part",
        "enumerate(columns.gradients(g) * 2)", "enumerate(columns.gradients(g))",
        "gradients of recurrent biases that nearly cancel over the steps lose their digits",
    ),
    Fault(
        "_operations/unbatched.py", "dropped guard",
        "return tensor if _has_last(tensor) else tensor.clone()", "return tensor",
        "a copy with the channels last that is written to changes what it was copied from",
    ),
    Fault(
        "_operations/unbatched.py", "wrong branch",
        "return _written(input, given * torch.tanh(F.softplus(given)), inplace)",
        "return given * torch.tanh(F.softplus(given))",
        "an activation in place leaves its input as it was",
    ),
    Fault(
        "_operations/writing.py", "dropped guard",
        "    if not is_behind(parts):\n", "    if True:\n",
        "values written behind a slice are put in another order",
    ),
    Fault(
        "_operations/picking.py", "dropped guard",
        "        setattr(found, COPIED, True)\n", "",
        "what is written to an element that was picked by a number is lost",
    ),
]  # fmt: skip
