"""Faults in results, sketches and the state of the process."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_EXPORT, _SCORES, _SELECTION = "_results/export.py", "_results/scores.py", "_selection/by_score.py"
_STATES = "_process/states.py"
_SKETCHED, _MAP = "_engine/sketched.py", "_operations/tensor_sketch.py"

FAULTS = [
    Fault(
        "_process/quiet.py", "state not put back",
        "                filters.remove(_FILTER)\n", "                pass\n",
        "a filter of warnings stays in the process after scores",
    ),
    Fault(
        _SELECTION, "option that does nothing",
        "weights = values / spread if spread > 0 else", "weights = values if spread > 0 else",
        "select(strategy='gumbel') depends on the unit of the scores: uniform or top-k",
    ),
    Fault(
        _SELECTION, "wrong unit",
        "weights = torch.where(values > 0, values.log(), torch.nan)", "weights = torch.where(values > 0, values, torch.nan)",
        "select(strategy='proportional') is gumbel",
    ),
    Fault(
        _SELECTION, "option that does nothing",
        "np.random.default_rng(seed).standard_exponential", "np.random.default_rng(0).standard_exponential",
        "seed has no effect on what is drawn",
    ),
    Fault(
        _EXPORT, "stale index",
        "places = range(count) if scores.indices is None else scores.indices.tolist()",
        "places = range(count)",
        "CSV, JSON lines, Parquet and records of a subset name places in the subset",
    ),
    Fault(
        _EXPORT, "off by one",
        "percentiles[index] = 1 - place / (ranked - 1) if ranked > 1 else 1.0",
        "percentiles[index] = 1 - place / ranked if ranked > 1 else 1.0",
        "the last sample's percentile is not 0",
    ),
    Fault(
        _EXPORT, "option that does nothing",
        '"score": inverted if low_first else norms', '"score": norms',
        "low_first has no effect: tools label the worst first",
    ),
    Fault(
        _EXPORT, "wrong sort",
        "return [None if math.isnan(number) else number for number in numbers]", "return list(numbers)",
        "NaN is a number in the files, and the best one for some tools",
    ),
    Fault(
        _SCORES, "dropped field",
        '        if self.indices is not None:\n            arrays["indices"] = self.indices.numpy()\n', "",
        "a saved subset forgets which samples it is of",
    ),
    Fault(
        _SCORES, "dropped field",
        '            arrays["standard_error"] = self.standard_error.numpy()\n', "            pass\n",
        "saved estimates forget their standard errors",
    ),
    Fault(
        _SCORES, "stale index",
        "return chosen if self.indices is None else self.indices[chosen]", "return chosen",
        "PoolScores.select of a subset gives places in the subset",
    ),
    Fault(
        _SCORES, "option that does nothing",
        "chosen = select(values, k, strategy=strategy, seed=seed)", "chosen = select(values, k, strategy=strategy)",
        "PoolScores.select ignores its seed",
    ),
    Fault(
        "_results/nonfinite.py", "off by one",
        'if len(indices) > 10 else ""', 'if len(indices) > 9 else ""',
        "ten samples that are not finite are told as if there were more",
    ),
    Fault(
        "_scorer.py", "stale index",
        "indices = sorted(bad if places is None else places[sorted(bad)].tolist())", "indices = sorted(bad)",
        "samples of a subset that are not finite are told by their places in the subset",
    ),
    Fault(
        "_scorer.py", "option forgotten in one branch",
        "        self._judge({name: PoolScores(scored.scores[name]) for name in options.schemes})\n", "",
        "score_batch passes NaN on, whatever on_nonfinite says",
    ),
    Fault(
        _STATES, "state not put back",
        "            mha.set_fastpath_enabled(self._before)", "            pass",
        "PyTorch's fast path of attention stays off after the first score",
    ),
    Fault(
        "kernels/fastgradnorm_kernels/assigning.py", "state not put back",
        "            if getattr(module, name) is values[name]:  # else another has changed it since\n                setattr(module, name, value)\n",
        "            pass\n",
        "after the first score torch.utils.checkpoint no longer checkpoints: memory of training grows",
    ),
    Fault(
        _STATES, "state not put back",
        "            if _running == 0:\n                _put_back()", "            if False:\n                _put_back()",
        "nothing of the process is put back after scoring",
    ),
    Fault(
        _STATES, "state not put back",
        "            if _running == 0:\n                _put_back()", "            if True:\n                _put_back()",
        "of two scorers at work in threads the first that ends puts the process back under the other",
    ),
    Fault(
        _STATES, "state not put back",
        "        random.setstate(python)\n", "        pass\n",
        "a model or loader that draws from `random` moves the caller's numbers",
    ),
    Fault(
        _STATES, "state not put back",
        "        np.random.set_state(legacy)\n", "        pass\n",
        "a model or loader that draws from NumPy moves the caller's numbers",
    ),
    Fault(
        _STATES, "state not put back",
        "        _seen = None\n", "",
        "a normal number of NumPy's that was kept for the caller is drawn by a model, and gone",
    ),
    Fault(
        _STATES, "forgotten case",
        "        return np.random.get_state(legacy=False)\n", "        return np.random.get_state()\n",
        "NumPy warns, and scoring fails, where its global generator was set to another kind",
    ),
    Fault(
        _STATES, "state not put back",
        "if seen == memory and state[2] is _PYTHON.gauss_next:", "if seen == memory:",
        "a normal number of Python's that was kept for the caller is drawn by a model, and gone",
    ),
    Fault(
        _STATES, "state not put back",
        "        torch.set_rng_state(cpu)\n", "        pass\n",
        "a loader that draws moves the caller's random numbers",
    ),
    Fault(
        _STATES, "dropped guard",
        "    with _Shared(), float32_as_asked(), torch.inference_mode(False), torch.enable_grad():",
        "    with _Shared(), float32_as_asked(), torch.enable_grad():",
        "scoring fails in inference mode",
    ),
    Fault(
        "_process/precision.py", "state not put back",
        "                _put_back()\n", "                pass\n",
        "cuDNN's TF32 stays off after scoring",
    ),
    Fault(
        "_process/memory.py", "option that does nothing",
        "_SHARE_OF_FREE if max_memory is None else max_memory", "_SHARE_OF_FREE",
        "a share for max_memory has no effect",
    ),
    Fault(
        "atomic.py", "dropped guard",
        "        neighbour.unlink(missing_ok=True)\n", "        pass\n",
        "a write that failed leaves its part behind",
    ),
    Fault(
        _MAP, "option that does nothing",
        "repr((seed, name, side))", "repr((0, name, side))",
        "seed has no effect on sketches",
    ),
    Fault(
        _MAP, "dropped term",
        "repr((seed, name, side))", "repr((seed, side))",
        "all parameters share buckets and signs: inner products of sketches are biased",
    ),
    Fault(
        _MAP, "option that does nothing",
        "buckets = order.argsort(1, kind=\"stable\").reshape(-1)[:size]",
        "buckets = ((mixed >> np.uint64(1)) % np.uint64(dim)).astype(np.int64)[:size]",
        "whole rows meet in one bucket: sketches of single layers err by 1.7 times as much",
    ),
    Fault(
        _MAP, "wrong sign",
        "signs = 1 - 2 * (mixed[:size] & np.uint64(1)).astype(np.int8)",
        "signs = 1 + 0 * (mixed[:size] & np.uint64(1)).astype(np.int8)",
        "sketches have no signs: inner products are biased",
    ),
    Fault(
        _SKETCHED, "dropped factor",
        "return sketches.flatten() * scale", "return sketches.flatten()",
        "sketches of confident samples are as large as others",
    ),
    Fault(
        "_pool/rows.py", "dropped guard",
        'if zlib.crc32(content.data) != told["crc"]:', "if False:",
        "stored sketches that changed on the disk are gone on with",
    ),
    Fault(
        "_sketches/writing.py", "dropped guard",
        "(self._path / INFO).unlink(missing_ok=True)", "pass",
        "a folder that is made anew is taken for whole before it is",
    ),
    Fault(
        "_engine/sketched.py", "option that does nothing",
        "return given[place(name)], chosen(", "return given[0], chosen(",
        "all layers' sketches are in the first group",
    ),
    Fault(
        "_directions/pulled.py", "option that does nothing",
        "cotangent = SKETCHED[scheme](post)", 'cotangent = SKETCHED["predicted"](post)',
        "scheme='entropy' of sketches is 'predicted'",
    ),
    Fault(
        "_directions/pulled.py", "mask ignored in one branch",
        "valid = None if valid is None else valid[..., None].expand(logits.shape)", "valid = None",
        "sketches of multi-label dense outputs ignore the mask",
    ),
    Fault(
        _SKETCHED, "option forgotten in one branch",
        "return subject.with_head(view, batch, inputs, lineage)",
        "return subject.run(view, batch, inputs)",
        "sketches ignore the temperature",
    ),
    Fault(
        _SKETCHED, "buffer not kept",
        "inputs = [leaf[None].clone() for leaf in leaves]", "inputs = [leaf[None] for leaf in leaves]",
        "sketches of models that work in place on their input overwrite the caller's batch",
    ),
    Fault(
        "_directions/pulled.py", "wrong reduction",
        "cotangent = cotangent / max(1, z[..., 0].numel())", "cotangent = cotangent / 1",
        "sketches of dense outputs are sums over positions, not means",
    ),
]  # fmt: skip
