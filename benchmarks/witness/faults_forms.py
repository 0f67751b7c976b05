"""Faults in modules beside the model, losses that read classes, and other forms of known kinds."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_SNAPSHOT = "_model/snapshot.py"

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
    Fault(
        _SNAPSHOT, "dropped branch",
        "        yield type(kind)\n", "",
        "score_batch replays traces of what a class of classes said before",
    ),
    Fault(
        _SNAPSHOT, "dropped guard",
        "if read & _ELSEWHERE or loaded", "if loaded",
        "score_batch replays traces of what the environment or a file said before",
    ),
    Fault(
        _SNAPSHOT, "lost in one branch",
        "if read & _ELSEWHERE or loaded & _BUILTINS - names.keys():", "if read & _ELSEWHERE:",
        "score_batch replays traces of what an opened file said before",
    ),
    Fault(
        _SNAPSHOT, "over-eager guard",
        "or loaded & _BUILTINS - names.keys():", "or read & _BUILTINS:",
        "score_batch replays no traces of a model that calls eval() of a module while it runs",
    ),
    Fault(
        _SNAPSHOT, "dropped branch",
        "                if each in sys.modules:", "                if False:",
        "score_batch replays traces of what a module said that forward imports",
    ),
    Fault(
        _SNAPSHOT,
        "dropped branch",
        "            if stays:\n                self._named",
        "            if not stays:\n                self._named",
        "score_batch replays traces of a function of torch that was replaced",
    ),
    Fault(
        _SNAPSHOT, "dropped step",
        "        self._list(lambda: [*vars(F).values()])", "        pass",
        "score_batch replays traces of a function of torch.nn.functional that was replaced",
    ),
    Fault(
        _SNAPSHOT, "forgotten in one branch",
        "    return default, cast, switches, ", "    return default, cast, ",
        "score_batch replays traces of before deterministic mode was set",
    ),
    Fault(
        "_model/marks.py", "dropped step",
        "        vars(tensor).update(vars(original))\n", "        pass\n",
        "models that read attributes of parameters or buffers fail with an AttributeError",
    ),
    Fault(
        "_model/marks.py", "dropped branch",
        "kind if plain and issubclass(kind, nn.Parameter) else nn.Parameter", "nn.Parameter",
        "models that call methods of a class of parameters fail with an AttributeError of theirs",
    ),
    Fault(
        "_model/subject.py", "dropped step",
        "            as_parameter(tensors[id(p)], p)\n", "            pass\n",
        "models that assign a parameter, or read its attributes, fail",
    ),
    Fault(
        "_witness/own_call.py", "dropped step",
        "(value, marked(value.detach().clone(), value))", "(value, value.detach().clone())",
        "verification fails on models that read attributes of buffers",
    ),
    Fault(
        "_operations/conjugates.py", "lost sign",
        "    return torch.complex(input.real, -input.imag)\n", "    return torch.complex(input.real, input.imag)\n",
        "complex conjugates are the numbers themselves",
    ),
    Fault(
        "_operations/conjugates.py", "dropped step",
        "found.transpose(-2, -1)", "found",
        "adjoints of complex matrices are not transposed",
    ),
    Fault(
        "_operations/conjugates.py", "lost argument",
        "(left * y).sum(dim)", "(left * y).sum(-1)",
        "torch.linalg.vecdot sums over the last dimension, whatever is asked for",
    ),
    Fault(
        "_model/watch.py", "dropped guard",
        'name == "__get__" and operation.opened is None and self', 'name == "__get__" and self',
        "models that take the adjoint of a complex matrix are scored one by one, with a warning",
    ),
    Fault(
        "_witness/witness.py", "dropped call",
        "        self.meaning.findings.add(cut_off(own.cut_off))\n", "",
        "a checkpointed block that training leaves out is not told",
    ),
    Fault(
        "_witness/noting.py", "dropped guard",
        "        if self._memory:  # copies", "        if True:  # copies",
        "a checkpointed block is told to be left out by training, where a copy is called",
    ),
    Fault(
        "kernels/fastgradnorm_kernels/checkpoints.py", "dropped guard",
        "    if not _has_gradient(args) and _has_gradient(made):", "    if not _has_gradient(args):",
        "a frozen block is told to be left out by training",
    ),
    Fault(
        "kernels/fastgradnorm_kernels/checkpoints.py", "swapped",
        "    if not _has_gradient(args) and _has_gradient(made):", "    if _has_gradient(made):",
        "every checkpointed block is told to be left out by training",
    ),
    Fault(
        "_engine/plan.py", "dropped branch",
        "output = None if output.is_nested else torch", "output = torch",
        "models that make nested tensors fail with an AttributeError of PyTorch's",
    ),
    Fault(
        "_directions/dots.py", "forgotten case",
        "_names((wrapped, model), parameters)", "_names((model,), parameters)",
        "directions by the names of a data-parallel or compiled wrapper are refused",
    ),
    Fault(
        "_model/subject.py", "dropped step",
        "moved.detach().clone() if moved", "moved.clone() if moved",
        "models made under inference_mode are refused where `params` leaves out a trainable parameter",
    ),
    Fault(
        "_model/generators.py", "dropped step",
        "with unwatched(), outside():", "with unwatched():",
        "score_batch fails on a model that holds a generator, in PyTorch's words",
    ),
    Fault(
        "_engine/together.py", "dropped step",
        "        if not mode.found or seen.settled:\n            break\n        seen.add(mode.found)\n",
        "        seen.add(mode.found)\n        break\n",
        "the bits of a batch depend on those that came before it",
    ),
    Fault(
        "_engine/together.py", "lost in one branch",
        "            if not laid_out:\n", "            if True:\n",
        "models that count on how images lie in memory lose the plain pass",
    ),
    Fault(
        "_witness/witness.py", "dropped guard",
        "allow_together(agreed and self._disturbed.stay(look.batch))", "allow_together(agreed)",
        "one sample that is far from the others changes the last layer's scores of its whole batch",
    ),
    Fault(
        "_engine/passes.py", "dropped guard",
        "if found is None or not self._agrees(seen, batch, Head(*found)):", "if found is None:",
        "a model that mixes samples in longer or larger batches alone gets their scores wrong",
    ),
    Fault(
        "_engine/passes.py", "option forgotten in one branch",
        "self.logits(batch.take(ends), None) * self.subject.options.temperature",
        "self.logits(batch.take(ends), None)",
        "with a temperature no last layer is scored by one plain pass of many samples",
    ),
    Fault(
        "_engine/head_input.py", "dropped guard",
        "        if not self.linked:  # the model's own no_grad: nothing counts\n            return self.run(func, args, kwargs)\n", "",
        "models that look at their logits under no_grad before they make them cannot be scored",
    ),
    Fault(
        "_engine/head_input.py", "dropped guard",
        "return untapped(self, self.harmless, func, tensors, args, kwargs, linked=self.linked)",
        "return self.run(func, args, kwargs)",
        "samples that use the last layer's weight for something else too are scored as if not",
    ),
    Fault(
        "_engine/together.py", "dropped guard",
        "        if type(value) in (list, tuple):\n            yield from map(id, value)\n", "",
        "likewise of batches that put it into a list",
    ),
    Fault(
        "_operations/ctc.py", "factor lost",
        "return g[:, None] * slopes, None", "return slopes, None",
        "scores of a loss that is made of a sequence's, such as a part of it, are that of the sequence's",
    ),
    Fault(
        "_model/record.py", "lost in one branch",
        "added = (*use.added, *self.pieces.among(beside))", "added = use.added",
        "a last layer that is written out is scored without its bias",
    ),
    Fault(
        "_witness/disturbed.py", "dropped step",
        "            if found is not None:\n                return found\n", "",
        "likewise where numbers far beyond those of the first batch alone change the others",
    ),
    Fault(
        "_witness/disturbed.py", "lost in one branch",
        "        if len(beyond) > 1 and ", "        if len(beyond) > 9 and ",
        "likewise of a model that is given places in a table too",
    ),
    Fault(
        _SNAPSHOT, "dropped guard",
        "of_module = name in loaded ", "of_module = True ",
        "score_batch plans anew where a name of the script is called as an attribute is",
    ),
    Fault(
        "_operations/activations.py", "wrong sign",
        "        return g * slope, None\n", "        return g * slope.abs(), None\n",
        "GELU, SiLU and Mish have no slope below zero where several cotangents are pulled back",
    ),
    Fault(
        "_operations/activations.py", "dropped guard",
        'any((named.get("inplace"), *args[place : place + 1]))', "False",
        "an activation in place changes a copy, and what else reads its input sees the old values",
    ),
    Fault(
        "_operations/activations.py", "dropped guard",
        " or not is_differentiated(input):", ":",
        "an activation within the model's own derivative ends the pass",
    ),
    Fault(
        "_operations/activations.py", "dropped guard",
        "input.dtype in _NARROW and function in _ROUNDED", "False",
        "SELU's slope is rounded alike in all layers of a model in bfloat16, by 5 % after 24 of them",
    ),
    Fault(
        "_model/own_levels.py", "wrong constant",
        "current_level() or 0", "2",
        "models with a derivative of a convolution in them fail in batches of one, and with `rtol`",
    ),
]  # fmt: skip
