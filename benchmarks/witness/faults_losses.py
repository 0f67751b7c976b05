"""Faults in losses at known labels, and in products of their gradients."""

from benchmarks.witness.fault import Fault

_LOSSES, _LABELLED, _GROUPS = "_schemes/losses.py", "_schemes/labelled.py", "_schemes/groups.py"
_FORMS, _LABELS = "_operations/losses.py", "_model/labels.py"
_TARGETS, _BEYOND, _SEEN = "_schemes/targets.py", "_model/beyond.py", "_witness/labels.py"
_DIRECTED, _DOTS = "_engine/directed.py", "_directions/dots.py"
_SHARED = "the check finds labels, and gives them to a loss, in the same way"

FAULTS = [
    Fault(
        _LOSSES,
        "wrong factor",
        "return 2 * (z - target.to(z.dtype)) * counted / counted.sum().clamp_min(1)",
        "return (z - target.to(z.dtype)) * counted / counted.sum().clamp_min(1)",
        "scores by the squared error are half of what they are",
    ),
    Fault(
        _LOSSES,
        "dropped guard",
        "counted = (target != _IGNORED).to(z.dtype)[..., None]",
        "counted = torch.ones_like(z[..., :1])",
        "positions labelled -100 count as if they were of class 0",
    ),
    Fault(
        _LOSSES,
        "lost digits",
        "return torch.where(q == q.sum(-1, keepdim=True), 0.0, before + after)",
        "return q.sum(-1, keepdim=True) - q + 0 * (before + after) + 1e-9",
        "a certain label that is given as probabilities is scored by rounding",
    ),
    Fault(
        _LABELLED,
        "lost digits",
        "return loss.abs().clamp(least, 1.0).nan_to_num(1.0)",
        "return torch.ones_like(loss)",
        "squares of a confident sample's gradients underflow, and its score is 0",
    ),
    Fault(
        _FORMS,
        "lost digits",
        "if not (plain and indices and",
        "if True or not (plain and indices and",
        "the losses of PyTorch lose the digits of confident samples",
    ),
    Fault(
        _FORMS,
        "wrong factor",
        "each = q.sum(-1) * certain - (q * gap).sum(-1)",
        "each = certain - (q * gap).sum(-1)",
        "labels that do not sum to one are weighed as if they did",
        unseen="the check runs losses in the same form",
    ),
    Fault(
        "_directions/metric.py",
        "dropped guard",
        'return (moments - _wide(state["grad_avg"]).square()).clamp_min(0)',
        "return moments",
        "the metric of a centred RMSprop is that of a plain one",
    ),
    Fault(
        "_directions/states.py",
        "dropped guard",
        "        if isinstance(state, Mapping):\n            load_state(model, state, name)\n",
        "        if isinstance(state, Mapping):\n            pass\n",
        "a state that does not fit is told after the passes of those before it",
    ),
    Fault(
        _DOTS,
        "dropped guard",
        "if other is not value and not torch.equal(other, value):",
        "if False and not torch.equal(other, value):",
        "of two values for a shared parameter the first is taken in silence",
    ),
    Fault(
        _GROUPS,
        "swapped",
        "index = [place[self._of[name]] for name in names]",
        "index = [place[self._of[name]] for name in reversed(names)]",
        "squares stand under the name of another group",
    ),
    Fault(
        _LABELS,
        "dropped guard",
        "without = {k: v for k, v in inputs.items() if k not in _KEYS and k != target}",
        "without = {k: v for k, v in inputs.items() if k not in _KEYS}",
        "a model is given its labels once more, by the name that the batch has them under",
    ),
    Fault(
        _TARGETS,
        "dropped guard",
        "moved = logits.movedim(class_dim, 1)",
        "moved = logits",
        "a loss of PyTorch reads positions for classes where there are as many",
        unseen=_SHARED,
    ),
    Fault(
        _TARGETS,
        "swapped",
        "if isinstance(raw, (tuple, list)) and len(raw) == 2:",
        "if isinstance(raw, (tuple, list)) and len(raw) > 1:",
        "the mask of three things is taken for the labels",
        unseen=_SHARED,
    ),
    Fault(
        _BEYOND,
        "wrong factor",
        "return source.shape[min(1, source.dim() - 1)]",
        "return max(source.shape)",
        "a label out of range is told to be beyond a map's longest side, or not told at all",
        unseen="it is about what is refused",
    ),
    Fault(
        _SEEN,
        "dropped guard",
        "return [*_sums(batch.target, class_dim), *_inputs(batch.target, batch)]",
        "return [*_inputs(batch.target, batch)]",
        "several labels a sample are scored as one, and nothing is said",
    ),
    Fault(
        "_engine/linear_taps.py",
        "counted twice",
        "plain = {joint.slot: self._values[name]}",
        "plain = {joint.slot: call[joint.slot]}",
        "products and sketches count a layer's weight twice",
    ),
    Fault(
        "_engine/sketched.py",
        "dropped guard",
        "if name in read_once and normed:",
        "if False and normed:",
        "norms beside sketches square each use of a weight that some samples use twice",
    ),
    Fault(
        _DIRECTED,
        "dropped guard",
        "g = torch.where((ids.reshape(-1) == padding)[:, None], 0.0, g)",
        "g = g.clone()",
        "products count the padding's row of an embedding",
    ),
    Fault(
        _DIRECTED,
        "swapped",
        "left, right = (a, g) if flipped else (g, a)",
        "left, right = g, a",
        "products of weights that stand the other way round are of other numbers",
    ),
    Fault(
        "_engine/forward.py",
        "dropped guard",
        "rows.detach(), rows)",
        "rows, rows)",
        "products with one direction count the padding's row of an embedding",
    ),
    Fault(
        "_engine/forward.py",
        "dropped guard",
        "if not torch.is_grad_enabled() and any(",
        "if False and any(",
        "products with one direction look through the model's own `no_grad`",
    ),
    Fault(
        "_engine/vectors.py",
        "swapped",
        "order = [list(self._parts).index(q) if q in self._parts else -1 for q in range(count)]",
        "order = [q if q < len(self._parts) else -1 for q in range(count)]",
        "products with directions that name other parameters are those of their neighbours",
    ),
    Fault(
        "_directions/metric.py",
        "dropped guard",
        'correction = 1 - float(group["betas"][1]) ** float(steps)',
        "correction = 1.0",
        "Adam's metric is that of a young optimizer",
    ),
    Fault(
        "_directions/means.py",
        "summed",
        "made = {name: (total / count)",
        "made = {name: (total / 1)",
        "the mean gradient is a sum",
    ),
]
