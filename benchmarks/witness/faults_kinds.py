"""Faults in what all models of a kind share: hooks of some samples, loops of single samples."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_SOME = "verification looks at samples that have no hook"

FAULTS = [
    Fault(
        "_engine/passes.py", "dropped guard",
        "                if plan is not None and passage.hooked and not plan.hooked:\n", "                if False:\n",
        "hooks on gradients that some samples have are left out of sketches and means",
        _SOME,
    ),
    Fault(
        "_directions/means.py", "dropped branch",
        "        if found is False and getattr", "        if False and getattr",
        "hooks that a model puts on what requires a gradient are left out of means, where some samples have them",
    ),
    Fault(
        "_engine/engine.py", "dropped guard",
        "        except ClippedGradientError as clipped:\n            return self._loop(batch, clipped)\n", "",
        "models with hooks for some samples end in an inner error",
        _SOME,
    ),
    Fault(
        "_operations/others.py", "dropped guard",
        '    """`Tensor.register_hook`; of what has no gradient, as in passes without a graph, nothing."""\n    if tensor.requires_grad:\n',
        '    """`Tensor.register_hook`; of what has no gradient, as in passes without a graph, nothing."""\n    if True:\n',
        "models that put hooks without asking for a graph are slow or refused with last_layer",
    ),
    Fault(
        "_directions/pulled.py", "dropped branch",
        "        if subject.clips:\n            unit, scale", "        if False:\n            unit, scale",
        "sketches of clipped gradients are of others",
    ),
    Fault(
        "_sketches/sketched.py", "dropped operand",
        "norms = (sizes.sqrt() * float(scale)).to(sketches)", "norms = sizes.sqrt().to(sketches)",
        "norms beside sketches that are made one by one are those of what was pulled back",
    ),
    Fault(
        "_operations/sparse.py", "dropped guard",
        "    return plain and not _has_gradient(tensor)", "    return plain and not in_memory(tensor).requires_grad",
        "sparse matrices that are made of parameters have no gradient",
    ),
    Fault(
        "_operations/picking.py", "dropped operand",
        "input.index_put_(places, values, accumulate=True)", "input.index_put_(places, values)",
        "values that are to be added by a mask are put there",
    ),
    Fault(
        "_operations/picking.py", "off by one",
        "first.long().cumsum(0) - 1, _places(first)", "first.long().cumsum(0), _places(first)",
        "unique values have the numbers of the next",
    ),
    Fault(
        "_operations/packed.py", "lost order",
        "        data = steps[: sizes[0]].flatten(0, 1)\n", "        data = steps[: sizes[0]].transpose(0, 1).flatten(0, 1)\n",
        "several packed sequences of one length are mixed up",
    ),
    Fault(
        "_operations/packed.py", "another constant",
        "torch.full_like(steps[:1], padding_value)", "torch.zeros_like(steps[:1])",
        "unpacked sequences are padded by zero, whatever was asked for",
    ),
    Fault(
        "_operations/counting.py", "dropped operand",
        "places, source, reduce, include_self=include_self)", "places, source, reduce)",
        "neighbours are reduced with what was there before",
    ),
    Fault(
        "_operations/counting.py", "dropped branch",
        "    size = minlength if few else int(input.max()) + 1", "    size = minlength",
        "counts of more kinds than were foreseen fail",
    ),
    Fault(
        "_operations/spectra.py", "swapped branches",
        'norm = "ortho" if normalized else "backward"\n    transform', 'norm = "backward"\n    transform',
        "normalised spectrograms are not",
    ),
    Fault(
        "_operations/spectra.py", "another constant",
        "    left = (n_fft - length) // 2\n", "    left = 0\n",
        "short windows of spectrograms lie elsewhere",
    ),
    Fault(
        "_model/watch.py", "dropped branch",
        "        if torch.is_inference_mode_enabled():\n            # The model's", "        if False:\n            # The model's",
        "sketches of models with a backbone in inference mode are made one by one",
    ),
    Fault(
        "_model/watch.py", "dropped call",
        "            stand_ins.spread(functools.partial(_spread, zero=zero))\n", "            pass\n",
        "models that write values of samples to their buffers are scored one by one",
    ),
    Fault(
        "_model/buffers.py", "swapped guard",
        "not _is_large(tensor) and not is_untouched(tensor)", "not _is_large(tensor) and is_untouched(tensor)",
        "buffers that are not written to are spread, and others are not",
    ),
    Fault(
        "_operations/counting.py", "off by one",
        "    index = (place[:, None] >= ends).sum(1)", "    index = (place[:, None] > ends).sum(1)",
        "what is repeated by numbers of each sample begins one step too late",
    ),
    Fault(
        "_engine/traced.py", "dropped guard",
        '        if n.kwargs.get("generator") is not None:', "        if False:",
        "models with a generator of their own are replayed with other numbers, in long pools",
    ),
    Fault(
        "_engine/plan.py", "dropped term",
        "recorder.passage.hooked or has_own(logits)", "recorder.passage.hooked",
        "means of models with functions of their own are made one by one, and clipped ones are not told",
    ),
]  # fmt: skip
