"""Faults in what is kept of a model from call to call: what it can reach, and when it is let go."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_SNAPSHOT, _SINGLE = "_model/snapshot.py", "_pool/single.py"

FAULTS = [
    Fault(
        _SNAPSHOT, "dropped guard",
        "            self._around == _around()\n            and not", "            not",
        "score_batch goes on with an engine that was made under another autocast",
    ),
    Fault(
        _SNAPSHOT, "dropped guard",
        "            and not any(self._empty)\n", "",
        "what is put into a list or mapping of the model that was empty goes unseen by score_batch",
    ),
    Fault(
        _SNAPSHOT, "dropped guard",
        "            and all(_state(tensor) == state for tensor, state in self._tensors)\n", "",
        "a buffer that is frozen or written between two calls of score_batch goes unseen",
    ),
    Fault(
        _SNAPSHOT, "dropped guard",
        "            and all(are(now(), held) for now, held in self._held)\n", "",
        "lists and slots that are changed between two calls of score_batch go unseen",
    ),
    Fault(
        _SNAPSHOT, "dropped guard",
        "            and self._attributes.hold()\n", "",
        "attributes that are changed between two calls of score_batch go unseen",
    ),
    Fault(
        _SNAPSHOT, "dropped guard",
        "            and self._mappings.hold()\n", "",
        "settings in a mapping of the model that are changed between two calls of score_batch go unseen",
    ),
    Fault(
        "_model/glance.py", "dropped part",
        "            and are([*chain.from_iterable(map(dict.values, here))], self._values)\n", "",
        "attributes that are changed between two calls of score_batch go unseen",
    ),
    Fault(
        "_model/glance.py", "dropped part",
        "            and are([*chain.from_iterable(map(dict.keys, here))], self._keys)\n", "",
        "what a mapping of the model holds by other names between two calls of score_batch goes unseen",
    ),
    Fault(
        _SNAPSHOT, "dropped part",
        "found = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.requires_grad",
        "found = tensor.data_ptr(), tensor.shape, tensor.stride()",
        "a parameter that is frozen between two calls of score_batch counts in the second one",
    ),
    Fault(
        _SNAPSHOT, "dropped part",
        "return *found, tensor.dtype, writes(tensor)", "return *found, tensor.dtype",
        "parameters that are trained between two calls of score_batch go unseen",
    ),
    Fault(
        _SNAPSHOT, "dropped part",
        "            and all(map(operator.is_, map(type, self._objects), self._kinds))\n", "",
        "a part of the model that is given another class between two calls of score_batch goes unseen",
    ),
    Fault(
        _SNAPSHOT, "dropped part",
        "found += [prefix * hidden + name for", "found += [name for",
        "slots whose names begin with two underscores go unseen by score_batch",
    ),
    Fault(
        _SNAPSHOT, "dropped part",
        "yield from (value.func, value.args, value.keywords)", "yield from (value.func, value.args)",
        "keywords of a partial function that are changed between two calls of score_batch go unseen",
    ),
    Fault(
        _SNAPSHOT, "dropped part",
        "        yield from self._list(lambda: [_content(cell) for cell in cells])\n", "",
        "what a function closes over may be another between two calls of score_batch, unseen",
    ),
    Fault(
        _SNAPSHOT, "dropped part",
        "return [function.__code__, function.__defaults__, function.__kwdefaults__]",
        "return [function.__code__, function.__kwdefaults__]",
        "another default of a function that the model calls goes unseen by score_batch",
    ),
    Fault(
        _SNAPSHOT, "dropped part",
        "return [function.__code__, function.__defaults__, function.__kwdefaults__]",
        "return [function.__code__, function.__defaults__, None]",
        "another default of a keyword of a function that the model calls goes unseen by score_batch",
    ),
    Fault(
        _SNAPSHOT, "dropped guard",
        "            raise NoSnapshotError(f\"a {kind.__name__} has memory of its own\")\n", "            pass\n",
        "a model that draws numbers of a generator that it holds is replayed by score_batch with old ones",
    ),
    Fault(
        _SNAPSHOT, "dropped branch",
        "            yield from (value.fget, value.fset, value.fdel)\n", "            yield from ()\n",
        "what a property of the model reads goes unseen by score_batch",
    ),
    Fault(
        _SNAPSHOT, "dropped branch",
        "            yield value.__func__\n", "            yield from ()\n",
        "what a static method of the model reads goes unseen by score_batch",
    ),
    Fault(
        _SNAPSHOT, "dropped branch",
        "            yield from self._list(lambda: [value()])\n", "            yield from ()\n",
        "what the model holds by a weak reference goes unseen by score_batch",
    ),
    Fault(
        _SNAPSHOT, "dropped branch",
        "isinstance(value.__self__, types.ModuleType) else (value.__self__,)",
        "isinstance(value.__self__, types.ModuleType) else ()",
        "a list whose method the model holds may be another between two calls of score_batch, unseen",
    ),
    Fault(
        _SNAPSHOT, "dropped branch",
        "            self._list(lambda: [*vars(value).values()])\n", "            pass\n",
        "a name of another of the caller's files that the model reads goes unseen by score_batch",
    ),
    Fault(
        _SINGLE, "dropped guard",
        "snapshot.holds() and kept.engine.subject.follows() else None", "snapshot.holds() else None",
        "score_batch replays passes over copies of what is written elsewhere",
    ),
    Fault(
        _SINGLE, "dropped guard",
        "if kept is None or kept.engine.chunks.halved:", "if kept is None:",
        "once memory was short in one call of score_batch, all later ones run in smaller chunks",
    ),
    Fault(
        _SINGLE, "never kept",
        "return _Kept(engine, snapshot) if engine.subject.follows() else None", "return None",
        "score_batch plans anew in each call",
    ),
    Fault(
        "_engine/traces.py", "dropped guard",
        "repays and _tracing.acquire(blocking=False)", "repays and (_tracing.acquire(blocking=False) or True)",
        "of two threads that trace at once one fails, or leaves PyTorch's modules changed",
    ),
    Fault(
        "_engine/traced.py", "dropped guard",
        "    if threading.current_thread() is threading.main_thread():\n        return True\n    mended", "    mended",
        "with an older PyTorch that finds no GPU, nothing is replayed",
    ),
    Fault(
        "_engine/traces.py", "dropped guard",
        "if repays and not is_safe_here():", "if False:",
        "with an older PyTorch that finds no GPU, the process ends where threads score one after another",
    ),
    Fault(
        "_model/beside_classes.py", "dropped guard",
        "return dict.fromkeys([*own, *told])", "return dict.fromkeys(own)",
        "what an object is set to while a pool is scored goes unseen where its class said it until then",
    ),
    Fault(
        "_model/beside.py", "dropped guard",
        "            if name in self._names and is_in_base(kind, name):\n", "            if False:\n",
        "a method that a model's class gets while a pool is scored, and had of a base, goes unseen",
    ),
]  # fmt: skip
