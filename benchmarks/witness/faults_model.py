"""Faults in how the caller's model and batches are read and watched."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_BATCHES, _SUBJECT, _WATCH = "_model/batches.py", "_model/subject.py", "_model/watch.py"

FAULTS = [
    Fault(
        _BATCHES, "lost order",
        "attention_mask=None if self.attention_mask is None else self.attention_mask[index],",
        "attention_mask=self.attention_mask,",
        "samples of a split batch get the attention mask of others",
    ),
    Fault(
        _BATCHES, "lost order",
        "mask=None if self.mask is None else self.mask[index],", "mask=self.mask,",
        "samples of a split batch get the mask of others",
    ),
    Fault(
        "_model/raw.py", "dropped name",
        '_LABELS = ("labels", "label")', '_LABELS = ("labels",)',
        "a label column called `label` is passed to the model",
    ),
    Fault(
        _BATCHES, "dropped guard",
        "        if name in self._per_sample or length == size:\n", "        if False:\n",
        "a constant as long as a batch counts as one entry a sample in some batches and not in others",
    ),
    Fault(
        _BATCHES, "dropped guard",
        "            if not positions or list(self.mask.shape[1:]) != positions:\n", "            if False:\n",
        "a mask for other positions than the logits' is taken, or fails somewhere inside",
    ),
    Fault(
        "_model/branches.py", "dropped guard",
        "            raise DivergentControlFlowError(rows)\n        value = func", "            pass\n        value = func",
        "all samples of a batch take the first one's branch",
    ),
    Fault(
        "_model/branches.py", "wrong unit",
        'if reading in ("__bool__", "is_nonzero"):\n        rows = rows.bool()',
        'if reading in ("__bool__", "is_nonzero"):\n        rows = rows',
        "samples whose value is true are split by that value, down to one by one",
    ),
    Fault(
        "_model/chance.py", "wrong constant",
        "range(_RUNS if drew else 1)", "range(1)",
        "a model that draws a coin passes for one that gives the same logits each time",
    ),
    Fault(
        "_model/chance.py", "dropped guard",
        "    if any(_differ(runs[0], other, step) for other in runs[1:]):\n", "    if False:\n",
        "dropout in eval mode is scored as if it were none",
    ),
    Fault(
        "_model/shadow.py", "dropped guard",
        '        found.shared["training"] = False\n', '        found.shared["training"] = module.training\n',
        "a model in training mode is scored with dropout and batch statistics, or refused",
    ),
    Fault(
        "_model/shadow.py", "stale cache",
        "                    del copy[key]  # a cache filled by an earlier call, to be filled anew\n",
        "                    pass\n",
        "a cache that an earlier call filled is used with its old gradient",
    ),
    Fault(
        "_model/shadow.py", "shared state",
        "        if kind in (list, tuple, set):\n            return kind(self.value(v, depth) for v in value)\n", "",
        "what a model appends to a list of its own stays there after scoring",
    ),
    Fault(
        "_model/buffers.py", "buffer not kept",
        "        if key in self._changing or small or usable.is_cuda or not works():\n            return usable.clone()\n",
        "        if key in self._changing or small or usable.is_cuda or not works():\n            return usable\n",
        "a model that writes to its buffers writes to the caller's",
    ),
    Fault(
        "_model/buffers.py", "buffer not restored",
        "                    self._usable[key].copy_(kept)\n", "                    pass\n",
        "a buffer that the model changed past the module tree keeps what scoring wrote",
    ),
    Fault(
        "_model/buffers.py", "shared state",
        "        return usable.clone() if key in self._changing else known\n", "        return known\n",
        "a model that writes to a large buffer sees what the samples before wrote",
    ),
    Fault(
        "_model/returned.py", "option that does nothing",
        "logits if class_dim in (-1, logits.dim() - 1) else logits.movedim(class_dim, -1)",
        "logits.movedim(1, -1)",
        "class_dim has no effect: scores over the wrong dimension",
    ),
    Fault(
        _SUBJECT, "option that does nothing",
        "return torch.autocast(self.device.type, dtype=self.options.autocast)",
        "return torch.autocast(self.device.type, dtype=torch.bfloat16)",
        "autocast=float16 computes in bfloat16",
    ),
    Fault(
        _SUBJECT, "option that does nothing",
        "        if self.options.autocast is None:\n", "        if True:\n",
        "autocast has no effect",
    ),
    Fault(
        _SUBJECT, "wrong unit",
        "return scored if temperature == 1 else scored / temperature", "return scored if temperature == 1 else scored * temperature",
        "temperature multiplies",
    ),
    Fault(
        _SUBJECT, "option that does nothing",
        "chosen = {k: p for k, p in trainable.items() if options.params(k, p)}",
        "chosen = {k: p for k, p in trainable.items() if options.params(k, p) or True}",
        "a function for params has no effect",
    ),
    Fault(
        _SUBJECT, "frozen counts",
        "trainable = {k: p for k, p in self.parameters.items() if p.requires_grad}",
        "trainable = {k: p for k, p in self.parameters.items() if p.is_floating_point()}",
        "frozen parameters count",
    ),
    Fault(
        "_model/returned.py", "wrong output",
        'next((output[key] for key in ("logits", "out") if key in output), output)',
        "next(iter(output.values()), output)",
        "of a mapping of outputs the first is scored, whatever it is called",
    ),
    Fault(
        "_model/standins.py", "dropped branch",
        'if not held or (name == "requires_grad_" and not own):', "if not held:",
        "derivatives that a model takes by its own parameters are zero",
    ),
    Fault(
        "_model/derivatives.py", "dropped guard",
        "_is_tracing() and is_transforming()", "not is_transforming()",
        "values of `torch.func.linearize` in a model are anybody's with verify=False",
    ),
    Fault(
        "_model/modes.py", "dropped branch",
        "if not any(map(_overrides, modules)):", "if True:",
        "dropout that a model keeps on in eval mode is scored as if it was off",
    ),
    Fault(
        "_model/changes.py", "dropped guard",
        "is not parameter or _place(parameter) != place:", "is not parameter:",
        "parameters whose memory is another one while a pool is scored are ignored in silence",
    ),
    Fault(
        "_model/beside.py", "dropped branch",
        "elif isinstance(value, (Mapping, list, tuple)):", "elif isinstance(value, tuple):",
        "settings in mappings that change while a pool is scored are ignored in silence",
    ),
    Fault(
        "_model/beside.py", "dropped branch",
        "for name, cell in cells.items():", "for name, cell in ():",
        "closures that change while a pool is scored are ignored in silence",
    ),
    Fault(
        "_model/plain_values.py", "dropped guard",
        "if before is None and isinstance", "if before is None or isinstance",
        "a setting that was nothing, or becomes a number, is ignored in silence",
    ),
    Fault(
        "_model/marks.py", "dropped branch",
        "if type(tensor) is Tensor:", "if False:",
        "a weight that is tied in `forward` is refused in PyTorch's words",
    ),
    Fault(
        "_model/sameness.py", "dropped guard",
        "place, writes(tensor), tensor", "place, tensor",
        "a model that was trained between two calls of score_batch is not verified anew",
    ),
    Fault(
        "_model/sameness.py", "dropped guard",
        "    yield (name, type(value), len(value)), None\n", "    return\n",
        "a hook that was added between two calls of score_batch leads to no verification",
    ),
    Fault(
        "_pool/single.py", "dropped guard",
        "last = last if last.appearance.is_of(model) else None", "pass",
        "score_batch verifies the first call alone, whatever becomes of the model",
    ),
    Fault(
        "_pool/single.py", "dropped guard",
        "kept.snapshot.holds() and ", "",
        "score_batch replays traces, whatever becomes of what the model reads",
    ),
    Fault(
        "_model/snapshot.py", "lost in one branch",
        "            yield from self._name(names, name, read)\n", "            pass\n",
        "score_batch replays traces of other numbers of the module that the model is written in",
    ),
    Fault(
        "_pool/single.py", "stale state",
        "        return Calls, ()", "        return Calls, (), self.__dict__",
        "copies of a scorer take what another process verified for their own",
    ),
    Fault(
        "_model/record.py", "lost in one branch",
        "self.nested.update(piece.name for piece in pieces)", "self.nested.update(())",
        "layers that a model differentiates by jvp are refused as used differently each time",
    ),
    Fault(
        "_model/lineage.py", "dropped guard",
        "if self._state(head) in (_State.OTHER, _State.BEYOND):", "if self._state(head) is _State.OTHER:",
        "last layers: where another one follows for some samples, the first one's gradient counts",
    ),
    Fault(
        "_model/lineage.py", "dropped guard",
        "if self._state(head) in (_State.OTHER, _State.BEYOND):", "if self._state(head) is _State.BEYOND:",
        "last layers: of two that are run, features are those of the one that is not returned",
    ),
    Fault(
        "_model/views.py", "stale key",
        'base = f"{name}{tuple(args[1:])}{dict(kwargs) or \'\'}"', "base = name",
        "two different slices of a parameter are taken for one that is used twice",
    ),
    Fault(
        "_model/views.py", "wrong order",
        'f"{base}[{i}]" if several else base', "base",
        "the chunks of a packed projection are taken for one piece that is used several times",
    ),
    Fault(
        _WATCH, "dropped guard",
        '        if takes_statistics(func, call) and _is_batched(call["input"]):\n', "        if False:\n",
        "a batch norm without running statistics is scored as if samples were alone",
    ),
    Fault(
        _WATCH, "dropped guard",
        '        if func is F.embedding and call["max_norm"] is not None:\n', "        if False:\n",
        "an embedding with max_norm changes the caller's weight, or is scored with another",
    ),
    Fault(
        "_model/record.py", "stale plan",
        "return use, exact and use is not None and not self._changed[id(use)]()",
        "return use, exact and use is not None",
        "with params='last_layer', logits that are changed in place after the last layer are planned as its own",
    ),
    Fault(
        "_model/record.py", "wrong set",
        "exact and name in _SAME_VALUES and _same_values(earlier, output)",
        "exact and name in _SAME_VALUES",
        "with params='last_layer', logits in another order are planned as the layer's own",
    ),
    Fault(
        "_model/standins.py", "dropped guard",
        "            if name in self._holdings.trainable or not whole:\n", "            if not whole:\n",
        "a model that changes a trainable parameter while it runs is scored with it changed",
    ),
    Fault(
        "_model/standins.py", "dropped guard",
        '        if attribute == "requires_grad" and name is not None:\n            if not value:\n                self._freeze(target)\n',
        '        if attribute == "requires_grad" and name is not None:\n            if not value:\n                pass\n',
        "a parameter that a model freezes while it runs counts",
    ),
    Fault(
        "_model/handed.py", "dropped tap",
        '"resolve_conj", "resolve_neg", "to", "to_dense", "type", "type_as", "xpu",',
        '"resolve_conj", "resolve_neg", "to_dense", "type", "xpu",',
        "a parameter cast to the dtype it has is refused, or counted by its slowest form",
    ),
    Fault(
        "_model/handed.py", "dropped guard",
        "    if any(t.requires_grad and id(t) not in back for t in tensors_in([made], {})):\n        return None\n", "",
        "a use of a parameter that the plan does not know has no gradient",
    ),
    Fault(
        "_model/layout.py", "dropped guard",
        'if name == "as_strided" and not in_memory(args[0]).is_contiguous():', "if False:",
        "as_strided of a convolution's output reads other numbers",
    ),
    Fault(
        "_model/layout.py", "dropped guard",
        "if args and hasattr(args[0], COPIED) and may_be_in_place(name, args, kwargs):",
        "if False:",
        "a change in place of what would have been a view is lost",
    ),
    Fault(
        "_model/substitution.py", "dropped guard",
        "if func in _MISREAD and out.requires_grad:", "if False:",
        "the referee's gradients of instance norms are PyTorch's wrong ones for some layouts",
    ),
]  # fmt: skip
