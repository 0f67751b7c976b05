"""Faults in the active-learning loop."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_STRATEGIES, _OUTPUTS = "active/_strategies.py", "active/_outputs.py"
_LEARNER, _RECORDS = "active/_learner.py", "active/_records.py"
_KMEANS, _EMBEDDING = "_selection/kmeans_pp.py", "_selection/embedding.py"

FAULTS = [
    Fault(
        _STRATEGIES, "option that does nothing",
        '"scheme": "predicted", "seed": context.seed, **context.options', '"scheme": "predicted", **context.options',
        "sketch strategies use one projection for all cycles and seeds: runs are not independent",
    ),
    Fault(
        _STRATEGIES, "option that does nothing",
        '"seed": context.seed, **context.options, **options}', '"seed": context.seed, "progress": False, **options}',
        "sketch strategies ignore the task's forward, class_dim, mask and temperature",
    ),
    Fault(
        _STRATEGIES, "option that does nothing",
        "**{**context.options, **options}", '**{"progress": False, **options}',
        "gradient norms ignore the task's forward, class_dim, mask and temperature",
    ),
    Fault(
        _STRATEGIES, "option that does nothing",
        "return fastgradnorm.select(scored, context.budget, strategy=self.draw, seed=context.seed)",
        "return fastgradnorm.select(scored, context.budget, strategy=self.draw)",
        "gumbel and proportional draw alike in all cycles and seeds",
    ),
    Fault(
        _STRATEGIES, "option that does nothing",
        "reach = nearest_sq_distances(candidates, labelled) if len(labelled) else None", "reach = None",
        "coreset chooses again what is labelled already",
    ),
    Fault(
        _STRATEGIES, "dropped guard",
        "            scored = scored.clamp_min(torch.finfo(scored.dtype).tiny)\n", "            pass\n",
        "proportional strategies end the run where fewer samples than the budget have a score above 0",
    ),
    Fault(
        _STRATEGIES, "wrong sign",
        "return out.mean(second - first)", "return out.mean(first - second)",
        "margin labels the most certain first",
    ),
    Fault(
        _LEARNER, "dropped guard",
        "model=model.eval(),", "model=model,",
        "tasks whose evaluate leaves the model in training mode: strategies run with dropout and move statistics",
    ),
    Fault(
        _LEARNER, "forgotten in the fingerprint",
        '            "subset": self.subset,\n', "",
        "a run goes on with another subset than it began with",
    ),
    Fault(
        _LEARNER, "forgotten in the fingerprint",
        '            "pool": self.size,\n', "",
        "a run goes on with a pool of another size",
    ),
    Fault(
        _LEARNER, "stale seed",
        "permutation(self.size))\n        free", "permutation(self.size))\n        order = torch.from_numpy(generator(self.seed, Purpose.SUBSET, 0).permutation(self.size))\n        free",
        "every cycle scores the same random part of the pool",
    ),
    Fault(
        _LEARNER, "stale seed",
        "seed=draw_seed(self.seed, Purpose.SELECT, cycle),", "seed=draw_seed(self.seed, Purpose.SELECT),",
        "strategies by chance draw alike in every cycle",
    ),
    Fault(
        _LEARNER, "stale seed",
        "seed = draw_seed(self.seed, Purpose.TRAIN, cycle)", "seed = draw_seed(self.seed, Purpose.TRAIN)",
        "every cycle trains from the same seed",
    ),
    Fault(
        _LEARNER, "resumed state forgotten",
        "            self._weights.load(cycle - 1, new)\n", "            pass\n",
        "a warm start that was stopped goes on from new weights",
    ),
    Fault(
        _LEARNER, "option that does nothing",
        'score_options=getattr(self.task, "score_options", {}),', "score_options={},",
        "the task's score_options reach no strategy",
    ),
    Fault(
        _LEARNER, "option that does nothing",
        "if self.warm_start and model is not None:", "if False:",
        "warm_start begins each cycle anew",
    ),
    Fault(
        _OUTPUTS, "mask ignored in one branch",
        "mask = None if mask is None else mask[..., None].expand(z.shape[:-1])", "mask = None",
        "entropy, margin and least_confidence of multi-label dense outputs ignore the mask",
    ),
    Fault(
        _OUTPUTS, "option forgotten in one branch",
        'binary = z.shape[-1] == 1 or options.get("likelihood") == "bernoulli"', "binary = z.shape[-1] == 1",
        "multi-label tasks are ranked by a softmax over independent labels",
    ),
    Fault(
        _OUTPUTS, "option that does nothing",
        'z = z.double() / options.get("temperature", 1.0)', "z = z.double()",
        "entropy, margin and least_confidence ignore the temperature",
    ),
    Fault(
        _OUTPUTS, "option that does nothing",
        'made.movedim(options.get("class_dim", 1), -1)', "made.movedim(1, -1)",
        "entropy, margin and least_confidence ignore class_dim",
    ),
    Fault(
        _KMEANS, "option that does nothing",
        "chances = nearest if weights is None else nearest * weights", "chances = nearest",
        "diverse strategies choose by distance alone after the first",
    ),
    Fault(
        _EMBEDDING, "wrong power",
        "torch.cdist(part, others).amin(1).square()", "torch.cdist(part, others).amin(1)",
        "coreset compares distances with squared ones",
    ),
    Fault(
        _RECORDS, "dropped guard",
        "while len(kept) in records and (not kept or kept[-1][\"chosen\"]):", "while len(kept) in records:",
        "cycles of a longer run are taken for the next ones of a shorter",
    ),
    Fault(
        _RECORDS, "dropped guard",
        '                line = "\\n" + line\n', "                pass\n",
        "the first cycle after a kill is lost with the line that the kill cut off",
    ),
    Fault(
        "active/_randomness.py", "state not put back",
        "            random.setstate(python)\n", "            pass\n",
        "a run moves the caller's random numbers of Python",
    ),
    Fault(
        "active/_registry.py", "swapped names",
        'embed = partial(s.sketch, scheme=sketched, params=params)', "embed = partial(s.sketch, params=params)",
        "sketch/entropy strategies are sketch/predicted",
    ),
    Fault(
        "active/_registry.py", "option that does nothing",
        'unit = partial(s.sketch, params=params, unit=True)', "unit = partial(s.sketch, unit=True)",
        "last_layer/diverse takes directions over all parameters",
    ),
    Fault(
        "active/_context.py", "option that does nothing",
        'as_loader(inputs, self.model, None, self.batch_size, "task.pool")', 'as_loader(inputs, self.model, None, 256, "task.pool")',
        "a task's batch_size has no effect: memory runs out",
    ),
    Fault(
        "active/campaign/_status.py", "dropped guard",
        "        known, skipped, samples = known & keys, skipped & keys, len(samples)\n", "        samples = len(samples)\n",
        "status counts labels of samples that are not in the pool any more",
    ),
]  # fmt: skip
