"""Faults in pools: samples, checkpoints, ranks, and what a result says of itself."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_OPTIONS, _IDENTITY, _CHECKPOINT = "_options.py", "_pool/identity.py", "_pool/checkpoint.py"
_RUN, _SAMPLES, _RANKS = "_pool/run.py", "_pool/samples.py", "_pool/ranks.py"
_STORE, _GATHER, _STACKED = "_pool/store.py", "_pool/gather.py", "_pool/stacked.py"


def _forgotten(option: str, declared: str, told: str) -> Fault:
    return Fault(
        _OPTIONS, "forgotten option in the fingerprint", f"{declared}, metadata=_SCORES)",
        f"{declared}, metadata=_RUNNING)", f"a checkpoint begun with another {option} goes on: {told}",
    )  # fmt: skip


FAULTS = [
    _forgotten("num_samples", "num_samples: int = field(default=8", "scores of two accuracies"),
    _forgotten("class_dim", "class_dim: int = field(default=1", "scores over two dimensions"),
    _forgotten("mask", "mask: Mask | None = field(default=None", "positions that count here and not there"),
    _forgotten("rtol", "rtol: float = field(default=0.0", "exact scores and estimates in one pool"),
    _forgotten("autocast", "autocast: torch.dtype | None = field(default=None", "scores of two precisions"),
    _forgotten("seed", "seed: int = field(default=0", "draws of two seeds in one pool"),
    _forgotten("temperature", "temperature: float = field(default=1.0", "scores of two posteriors"),
    Fault(
        _IDENTITY, "forgotten in the fingerprint",
        "tensors = dict([*subject.model.named_parameters(), *subject.model.named_buffers()])",
        "tensors = dict(subject.model.named_parameters())",
        "a checkpoint goes on with a model whose running statistics changed",
    ),
    Fault(
        _IDENTITY, "forgotten in the fingerprint",
        '        "parameters": _of_lines(subject.chosen),\n', "",
        "a checkpoint goes on where a function chooses other parameters",
    ),
    Fault(
        _IDENTITY, "forgotten in the fingerprint",
        "beside = one.mask, one.attention_mask, one.target", "beside = (one.target,)",
        "a checkpoint goes on where the mask gives other positions",
    ),
    Fault(
        _IDENTITY, "forgotten in the fingerprint",
        '        "first samples": [_sample(one) for one in few],\n', "",
        "a checkpoint goes on with another pool of the same size",
    ),
    Fault(
        "_pool/functions.py", "forgotten in the fingerprint",
        "found = inspect.getsource(code)", "found = code.co_name",
        "a checkpoint goes on where `forward` has other code under the same name",
    ),
    Fault(
        _IDENTITY, "forgotten in the fingerprint",
        '        found.update(f"{tensor.dtype} {list(tensor.shape)}".encode())\n', "",
        "tensors of equal bytes and another shape or dtype pass for the same",
    ),
    Fault(
        _CHECKPOINT, "dropped guard",
        "            os.lseek(self._file, self._end, os.SEEK_SET)\n", "",
        "a resumed run writes over the beginning of its file",
    ),
    Fault(
        _CHECKPOINT, "dropped guard",
        "        if int(checksum, 16) != zlib.crc32(text):\n            return None\n", "",
        "a damaged line is read as scores",
    ),
    Fault(
        _CHECKPOINT, "dropped guard",
        "            if item is None or self.finished:\n", "            if item is None:\n",
        "lines after the end of a run are read as more of it",
    ),
    Fault(
        _RUN, "resumed state forgotten",
        'self._earlier, self._earlier_pulled = state["seconds"], state["pulled"]',
        'self._earlier = state["seconds"]',
        "provenance's pull_backs of a resumed run are those of the last process",
    ),
    Fault(
        _RUN, "resumed state forgotten",
        'self._earlier, self._earlier_pulled = state["seconds"], state["pulled"]',
        'self._earlier_pulled = state["pulled"]',
        "provenance's seconds of a resumed run are those of the last process",
    ),
    Fault(
        _STORE, "resumed state forgotten",
        'self._engine.passes.settings = Settings(**done.state["settings"])', "pass",
        "a resumed run runs its model otherwise: other bits",
    ),
    Fault(
        _RUN, "resumed state forgotten",
        'self.counted = union(self.counted, done.counted)', "pass",
        "provenance of a run that was finished before names no parameters",
    ),
    Fault(
        _RUN, "resumed state forgotten",
        "            self.pool.sieve.next(done.read)\n", "",
        "after a resumed run a stream's subset is drawn anew",
    ),
    Fault(
        _RUN, "lost order",
        'torch.arange(start, start + size, device="cpu") if streamed', 'torch.arange(size, device="cpu") if streamed',
        "indices of a stream's subset are places in the batch",
    ),
    Fault(
        _STORE, "dropped guard",
        "        if read < self.done.read:\n", "        if False:\n",
        "a run goes on with a pool that ends before what was scored: scores of samples it lacks",
    ),
    Fault(
        _RUN, "off by one",
        "else itertools.chain([first], batches)", "else batches",
        "the first batch after a resumed run's is left out",
    ),
    Fault(
        _RUN, "off by one",
        "rest = batch.take(slice(known, None))", "rest = batch.take(slice(known + 1, None))",
        "a sample is left out where a resumed run's batches end elsewhere",
    ),
    Fault(
        _GATHER, "stale memory",
        "part if full else part.copied()", "part",
        "a loader that fills one buffer again and again has its last batch scored several times",
    ),
    Fault(
        "_pool/trimming.py", "dropped guard",
        "        if not bool((counted == mask).all()):\n            return None\n", "",
        "texts padded at their beginning lose their ends",
    ),
    Fault(
        "_pool/trimming.py", "dropped guard",
        "wanted = max(width, min(max(steps), self._widest or 0))", "wanted = max(steps)",
        "texts are padded beyond the longest that a model takes",
    ),
    Fault(
        _STACKED, "dropped guard",
        "self._equal = _same(batch, made)", "self._equal = True",
        "rows are put together otherwise than a changed collation does",
    ),
    Fault(
        _STACKED, "stale memory",
        "self._table.tensors is not self._tensors", "False",
        "rows are read of tensors that the dataset has no more",
    ),
    Fault(
        _STACKED, "dropped guard",
        " or type(keys.sampler) not in _WITHOUT_FEEDBACK", "",
        "a sampler that goes by what was read before draws ahead of that",
    ),
    Fault(
        _STACKED, "wrong rows",
        "index = index if self._places is None else self._places[index]", "pass",
        "of a Subset the first samples of the whole dataset are scored",
    ),
    Fault(
        "_witness/several.py", "wrong scores compared",
        "replace(look, part=part)", "look",
        "the samples of a batch that came with others are compared with those of the first",
    ),
    Fault(
        _GATHER, "dropped guard",
        "(each or len(batch)) <= 1", "len(batch) <= 1",
        "single samples that came as one batch are taken for a batch of the caller's",
    ),
    Fault(
        _GATHER, "dropped guard",
        "is_harmless(self.engine, *fitted) if asked else False", "asked",
        "padding is left out of models whose logits depend on it",
    ),
    Fault(
        _GATHER, "lost order",
        "            scored = scored.take(numbers.argsort())\n", "            pass\n",
        "scores of ragged samples are in the order of their lengths",
    ),
    Fault(
        _GATHER, "dropped guard",
        "        if differs is not None:\n", "        if False:\n",
        "samples are scored with the mask or graph of an earlier batch",
    ),
    Fault(
        _GATHER, "dropped guard",
        "        if past == 0 and self._waiting:\n", "        if False:\n",
        "ragged samples wait for others of their shape to the end of the pool",
    ),
    Fault(
        _GATHER, "resumed state forgotten",
        "        self.sizes, self.number = sizes, number\n", "        self.number = number\n",
        "a resumed run cuts chunks by the memory that is free now: other bits",
    ),
    Fault(
        _SAMPLES, "lost order",
        "torch.from_numpy(np.sort(drawn))", "torch.from_numpy(drawn)",
        "a subset is not in the pool's order",
    ),
    Fault(
        _SAMPLES, "stale index",
        "return keep, None if places is None else places[keep]", "return keep, None if places is None else keep",
        "indices of a stream's subset are places in each batch",
    ),
    Fault(
        "_pool/draws.py", "off by one",
        "            return None\n        key, number = self._waiting.popleft(), self._batches", "            return None\n        key, number = self._waiting[0], self._batches",
        "every batch has the indices of the first",
    ),
    Fault(
        "_pool/draws.py", "dropped guard",
        "        if len(indices) != size:\n", "        if False:\n",
        "a collation that leaves samples out shifts all indices after them",
    ),
    Fault(
        "_pool/draws.py", "stale index",
        "return indices if self._places is None else self._places[indices]", "return indices",
        "indices of a subset that is loaded by itself are places in the subset",
    ),
    Fault(
        _SAMPLES, "option that does nothing",
        "self._generator = _generator(seed)", "self._generator = _generator(0)",
        "seed has no effect on the subset of a stream",
    ),
    Fault(
        _SAMPLES, "stale index",
        "indices = chosen if self.indices is None else self.indices[chosen]", "indices = chosen",
        "a rank's share of a subset names places in the subset",
    ),
    Fault(
        "_pool/shares.py", "rank count",
        "chain(self.head, islice(self.draws, self.rank, None, self.world))",
        "chain(self.head, islice(self.draws, self.rank, None, self.world + 1))",
        "ranks leave batches out",
    ),
    Fault(
        "_pool/shares.py", "rank count",
        "batches = islice(chain(head, items), rank, None, world)", "batches = islice(items, rank, None, world)",
        "ranks that share a stream begin one batch late",
    ),
    Fault(
        _RANKS, "dropped guard",
        "if orders[0] != orders[rank] or firsts[0] != firsts[rank]:", "if orders[0] != orders[rank]:",
        "ranks with other samples in the same order score a pool that is none",
    ),
    Fault(
        _RANKS, "dropped guard",
        "        if any(sums != buffers[0] for sums in buffers):\n", "        if False:\n",
        "each rank scores with running statistics of its own",
    ),
    Fault(
        "_pool/shared_run.py", "rank count",
        "rank{self.ranks.rank}of{self.ranks.world}", "rank{self.ranks.rank}",
        "a checkpoint begun by two ranks goes on with three, each with shares of another split",
    ),
    Fault(
        "_pool/shared_run.py", "stale index",
        "found.scored, drawn if drawn is None or places is None else places[drawn]", "found.scored, drawn",
        "indices of a subset that ranks share are places in the subset",
    ),
    Fault(
        "_pool/provenance.py", "wrong sum",
        "sum(subject.parameters[name].numel() for name in names)", "sum(p.numel() for p in subject.parameters.values())",
        "provenance counts all parameters, whatever was selected",
    ),
    Fault(
        "_pool/loaders.py", "dropped name",
        '    "worker_init_fn",\n', "",
        "a subset's workers are not set up as the loader says",
    ),
    Fault(
        "_pool/failing.py", "stale index",
        "index = inner = key if places is None else int(places[key])", "index = inner = key",
        "of a drawn part, a sample that cannot be loaded is told by its place in that part",
    ),
    Fault(
        "_pool/failing.py", "off by one",
        "        keys.came()\n", "",
        "of workers, a sample that cannot be loaded is said to be in the first batch",
    ),
    Fault(
        "_pool/collation.py", "option that does nothing",
        "(few, few[::-1])", "(few, few[:])",
        "loaders that keep their samples in order are said to sort them",
    ),
    Fault(
        "_pool/collation.py", "dropped branch",
        "for looks in (_backwards, _each_for_all):", "for looks in (_backwards,):",
        "collations that sort, and want their samples sorted, are told as ones that cannot be looked at",
    ),
    Fault(
        "_pool/order.py", "dropped guard",
        "        if self._sorts is not None:\n            return\n", "",
        "indices of a loader whose collation sorts are those of other samples",
    ),
]  # fmt: skip
