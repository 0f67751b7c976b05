"""Faults in sketches, products with directions and what is made of them."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_SKETCHED, _PASS, _SKETCH = "_sketches/sketched.py", "_engine/sketched.py", "_sketches/sketch.py"
_DOTS, _DIRECTIONS, _MEANS = (
    "_directions/dots.py",
    "_directions/directions.py",
    "_directions/means.py",
)
_PRODUCTS = "_sketches/dots.py"

FAULTS = [
    Fault(
        "_witness/witness.py", "state that leaks",
        "made = self.engine.aside(pair)", "made = self.engine.score(pair)",
        "a mean gradient counts the samples that verification looks at once more",
    ),
    Fault(
        "_directions/metric.py", "lost digits",
        "moments.detach().to(accumulation_dtype(moments.dtype))", "moments.detach()",
        "Adam's metric of moments in half precision is off by some thousandths",
        unseen="the metric is what is asked for",
    ),
    Fault(
        "_directions/dots.py", "forgotten in the fingerprint",
        "{scheme} {cosine} {' '.join(directions)}", "{scheme} {cosine}",
        "a checkpoint of products is gone on with for the same numbers along another layer",
    ),
    Fault(
        _SKETCHED, "forgotten in the fingerprint",
        '" with norms" * self.norms', '""',
        "a checkpoint of sketches without norms is gone on with by a call that wants them",
    ),
    Fault(
        _SKETCHED, "forgotten in the fingerprint",
        '{"sketches": f"{self.dim} {self.scheme}" +', '{"sketches": f"{self.scheme}" +',
        "a checkpoint of sketches is gone on with by a call for shorter ones",
    ),
    Fault(
        _SKETCHED, "forgotten in the fingerprint",
        '{"sketches": f"{self.dim} {self.scheme}" +', '{"sketches": f"{self.dim}" +',
        "a checkpoint of sketches of the entropy is gone on with for the predicted class",
    ),
    Fault(
        _SKETCHED, "verification that does not look",
        "gaps = gaps.maximum((found[i, width:] - (sizes.sqrt() * scale).to(gaps)).abs())", "pass",
        "norms beside sketches are not verified",
    ),
    Fault(
        _PASS, "lost digits",
        "numbers(g).to(wide).square().sum()[None]", "numbers(g.abs().square().sum()[None]).to(wide)",
        "norms beside sketches of half-precision models lose gradients that are formed, down to 0",
    ),
    Fault(
        _PASS, "dropped guard",
        "        if name in read_once:\n            raise PlanChangedError\n        return torch.cat([read(", "        return torch.cat([read(",
        "norms beside sketches square two uses of a weight apart where one has no rule",
    ),
    Fault(
        _PASS, "dropped guard",
        "spectrum[:, -1, 0]).clamp_min(0).sqrt()", "spectrum[:, -1, 0]).sqrt()",
        "norms beside sketches that are zero but for rounding are NaN",
    ),
    Fault(
        _PASS, "dropped factor",
        "return torch.cat([sketches.flatten(), norms]) * scale", "return torch.cat([sketches.flatten() * scale, norms])",
        "norms beside sketches of confident samples are as large as others",
    ),
    Fault(
        _PASS, "wrong group",
        "tap(level, value, direct[place(name)], of_gradient(name))", "tap(level, value, direct[0], of_gradient(name))",
        "gradients that are formed are in the first group's sketch",
    ),
    Fault(
        _SKETCH, "swapped axis",
        "columns.view(len(columns), -1, dim).transpose(0, 1)", "columns.view(-1, len(columns), dim)",
        "sketches of groups are those of other samples",
    ),
    Fault(
        _SKETCH, "option that does nothing",
        "sketching(dim, scheme, norms, metric=metric)", "sketching(256, scheme, norms, metric=metric)",
        "dim has no effect on sketches",
    ),
    Fault(
        _DOTS, "forgotten in the fingerprint",
        '{**self._told, "directions": digest(itertools.chain.from_iterable(tensors))}', "{**self._told}",
        "a checkpoint of products is gone on with along other directions",
    ),
    Fault(
        _DOTS, "forgotten in the fingerprint",
        '{"products": f"{scheme} {cosine} ', '{"products": f"{cosine} ',
        "a checkpoint of products of the entropy is gone on with for the predicted class",
    ),
    Fault(
        _DOTS, "forgotten in the fingerprint",
        '{"products": f"{scheme} {cosine} ', '{"products": f"{scheme} ',
        "a checkpoint of products is gone on with for cosines",
    ),
    Fault(
        _DOTS, "dropped guard",
        "torch.where(size > 0, found / size, torch.where(size == 0, 0.0, found))", "found / size",
        "cosines of samples without a gradient are NaN",
    ),
    Fault(
        _DOTS, "scale in one branch",
        "return torch.cat([total, square]) if self._cosine else total * scale", "return torch.cat([total * scale, square * scale]) if self._cosine else total * scale",
        "cosines of models that cannot run under vmap, or of samples on a branch of their own, are too small",
    ),
    Fault(
        "_directions/metric.py", "option that does nothing",
        'state.get("max_exp_avg_sq" if largest else "exp_avg_sq")', 'state.get("exp_avg_sq")',
        "the metric of Adam with amsgrad is that without",
    ),
    Fault(
        "_directions/metric.py", "option that does nothing",
        '1 / (root + float(group["eps"]))', "1 / (root + 1e-8)",
        "the metric of Adam ignores its eps",
    ),
    Fault(
        _DOTS, "forgotten in one branch",
        "known[n].to(device, dtype) if n in known else one for n in names}", "one for n in names}",
        "the metric has no effect on products",
    ),
    Fault(
        "_engine/vectors.py", "lost digits",
        "torch.linalg.vector_norm(self.one(place), dtype=wide).square()", "torch.linalg.vector_norm(self.one(place)).square()",
        "cosines with small directions, such as the mean gradient of confident samples, are 0",
    ),
    Fault(
        "_engine/directed.py", "lost digits",
        "return found * scale if scales is None else found", "return found * scale if scales is None else torch.cat([found[:-1] * scale, found[-1:] * scale.square()])",
        "cosines of confident samples are 0",
    ),
    Fault(
        _DOTS, "verification that does not look",
        "torch.cat([room, 2 * limit * exact[self.count_all :]])", "torch.cat([room, torch.inf * exact[self.count_all :]])",
        "norms in cosines are not verified",
    ),
    Fault(
        _DIRECTIONS, "dropped factor",
        "else total + more", "else total + found",
        "over checkpoints only the first has its weight",
    ),
    Fault(
        _DIRECTIONS, "state not put back",
        "other = copy.deepcopy(own)", "other = own",
        "products over checkpoints leave the last one's weights in the caller's model",
    ),
    Fault(
        _DIRECTIONS, "dropped guard",
        "(len(found) == len(total) and _same(order, indices))", "len(found) == len(total)",
        "products over checkpoints add up those of different samples where the loader shuffles",
    ),
    Fault(
        _DIRECTIONS, "stale direction",
        "_dots(there, loader, _made(directions, there), options, *given)", "_dots(there, loader, _made(directions, model), options, *given)",
        "directions that are a function of the model are made of the caller's for all checkpoints",
    ),
    Fault(
        _MEANS, "dropped factor",
        "[None if g is None else g * scale for g in found]", "found",
        "the mean gradient of models that cannot run under vmap is one of cotangents of size one",
    ),
    Fault(
        _PRODUCTS, "stale index",
        "row {start + int(bad[0])}", "row {int(bad[0])}",
        "a sketch that is no number is told by its place in a block",
    ),
    Fault(
        _PRODUCTS, "dropped factor",
        "    total /= given.count\n", "",
        "whitened products are divided by the number of samples",
    ),
    Fault(
        _PRODUCTS, "wrong axis",
        "scale = total.diagonal(dim1=1, dim2=2).mean(1)", "scale = total.diagonal(dim1=1, dim2=2).mean().expand(len(total))",
        "sketches of groups are whitened by what all groups have in common",
    ),
]  # fmt: skip
