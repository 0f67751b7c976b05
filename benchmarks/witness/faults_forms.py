"""Faults in modules beside the model, losses that read classes, and other forms of known kinds."""

from benchmarks.witness.fault import Fault

FAULTS = [
    Fault(
        "_model/handed.py", "dropped branch",
        "    return _cast_beside(func, args, kwargs, tensors, of_model)\n", "    return None\n",
        "a frozen teacher that a loss casts is left with dead wrappers for buffers",
    ),
    Fault(
        "_model/standins.py", "dropped guard",
        " and not isinstance(target, nn.Parameter):", ":",
        "a teacher that a loss casts is cast for good, or ends the process",
    ),
    Fault(
        "_witness/meaning.py", "dropped branch",
        "return self._reads_classes or not self._are_values", "return not self._are_values",
        "nn.CrossEntropyLoss of [N, T, C] with as many positions as classes is not told",
    ),
    Fault(
        "_witness/meaning.py", "dropped branch",
        "        if self._reads_classes:\n            return dense\n", "",
        "probabilities that go into nn.CrossEntropyLoss, as in training, are warned of",
    ),
]  # fmt: skip
