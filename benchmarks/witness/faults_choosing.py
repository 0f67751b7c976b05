"""Faults in choosing: `acquire`, campaigns, and both on the command line and in other packages."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_ACQUIRE, _READING, _GATHER = "_acquire.py", "_reading.py", "_gather.py"
_CANDIDATES, _FREE, _DESCRIBED = "_candidates.py", "_selection/free.py", "_results/described.py"
_CAMPAIGN, _KEYS = "active/campaign/_campaign.py", "active/campaign/_samples.py"
_ASKED, _NEW = "active/campaign/_asked.py", "active/campaign/_choosing.py"
_STATUS = "active/campaign/_status.py"
_AL = "integrations/skactiveml.py"

FAULTS = [
    Fault(
        _ACQUIRE, "option that does nothing",
        '_options(what, {**options, "seed": seed})', "_options(what, options)",
        "sketches that acquire looks at have one projection for all seeds",
    ),
    Fault(
        _ACQUIRE, "rows that do not fit",
        "None if chances is None else chances[known]", "chances",
        "a labelled sample without finite features shifts the probabilities of those after it",
    ),
    Fault(
        _ACQUIRE, "dropped guard",
        "known = labelled.isfinite().all(1)", "known = torch.ones(len(labelled), dtype=torch.bool)",
        "a labelled sample without finite features makes all that is chosen arbitrary",
    ),
    Fault(
        _ACQUIRE, "stale index",
        "group_numbers(groups, read.size, read.places[read.candidates])", "group_numbers(groups, read.size, read.candidates)",
        "groups of a loader that shuffles, or of a subset, are those of other samples",
    ),
    Fault(
        _ACQUIRE, "option that does nothing",
        "alike(given, chosen.positions, max_similarity or ALIKE)", "alike(given, chosen.positions, ALIKE)",
        "records tell near-duplicates by 0.99, whatever max_similarity is",
    ),
    Fault(
        _ACQUIRE, "option that does nothing",
        'if what.how == "proportional" and sketch is not None:', "if False:",
        "sketch/proportional draws by the score of the last layer",
    ),
    Fault(
        _READING, "dropped guard",
        "usable = gathered.scores.values[candidates].isfinite()", "usable = torch.ones(len(candidates), dtype=torch.bool)",
        "acquire may choose samples without a finite score",
    ),
    Fault(
        _READING, "option that does too much",
        "return replace(asked, subset=None, verify=False, checkpoint=beside)", "return replace(asked, verify=False, checkpoint=beside)",
        "with a subset, only a part of what is labelled is heeded",
    ),
    Fault(
        _GATHER, "mask ignored in one branch",
        "logits, features = of_one(subject, names, sample, valid)\n        found = self._columns(plan, logits, features, valid)", "logits, features = of_one(subject, names, sample, valid)\n        found = self._columns(plan, logits, features, None)",
        "predictions of models that cannot run under vmap count what is masked out",
    ),
    Fault(
        _GATHER, "mask ignored in one branch",
        "found = self._columns(plan, logits, features, valid)\n        if self._sketches", "found = self._columns(plan, logits, features, None)\n        if self._sketches",
        "predictions count what is masked out",
    ),
    Fault(
        _CANDIDATES, "dropped guard",
        "isinstance(value, float) and math.isnan(value)", "False",
        "samples whose group is NaN are of one group, or each of none, as chance has it",
    ),
    Fault(
        _CANDIDATES, "forgotten in one branch",
        "return found.sort().values if isinstance(labelled, Set) else found", "return found",
        "the order of a set of labelled indices, which is by chance, decides what is chosen",
    ),
    Fault(
        _FREE, "off by one",
        "rows = slice(start, start + chunk)", "rows = slice(start, start + chunk - 1)",
        "every 1024th candidate may be chosen though it is a near-duplicate of a labelled sample",
    ),
    Fault(
        _FREE, "wrong comparison",
        "self._points @ self._points[i] <= self._similarity", "self._points @ self._points[i] < self._similarity",
        "samples whose cosine is just max_similarity are left out",
    ),
    Fault(
        _DESCRIBED, "off by one",
        "confidence[int(level * (len(confidence) - 1))]", "confidence[int(level * len(confidence))]",
        "quantiles of the confidence are those of the next sample",
    ),
    Fault(
        _DESCRIBED, "dropped term",
        '"after": before + sum(gains)', '"after": sum(gains)',
        "what is covered after the choice lacks what was covered before",
    ),
    Fault(
        _NEW, "stale seed",
        "seed=seed + len(state.batches),", "seed=seed,",
        "each batch of a campaign is drawn by the same random numbers",
    ),
    Fault(
        _ASKED, "stale index",
        'tuple({**row, "index": places[key]} for key, row in here)', "tuple(row for _, row in here)",
        "records of a batch name places in the pool as it was when it was asked",
    ),
    Fault(
        _CAMPAIGN, "dropped guard",
        "left = [(key, row) for key, row in rows if key not in state.latest]", "left = [*rows]",
        "what was answered while a batch was chosen is asked again",
    ),
    Fault(
        _NEW, "forgotten in one branch",
        "kept = [i for i, key in enumerate(keys) if key not in skipped]", "kept = [*range(len(keys))]",
        "what people would not label is asked again",
    ),
    Fault(
        "active/campaign/_naming.py", "dropped guard",
        "    if os.path.lexists(os.path.join(root, name)):\n", "    if False:\n",
        "a name that is the key of a sample of another batch is taken for a path to one of this",
    ),
    Fault(
        _CAMPAIGN, "dropped guard",
        "        if empty is not None:\n", "        if False:\n",
        "samples without a label in what is given to add_labels are never asked for",
    ),
    Fault(
        "cli/_campaign.py", "option that does nothing",
        "        if known:\n            with in_options", "        if False:\n            with in_options",
        "ask --labelled has no effect",
    ),
    Fault(
        _KEYS, "stale index",
        "return [groups[i] for i in kept]", "return [groups[i] for i in range(len(kept))]",
        "after a sample was skipped, groups are those of other samples",
    ),
    Fault(
        _KEYS, "stale index",
        "order = range(len(made.predicted)) if places is None else places.tolist()", "order = range(len(made.predicted))",
        "with a subset the predictions that a campaign watches are those of other samples",
    ),
    Fault(
        _KEYS, "others each time",
        "chosen = sorted(found, key=_mixed)[:_WATCHED]", "chosen = [*found][:_WATCHED]",
        "the samples whose predictions are watched are the first of the pool, and others once it grows in front",
    ),
    Fault(
        _STATUS, "dropped guard",
        "enough = len(recent) == _ROUNDS and min(counts[-_ROUNDS:]) >= _FEWEST", "enough = len(recent) == _ROUNDS",
        "a campaign is said to be done by the predictions on a handful of samples",
    ),
    Fault(
        _STATUS, "wrong number",
        "return 1 - same, kappa, len(common)", "return same, kappa, len(common)",
        "the share of predictions that changed is the share that did not",
    ),
    Fault(
        "cli/_campaign.py", "option that does nothing",
        "                seed=seed,\n", "",
        "ask --seed has no effect",
    ),
    Fault(
        "cli/_campaign.py", "option that does nothing",
        "                strategy=strategy,\n", "",
        "ask --strategy has no effect",
    ),
    Fault(
        "cli/_campaign.py", "dropped guard",
        "        if name in waiting:\n            typer", "        if True:\n            typer",
        "ask names samples that are answered already",
    ),
    Fault(
        "cli/_campaign.py", "forgotten in one branch",
        'row["label"].strip() or None', 'row["label"].strip()',
        "an empty label in a CSV of answers is a label, not a sample that was skipped",
    ),
    Fault(
        "cli/_acquire.py", "option that does nothing",
        "            seed=seed,\n", "",
        "acquire --seed has no effect",
    ),
    Fault(
        "cli/_acquire.py", "option that does nothing",
        "            max_similarity=max_similarity,\n", "",
        "acquire --max-similarity has no effect",
    ),
    Fault(
        "cli/_acquire.py", "option that does nothing",
        "            labelled=known,\n", "",
        "acquire --labelled has no effect",
    ),
    Fault(
        "cli/_select.py", "dropped guard",
        'values[place] = float("nan") if name in seen else values[place]', "pass",
        "select names a sample twice that was scored twice",
    ),
    Fault(
        "cli/_labelled.py", "forgotten in one branch",
        "if place is None and pool.root is not None:", "if False:",
        "--labelled refuses the paths that --paths prints",
    ),
    Fault(
        "cli/_labelled.py", "dropped guard",
        "both, rest = in_common(given.pool, others)", "both, rest = [], [*range(len(others.ids))]",
        "what a labelled folder has of the pool is chosen again",
    ),
    Fault(
        "cli/_same.py", "dropped guard",
        "if size in shared:", "if False:",
        "copies of labelled files are chosen again",
    ),
    Fault(
        _AL, "option that does nothing",
        "labelled=_loader(clf, X[known]) if len(known) else None,", "labelled=None,",
        "scikit-activeml's AcquireSampling starts from nothing, not from what is labelled",
    ),
    Fault(
        _AL, "option that does nothing",
        "            seed=int(seed),\n", "",
        "scikit-activeml's random_state has no effect on AcquireSampling",
    ),
    Fault(
        _AL, "lost order",
        "            scores = scores[np.argsort(made.scores.indices.numpy())]\n", "            pass\n",
        "utilities of a classifier whose iterator shuffles are in the order of the loader",
    ),
    Fault(
        _AL, "option that does nothing",
        'options = {"progress": False, "forward": _forward(clf), **(self.options or {})}', 'options = {"progress": False, "forward": _forward(clf)}',
        "options of AcquireSampling have no effect",
    ),
]  # fmt: skip
