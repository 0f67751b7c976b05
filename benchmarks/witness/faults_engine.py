"""Faults in how one batch is planned, passed over and checked."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_OUTCOME, _PASSES, _TAPS = "_engine/outcome.py", "_engine/passes.py", "_engine/taps.py"
_ENGINE, _COVERAGE = "_engine/engine.py", "_engine/coverage.py"

FAULTS = [
    Fault(
        _OUTCOME, "option forgotten in one branch",
        "names = make_plan(subject, sample).names if last else list(subject.chosen)",
        "names = list(subject.chosen)",
        "a model that cannot run under vmap, scored with params='last_layer', is scored over all parameters",
    ),
    Fault(
        _OUTCOME, "option forgotten in one branch",
        "logits = logits if temperature == 1 else logits / temperature\n", "logits = logits * 1\n",
        "temperature is left out of the last layer's closed form, but for its factor",
    ),
    Fault(
        _OUTCOME, "wrong power",
        "q = q / temperature**2", "q = q / temperature",
        "the last layer's scores are off by the root of the temperature",
    ),
    Fault(
        _OUTCOME, "option forgotten in one branch",
        'q = (q.sqrt() + 1).square() if self.options.reduction == "per_tensor" else q + 1',
        "q = q + 1",
        "reduction='per_tensor' has no effect on the last layer's closed form",
    ),
    Fault(
        _OUTCOME, "dropped factor",
        "logits], -1), q / 2\n", "logits], -1), q\n",
        "the last layer's scores of a single logit are too large by the root of two",
    ),
    Fault(
        _OUTCOME, "option forgotten in one branch",
        'single = objective.likelihood == "categorical" or plan.logits_shape == (1,)',
        "single = True",
        "multi-label scores of the last layer are those of a softmax",
    ),
    Fault(
        _OUTCOME, "stale plan",
        "if made and not _agree(logits, made[0]):", "if not made:",
        "logits that come from more than the last layer are scored as its own",
    ),
    Fault(
        _OUTCOME, "wrong constant",
        'if "bias" in plan.coverage.taps[0].single:', "if True:",
        "last layers without a bias are scored as if they had one",
    ),
    Fault(
        _ENGINE, "stale plan",
        "key = tuple((tuple(leaf.shape[1:]), leaf.dtype) for leaf in batch.leaves)",
        "key = tuple(((), leaf.dtype) for leaf in batch.leaves)",
        "a text's default attention_mask is not applied from the second length on, and memory is planned for the first",
    ),
    Fault(
        _ENGINE, "lost order",
        "return Scored.join([self._split(batch.take(index)) for index in parts]).take(order)",
        "return Scored.join([self._split(batch.take(index)) for index in parts])",
        "scores of a model whose samples take branches are in the order of the branches",
    ),
    Fault(
        _ENGINE, "lost order",
        "samples = [batch.take(slice(i, i + 1)) for i in range(len(batch))]",
        "samples = [batch.take(slice(i, i + 1)) for i in reversed(range(len(batch)))]",
        "scores of the slow loop come backwards within each batch",
    ),
    Fault(
        _ENGINE, "swallowed error",
        "                raise  # of the engine's own: there is no other way around that\n", "                pass\n",
        "a fault of the engine's own becomes the slow loop",
    ),
    Fault(
        _PASSES, "buffer not kept",
        "logits = subject.run(view, batch, [leaf[None].clone() for leaf in leaves])\n            if mode.given",
        "logits = subject.run(view, batch, [leaf[None] for leaf in leaves])\n            if mode.given",
        "models that work in place on their input overwrite the caller's batch with params='last_layer'",
    ),
    Fault(
        _PASSES, "buffer not kept",
        "return self.subject.tempered(view, batch, [leaf[None].clone() for leaf in leaves])",
        "return self.subject.tempered(view, batch, [leaf[None] for leaf in leaves])",
        "models that work in place on their input overwrite the caller's batch with rtol, and score it changed",
    ),
    Fault(
        _PASSES, "option forgotten in one branch",
        "return self.subject.tempered(view, batch, [leaf[None].clone() for leaf in leaves])",
        "return self.subject.run(view, batch, [leaf[None].clone() for leaf in leaves])",
        "with rtol, classes and their weights are those without the temperature",
    ),
    Fault(
        "_engine/together.py", "dropped guard",
        "    if not same and not torch.allclose(logits, made, equal_nan=True):\n        return None  # more than this layer made them, or its rows are in another order\n", "",
        "models that sort a batch on the way get the features of other samples",
    ),
    Fault(
        "_engine/together.py", "dropped guard",
        "            raise _ApartError\n        call = ", "            pass\n        call = ",
        "values that a model reads are those of all samples of a batch",
    ),
    Fault(
        "_engine/tapped.py", "buffer not kept",
        "inputs = [leaf[None].clone() for leaf in self._leaves]",
        "inputs = [leaf[None] for leaf in self._leaves]",
        "models that work in place on their input overwrite the caller's batch",
    ),
    Fault(
        "_engine/tapped.py", "lost order",
        "return self._by_parameter(torch.cat(rows))", "return self._by_parameter(torch.cat(rows[::-1]))",
        "where cotangents are pulled back in parts, norms belong to other classes",
    ),
    Fault(
        "_engine/tapped.py", "wrong sum",
        "return total.index_add(1, sums, columns)", "return total.index_copy(1, sums, columns)",
        "of a parameter used in pieces only the last one counts",
    ),
    Fault(
        "_engine/tapped.py", "dropped guard",
        "            coverage.check_pulled(self._reached)\n", "",
        "a planned operation that a pull-back leaves out counts as zero in silence",
    ),
    Fault(
        "_engine/plain.py", "buffer not kept",
        "[leaf.clone() for leaf in sample.leaves]", "list(sample.leaves)",
        "models that work in place on their input overwrite the caller's batch while it is verified or looped over",
    ),
    Fault(
        "_engine/plain.py", "mask ignored in one branch",
        "None if valid is None else valid[0], target)", "None, target)",
        "the slow loop ignores the mask of dense outputs",
    ),
    Fault(
        "_engine/plan.py", "buffer not kept",
        "inputs = [leaf[:1].clone() for leaf in batch.leaves]",
        "inputs = [leaf[:1] for leaf in batch.leaves]",
        "models that work in place on their input overwrite the caller's first sample while it is planned",
    ),
    Fault(
        "_engine/plan.py", "stale plan",
        "exact_head = exact_head and run.logits.dim() == 1", "exact_head = exact_head",
        "the last layer of dense outputs is scored by the closed form of one position",
    ),
    Fault(
        "_engine/plan.py", "dropped guard",
        "    if run.recorder.statistics:\n        check_unmixed(subject, sample, run.recorder.statistics)\n", "",
        "a batch norm without running statistics is told later, and not by its layer's name",
    ),
    Fault(
        _TAPS, "lost digits",
        "return numbers(g).square().sum()[None]",
        "return numbers(g.abs().square().sum()[None])",
        "parameters without a rule in half precision: squares underflow to 0 or overflow",
    ),
    Fault(
        _TAPS, "dropped guard",
        "if any((piece.name, name) not in harmless for piece in tracked):\n        raise PlanChangedError",
        "if False:\n        raise PlanChangedError",
        "samples that use a parameter by another operation than planned get 0 for it",
    ),
    Fault(
        "_engine/head_input.py", "stale plan",
        "if self.output is None or self._changed():", "if self.output is None:",
        "with params='last_layer', logits changed in place by some samples' branch are scored unchanged",
    ),
    Fault(
        _TAPS, "wrong index",
        "norms = [by_slot[slot] for slot in planned.single]",
        "norms = list(by_slot.values())",
        "a rule that gives a norm for a frozen bias too breaks, or shifts the norms of parameters",
    ),
    Fault(
        _COVERAGE, "dropped guard",
        "        if edges.into(tensor) != recorder.reads[id(tensor)]:\n", "        if False:\n",
        "a parameter read where nobody sees it is counted in part",
    ),
    Fault(
        _COVERAGE, "dropped guard",
        "if _disjoint(recorder, by_piece)\n        and all(", "if all(",
        "elements of a parameter that two overlapping views share are added up as squares",
    ),
    Fault(
        _COVERAGE, "dropped guard",
        "name in seen or edges.into(leaf) > 0]", "edges.into(leaf) > 0]",
        "a parameter that the first sample's branch has no use for counts zero for all others",
    ),
    Fault(
        _COVERAGE, "dropped guard",
        "if leaf is not None and id(leaf) in originals:", "if False:",
        "a parameter reached past the model's modules is left out in silence",
    ),
    Fault(
        _COVERAGE, "dropped guard",
        "        if not found >= self.reached:\n", "        if False:\n",
        "a tap that no pull-back reaches counts as zero",
    ),
    Fault(
        "_engine/chunks.py", "off by one at chunk borders",
        "chunk = batch.take(slice(start, start + samples))",
        "chunk = batch.take(slice(max(0, start - 1), start + samples - (start > 0)))",
        "a chunk after the first begins one sample early: scores shifted by one, the last one lost",
    ),
    Fault(
        "_engine/chunks.py", "off by one at chunk borders",
        "                start += samples\n", "                start += samples + (samples > 40)\n",
        "one sample after each large chunk has no score",
    ),
    Fault(
        "_engine/chunks.py", "option that does nothing",
        "if self._asked and least > self.limits.bytes:", "if False:",
        "max_memory below what one sample needs is not refused",
    ),
    Fault(
        "_engine/chunks.py", "resumed state forgotten",
        "self.limits = Limits(most, limits.cotangents)", "pass",
        "a resumed run cuts its chunks anew: other bits after memory ran out",
    ),
    Fault(
        "_engine/chunks.py", "dropped guard",
        "        if shrunk and not self._warned:\n", "        if False:\n",
        "nobody is told that memory ran out and scoring goes on in smaller chunks",
    ),
    Fault(
        "_engine/lengths.py", "stale plan",
        "place.mixed(a.activation_bytes, b.activation_bytes)", "a.activation_bytes",
        "long texts are cut into chunks as if each took no more memory than a short one",
    ),
    Fault(
        "_engine/plan.py", "dropped parameter",
        "        chosen |= {name for made in head.made for name in behind(made, run.leaves)}\n", "",
        "of a last layer whose weight is normalised or pruned, the bias alone counts",
    ),
    Fault(
        "_model/origin.py", "dropped guard",
        "elif name not in _READ and all(map(self._is_without, given)):", "else:",
        "below a call that nobody sees, all parameters count as the last layer's",
    ),
    Fault(
        "_engine/traces.py", "dropped guard",
        "if holds is None or bool(holds):", "if True:",
        "a replayed batch that branches otherwise, or whose norms have lost their digits, is scored as the traced one was",
    ),
    Fault(
        "_engine/traces.py", "dropped guard",
        "        elif not _alike(found, outputs):\n", "        elif False:\n",
        "a traced pass that gives other numbers is replayed all the same",
    ),
    Fault(
        "_engine/traces.py", "dropped guard",
        "(a.shape, a.dtype, a.stride())", "(a.shape[1:], a.dtype, a.stride())",
        "a batch of another size is replayed with the shapes of the traced one",
    ),
    Fault(
        "_engine/traced.py", "dropped guard",
        "            if memory not in self._given and not", "            if not",
        "views of arguments that lie elsewhere in their memory are of other numbers",
    ),
    Fault(
        "_engine/traced.py", "dropped guard",
        "        _keep_apart(traced, layouts)\n", "",
        "what a replay returns is the caller's batch or a parameter, and is written over later",
    ),
    Fault(
        "_engine/lighter.py", "dropped guard",
        "        if same is not None and seen.made.get(same) == seen.made[node]:", "        if same is not None:",
        "of a traced pass, a tensor of ones that gave another one its shape is left out",
    ),
    Fault(
        "_engine/lighter.py", "dropped guard",
        "    if seen.written:\n        return\n", "",
        "in a traced pass two constants are one, of which one is written to",
    ),
]  # fmt: skip
