"""Faults of verification itself."""

from benchmarks.witness.fault import Fault

_GRADIENTS, _LOGITS = "_witness/gradients.py", "_witness/logits.py"

FAULTS = [
    Fault(
        _GRADIENTS,
        "wrong unit",
        "_NOISE, _NOISE_HALF = 1e-2, 1e-1",
        "_NOISE, _NOISE_HALF = 1.0, 1.0",
        "no wrong rule is seen of a parameter whose norm is below 0.5 % of the whole gradient",
    ),
    Fault(
        _GRADIENTS,
        "dropped guard",
        "missing = (actual == 0) & (difference > self._limits.rounding)",
        "missing = (actual == 0) & (difference < 0)",
        "a parameter that is left out is excused as rounding, where float64 has it",
    ),
    Fault(
        _GRADIENTS,
        "dropped guard",
        "return precise and (relative <= self._limits.double or moves())",
        "return precise",
        "what is wrong in float32 alone is excused, however large",
    ),
    Fault(
        "_witness/rounding.py",
        "wrong tolerance",
        "torch.float32: Tolerance(1e-4, 5e-3)",
        "torch.float32: Tolerance(5e-2, 5e-2)",
        "scores that are off by 4 % pass",
    ),
    Fault(
        "_witness/samples.py",
        "off by one",
        "return [first, self._random.randrange(first + 1, samples)]",
        "return [first]",
        "gradients of one sample alone are compared, for which wrong rules of batches are right",
    ),
    Fault(
        "_witness/samples.py",
        "wrong sign",
        "new = way not in self._known",
        "new = way in self._known",
        "a further way in which the model uses its parameters is not looked at",
    ),
    Fault(
        "_witness/witness.py",
        "dropped guard",
        "return turn or (self._single is not None and len(batch) > 0)",
        "return turn",
        "where the first batch has one sample, none is verified together with another",
    ),
    Fault(
        _LOGITS,
        "wrong tolerance",
        "if difference <= _rounding(engine, own):",
        "if difference <= 1.0:",
        "models that mix their samples are scored without a word",
    ),
    Fault(
        _LOGITS,
        "dropped guard",
        "if (precise and difference <= _LARGE) or (",
        "if precise or (",
        "logits of another model pass, if float64 has the right ones",
    ),
    Fault(
        "_witness/own_call.py",
        "state not put back",
        "module.training = id(module) in training",
        "pass",
        "verification runs a model in training mode, as training left it",
    ),
    Fault(
        "_witness/own_call.py",
        "a buffer not restored",
        "held[name] = copies[id(value)][1]",
        "pass",
        "the model's own call writes to the caller's buffers",
    ),
    Fault(
        "_witness/formulas.py",
        "wrong sign",
        "return -p * (gap - (p * gap).sum(-1, keepdim=True))",
        "return -p * (gap + (p * gap).sum(-1, keepdim=True))",
        "right entropy scores are called wrong",
    ),
    Fault(
        "_model/held.py",
        "state not put back",
        "    if depth:\n",
        "    if depth > 9:\n",
        "what a model keeps in lists within its dictionaries stays there after verification",
    ),
    Fault(
        "_schemes/scored.py",
        "lost order",
        "None if self.logits is None else self.logits[index],",
        "self.logits,",
        "verification compares a sample's logits with those of another",
    ),
    Fault(
        "_naive.py",
        "dropped guard",
        "placement.add(None if draws is None else draws.next(len(batch)), len(batch))",
        "placement.add(None, len(batch))",
        "the plain loop gives scores in another order than the dataset's, in silence",
    ),
    Fault(
        "_witness/gradients.py",
        "dropped guard",
        "return torch.where(counts, norms, 0.0)",
        "return norms",
        "verification fails for samples whose last layer comes after that of others",
    ),
    Fault(
        "_witness/own_call.py",
        "dropped guard",
        "                    self.carried = kept\n",
        "                    pass\n",
        "a model that goes on from call to call is scored as if it did not, in silence",
    ),
    Fault(
        "_model/held.py",
        "dropped guard",
        "                    not _alike(inner, contents)\n",
        "                    False\n",
        "a model that goes on from call to call by a list is scored as if it did not, in silence",
    ),
]
