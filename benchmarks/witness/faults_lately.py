"""Faults in places of rows, gradients kept aside, disagreements, sums, and values put in places."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_PLACES, _ASIDE, _DISAGREEMENTS, _PLACING = (
    "_pool/places.py",
    "_process/gradients.py",
    "_witness/disagreements.py",
    "_operations/placing.py",
)
_BUCKETS = "kernels/fastgradnorm_kernels/bucket_sums.py"
_SQUARES = "kernels/fastgradnorm_kernels/squares.py"

FAULTS = [
    Fault(
        _PLACES, "off by one",
        "*range(count - half, count)]", "*range(count - half, count - 1)]",
        "a collation that puts another sample into the last place of large batches is not told",
    ),
    Fault(
        _PLACES, "dropped part",
        "ends = [size - count, size - 1, size // count * count - count]", "ends = [size - count, size - 1]",
        "a loader that goes backwards through whole batches is not told",
    ),
    Fault(
        _PLACES, "dropped guard",
        "return (place, index) if same else None", "return place, index",
        "datasets that give any sample for an index are told to have another order",
    ),
    Fault(
        _PLACES, "dropped guard",
        "row.numel() == 1 and (row.dim() > 0 or row.is_floating_point())", "True",
        "batches whose labels alone are those of another sample are told to have another order",
    ),
    Fault(
        _PLACES, "state not put back",
        "        with put_back_random_states():\n            found = _displaced(dataset, batch)",
        "        if True:\n            found = _displaced(dataset, batch)",
        "comparing the order of a loader of one's own draws the caller's random numbers",
    ),
    Fault(
        _PLACES, "swapped",
        "yields dataset[{found[1]}] as number {found[0]}", "yields dataset[{found[0]}] as number {found[1]}",
        "a displaced sample is told by the place that it should have",
    ),
    Fault(
        _PLACES, "forgotten in one branch",
        "    except _UnreadError:\n        return\n    draws", "    except TimeoutError:\n        return\n    draws",
        "loaders of datasets that cannot be read by index are not scored",
    ),
    Fault(
        _PLACES, "forgotten in one branch",
        "    except (TypeError, ValueError, RuntimeError):\n        return None", "    except RuntimeError:\n        return None",
        "samples with a text in an array of NumPy's are not scored",
    ),
    Fault(
        _ASIDE, "dropped step",
        "            if known.gradient is not None:\n                tensor.grad = None\n", "",
        "a model that calls backward() itself adds to the caller's gradients",
    ),
    Fault(
        _ASIDE, "state not put back",
        "                    if tensor.grad is not known.gradient:\n                        tensor.grad = known.gradient\n", "",
        "a model that calls backward() itself leaves the caller other gradients",
    ),
    Fault(
        _ASIDE, "stale state",
        "                    del _aside[id(tensor)]\n", "",
        "a second scoring puts the gradients of before the first one back",
    ),
    Fault(
        _DISAGREEMENTS, "dropped guard",
        "        with torch.no_grad():\n                super", "        with torch.enable_grad():\n                super",
        "models that keep what they make of their parameters are told to be the engine's fault",
    ),
    Fault(
        _DISAGREEMENTS, "dropped guard",
        "if not agrees(fresh) or agrees(again):", "if agrees(again):",
        "a fault of the engine is told to be the model's, which keeps nothing",
    ),
    Fault(
        _DISAGREEMENTS, "dropped guard",
        "if not apart and len(batch) > 1 and agrees(own):", "if not apart and len(batch) > 1:",
        "a fault of the engine is told to be the model's, which mixes no samples",
    ),
    Fault(
        _DISAGREEMENTS, "forgotten in one branch",
        "        _tell_kept(own, partial(_agrees, compare), error)\n", "",
        "of models that keep what they make of their parameters products are told to be the engine's fault",
    ),
    Fault(
        _BUCKETS, "dropped guard",
        "table.stride(0) if len(table) > 1 else 0,", "table.stride(0),",
        "on GPUs sketches of grouped convolutions read beyond the table of their columns",
    ),
    Fault(
        _BUCKETS, "dropped guard",
        "codes.stride(0) if shifts is not None and len(shifts) > 1 else 0,", "codes.stride(0),",
        "on GPUs sketches of all samples but the first read beyond the codes of their rows",
    ),
    Fault(
        _BUCKETS, "dropped sum",
        "return out[:, :, 0] if parts == 1 else out.sum(2)", "return out[:, :, 0]",
        "on GPUs the first rows alone of long matrices are in their sketch",
    ),
    Fault(
        _SQUARES, "dropped term",
        "return total if whole == width else total + _square_of_norm(x[..., whole:])", "return total",
        "norms leave out the last classes where their number is no multiple of 64",
    ),
    Fault(
        _SQUARES, "lost digits",
        "    whole = width - width % _BLOCK\n", "    return _square_of_norm(x)\n    whole = width - width % _BLOCK\n",
        "norms at thousands of classes are off by some 1e-5",
    ),
    Fault(
        _PLACING, "option that does nothing",
        "return ~found if invert else found", "return found",
        "isin does not invert",
    ),
    Fault(
        _PLACING, "option that does nothing",
        "source.reshape(index.shape), accumulate)", "source.reshape(index.shape))",
        "put does not accumulate",
    ),
    Fault(
        _PLACING, "dropped factor",
        "(size - 1) * s + k - 2 * p for", "(size - 1) * s + k - p for",
        "max_unpool with padding gives larger maps",
    ),
    Fault(
        "_pool/collation.py", "dropped branch",
        "        return are_moved(given, samples)", "        return False",
        "datasets that give a batch's samples in ascending order are not told",
    ),
    Fault(
        "_pool/collation.py", "dropped step",
        "dataset, keys = dataset.dataset, [dataset.indices[key] for key in keys]", "dataset = dataset.dataset",
        "parts of a dataset that gives samples in an order of its own are asked for other samples",
    ),
    Fault(
        "_operations/unbatched_losses.py", "wrong unit",
        "return each.sum() / len(input) if input", "return each.sum() if input",
        "the divergence of a batch is its sum",
    ),
    Fault(
        "_operations/unbatched_losses.py", "swapped branch",
        "    if log_target:\n", "    if not log_target:\n",
        "targets of a divergence are taken for their logarithms",
    ),
    Fault(
        _PLACING, "dropped branch",
        "        return torch.where(mask, source.sum() + math.nan, input)", "        return torch.zeros_like(input)",
        "texts without images lose all embeddings",
    ),
    Fault(
        _PLACING, "dropped gradient",
        "source.sum() + math.nan, input)", "math.nan, input)",
        "what made nothing has no gradient, and models are refused",
    ),
    Fault(
        "_model/watch.py", "two devices",
        "torch.zeros_like(zero, dtype=tensor.dtype, device=tensor.device)", "zero.to(tensor.dtype)",
        "counts that a model moves to the host send it into the loop",
    ),
    Fault(
        "_engine/passes.py", "stale memory",
        "            self._kept.renew()\n", "",
        "captured passes read the parts of weights as they were",
    ),
    Fault(
        "_operations/norms.py", "swapped branches",
        "rms_norm_formula if input.is_cuda else", "F.rms_norm if input.is_cuda else",
        "RMS norms on a GPU are pulled back one by one",
    ),
    Fault(
        "_operations/norms.py", "another constant",
        "eps = torch.finfo(wide.dtype).eps if eps is None else eps\n", "eps = 1e-5 if eps is None else eps\n",
        "RMS norms on a GPU without an epsilon of their own are others",
    ),
    Fault(
        "_pool/scored.py", "swapped order",
        "a.view(b.shape) for a, b in zip(parts, tensors, strict=True)", "a.view(b.shape) for a, b in zip(parts[::-1], tensors, strict=True)",
        "schemes that are copied from a device together swap places",
    ),
    Fault(
        "_model/changes.py", "dropped guard",
        "        with models_in_use:  # while", "        if True:  # while",
        "a model is looked at while another thread calls it",
    ),
    Fault(
        "_pool/identity.py", "forgotten fact",
        "LISTED: listed(batches)", "LISTED: None",
        "a checkpoint of a list is gone on with for a longer one that begins alike",
    ),
    Fault(
        "_pool/functions.py", "forgotten in the fingerprint",
        "found[name] = cell.cell_contents", "found[name] = None",
        "a checkpoint goes on with a loss whose closure holds another one",
    ),
    Fault(
        "_pool/functions.py", "forgotten in the fingerprint",
        "            yield from self.lines(thing.__self__, depth)\n", "",
        "a checkpoint goes on with a method of an object that is set otherwise",
    ),
    Fault(
        "_pool/functions.py", "forgotten in the fingerprint",
        "                yield from walk.lines(value, _DEPTH)\n", "",
        "a checkpoint goes on with a model that calls another function",
    ),
]  # fmt: skip
