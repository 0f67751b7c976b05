"""Faults in small batches that come as one, and in what is seen of random numbers."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_BUNDLES, _DRAWS = "_pool/bundles.py", "_pool/draws.py"

FAULTS = [
    Fault(
        _BUNDLES, "dropped guard",
        "return [tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors]", "return [*tensors]",
        "of a loader that writes each batch where the one before was, all samples have the last one's score",
    ),
    Fault(
        _BUNDLES, "dropped guard",
        "        found += tensor.shape, tensor.dtype, tensor.device\n", "        found += tensor.shape[1:], tensor.dtype, tensor.device\n",
        "batches of other sizes come as one, and are verified as if they had one size",
    ),
    Fault(
        _BUNDLES, "lost sample",
        "            if _kind(left[0]) != alike:\n                break\n", "            if _kind(left.pop()) != alike:\n                break\n",
        "small batches that come as one lose all samples but the first",
    ),
    Fault(
        _BUNDLES, "dropped bound",
        "while len(parts) < most and time", "while time",
        "small batches come as one without a bound on memory",
    ),
    Fault(
        _BUNDLES, "dropped bound",
        "and time.perf_counter() < end and", "and",
        "samples that are read slowly wait for hundreds of others",
    ),
    Fault(
        _DRAWS, "off by one",
        "        for _ in keys:\n            self._waiting.popleft()\n", "        for _ in keys[1:]:\n            self._waiting.popleft()\n",
        "batches after several that came as one have the indices of those before",
    ),
    Fault(
        _DRAWS, "dropped guard",
        "            return places if self._places is None else self._places[places]", "            return places",
        "of a subset, small batches have indices of the subset",
    ),
    Fault(
        "_pool/taking.py", "dropped option",
        "            each = len(batch) // count if count > 1 else draws.each\n", "            each = draws.each\n",
        "small batches that come as one are verified as one that the model was never given",
    ),
    Fault(
        "_pool/reading.py", "dropped guard",
        "return labels is None or not (labels.whole or labels.given or callable(labels.target))", "return True",
        "a loss of one's own, or one that a model takes itself, is given several batches as one",
    ),
    Fault(
        _BUNDLES, "dropped guard",
        "        if tensor.is_nested:  # it has no shape\n            return None\n", "",
        "of jagged tensors an internal error of PyTorch's is told",
    ),
    Fault(
        "_pool/failing.py", "dropped guard",
        "not (found.first and of_all)", "True",
        "what is wrong with a model is told of its first samples",
    ),
    Fault(
        "_pool/run.py", "stale index",
        "        return self._told(runs, [self._ledger.of(*run)[0] for run in runs])\n", "        return self._told(runs, [None for _ in runs])\n",
        "samples that a model fails on are told by their place in the loader's order",
    ),
    Fault(
        "_pool/gather.py", "stale index",
        "        self.at = numbers\n", "",
        "of samples that a model fails on, those are told that were added last",
    ),
    Fault(
        "_witness/samples.py", "dropped option",
        "leaf.view(_SIGNED.get(leaf.dtype, leaf.dtype))", "leaf",
        "inputs of 16 bits without a sign fail where batches have one sample",
    ),
    Fault(
        "_pool/gather.py", "off by one",
        "(self.number + error.row, self.number + error.row + 1)", "(self.number + error.row + 1, self.number + error.row + 2)",
        "a label that is out of range is told of the next sample",
    ),
    Fault(
        "_model/beside.py", "dropped guard",
        "            self._add_generators(f\"an argument of {reader}\", function.args)\n", "",
        "noise of a generator that a function is given beforehand passes where two draws are near",
    ),
    Fault(
        "_model/generators.py", "dropped part",
        "        return self._own is not None and bool(self._own.moved())", "        return False",
        "a coin of a generator that a model holds passes where two draws agree",
    ),
    Fault(
        "_model/chance.py", "a state not restored",
        "        if before is not None:\n            before.put_back()\n", "        pass\n",
        "a model's own generator is elsewhere after the model was refused",
    ),
]  # fmt: skip
