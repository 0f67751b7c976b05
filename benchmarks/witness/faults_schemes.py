"""Faults in what is made of logits, and of the norms of gradients."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_POSTERIOR, _OBJECTIVE = "_schemes/posterior.py", "_schemes/objective.py"
_TABLE, _PULL_BACKS = "_schemes/table.py", "_schemes/pull_backs.py"
_ESTIMATE, _DRAWS, _ROUNDS = "_schemes/estimate.py", "_schemes/draws.py", "_engine/rtol.py"

FAULTS = [
    Fault(
        _POSTERIOR, "dropped guard",
        "second = others.amax(-1, keepdim=True).clamp_min(torch.finfo(gap.dtype).min)",
        "second = others.amax(-1, keepdim=True)",
        "a sample whose other classes are all masked by -inf logits scores NaN, and the run raises",
    ),
    Fault(
        _POSTERIOR, "dropped guard",
        "m = torch.where(r > 0, r * gap, 0.0).sum(-1, keepdim=True)",
        "m = (r * gap).sum(-1, keepdim=True)",
        "the entropy's score is NaN where a class is masked by a -inf logit",
    ),
    Fault(
        _POSTERIOR, "wrong sign",
        "return torch.where(posterior.top, om * p_top * m, -om * rest)",
        "return torch.where(posterior.top, om * p_top * m, om * rest)",
        "scores of the entropy are of another gradient",
    ),
    Fault(
        _POSTERIOR, "lost digits",
        "return torch.where(right, post.residual, post.p - chosen.to(post.p.dtype))",
        "return post.p - chosen.to(post.p.dtype)",
        "confident positions of dense outputs lose their digits, down to a score of 0",
    ),
    Fault(
        _POSTERIOR, "dropped guard",
        "scales = flat.abs().amax(-1).clamp_min(torch.finfo(flat.dtype).tiny)",
        "scales = flat.abs().amax(-1)",
        "a sample that is certain beyond the last digit scores NaN instead of 0",
    ),
    Fault(
        _OBJECTIVE, "dropped guard",
        "share = valid.to(z.dtype) / valid.sum().clamp_min(1)  # [*positions]",
        "share = valid.to(z.dtype) / valid.sum()  # [*positions]",
        "a map without one valid position scores NaN instead of 0, and the run raises",
    ),
    Fault(
        _OBJECTIVE, "mask ignored in one branch",
        "return self._many(pairs, mask, lambda ct: ct[..., 1])",
        "return self._many(pairs, None, lambda ct: ct[..., 1])",
        "multi-label dense outputs: positions that are masked out count",
    ),
    Fault(
        _OBJECTIVE, "wrong reduction",
        "share = valid.to(z.dtype) / valid.sum().clamp_min(1)  # [*positions]",
        "share = valid.to(z.dtype) / valid.numel()  # [*positions]",
        "the mean over valid positions is one over all of them: maps with few valid ones score low",
    ),
    Fault(
        _TABLE, "dropped factor",
        "two_classes=lambda pq, gap: 2 * pq,", "two_classes=lambda pq, gap: pq + 0 * gap,",
        "expected scores of two classes, and of one logit, are half of what they should be",
    ),
    Fault(
        _TABLE, "dropped factor",
        "two_classes=lambda pq, gap: pq * gap,", "two_classes=lambda pq, gap: pq + 0 * gap,",
        "the entropy's scores of two classes are those of another function",
    ),
    Fault(
        _OBJECTIVE, "wrong power",
        "Term(scheme, 0, 1, weights, entry.power, squared=squared)",
        "Term(scheme, 0, 1, weights, 1, squared=squared)",
        "expected_squared of two classes is not squared",
    ),
    Fault(
        _TABLE, "wrong power",
        "        power=2,\n", "",
        "expected_squared is the expected length",
    ),
    Fault(
        _OBJECTIVE, "option that does nothing",
        "                if self.rtol > 0:\n", "                if self.rtol > 1:\n",
        "rtol is taken where labels of many positions are drawn, and has no effect",
    ),
    Fault(
        _OBJECTIVE, "off by one",
        "np.log(self.num_samples) + 1e-9", "np.log(self.num_samples) - 1e-9",
        "num_samples that just cover all label maps are drawn: no exact score, with an error",
        "scores of label maps that are drawn are estimates, right within the standard errors told with them",
    ),
    Fault(
        _OBJECTIVE, "option that does nothing",
        "np.random.Generator(np.random.Philox(seed))", "np.random.Generator(np.random.Philox(0))",
        "seed has no effect on the label maps that are drawn",
    ),
    Fault(
        _PULL_BACKS, "wrong unit",
        "error = spread / draws**0.5", "error = spread",
        "standard errors of drawn label maps do not shrink with num_samples",
    ),
    Fault(
        _OBJECTIVE, "swapped axis",
        "return generator.random((positions, draws)).T.copy()",
        "return generator.random((draws, positions))",
        "the draws of a position depend on how long the text is padded",
    ),
    Fault(
        _OBJECTIVE, "wrong reduction",
        "        return sq_norms.sqrt().sum(-1)\n", "        return sq_norms.sum(-1).sqrt()\n",
        "reduction='per_tensor' is 'global'",
    ),
    Fault(
        "_schemes/scored.py", "lost in one branch",
        "names = dict.fromkeys(name for part in parts for name in part.errors)",
        "names = dict.fromkeys(parts[0].errors)",
        "standard errors are lost where the first samples of a pool are exact",
    ),
    Fault(
        "_schemes/scored.py", "lost order",
        "{name: values[index] for name, values in self.errors.items()}",
        "dict(self.errors)",
        "standard errors of a model whose samples take branches belong to other samples",
    ),
    Fault(
        _OBJECTIVE, "wrong default",
        'likelihood = "bernoulli" if classes == 1 else "categorical"',
        'likelihood = "bernoulli" if classes <= 2 else "categorical"',
        "two classes are taken for two labels",
    ),
    Fault(
        _ESTIMATE, "resumed state forgotten",
        "precision = self._precision[at] + 1 / drawn.variance",
        "precision = 1 / drawn.variance",
        "with rtol, estimates of later rounds forget the earlier ones' weight: scores too high",
    ),
    Fault(
        _ESTIMATE, "wrong unit",
        "goal = self.rtol * self.scores[scheme][at]", "goal = torch.full_like(self.scores[scheme][at], self.rtol)",
        "rtol is an absolute error between rounds",
    ),
    Fault(
        _ESTIMATE, "wrong unit",
        "error = torch.where(exact, 0.0, spread / precision.sqrt())",
        "error = torch.where(exact, 0.0, spread / precision)",
        "with rtol, standard errors are variances",
    ),
    Fault(
        _ESTIMATE, "option that does nothing",
        "self._uniform = uniform(self.p.shape[1], _ROUNDS, torch.float64, none.device)",
        "self._uniform = torch.full((_ROUNDS, self.p.shape[1]), 0.25, dtype=torch.float64)",
        "with rtol, seed has no effect: the same classes are drawn for all samples and seeds",
    ),
    Fault(
        _DRAWS, "dropped factor",
        "factors = torch.where(drawn, step[:, None] / line.weights.gather(1, place), 1.0)",
        "factors = torch.ones_like(line.weights.gather(1, place))",
        "with rtol, classes that were not drawn are left out: scores too low",
    ),
    Fault(
        _DRAWS, "off by one",
        "padded = torch.cat([sums, torch.zeros_like(sums[:, :1])], -1)\n    return padded.gather(1, certain[:, None])",
        "return sums.gather(1, (certain[:, None] - 1).clamp_min(0))",
        "with rtol, the last class that is taken for certain counts as one that is left",
    ),
    Fault(
        _ROUNDS, "wrong index",
        "zip(own, each[:, classes:].T, strict=True)", "zip(own, each[:, : len(own)].T, strict=True)",
        "with rtol and several schemes, the entropy's score is a class's norm",
    ),
    Fault(
        _ROUNDS, "stale index",
        "samples = torch.cat([at[rows], at[rows[:1]].expand(more)])",
        "samples = torch.cat([rows, rows[:1].expand(more)])",
        "with rtol, samples of a second round get the gradients of others",
    ),
    Fault(
        _ROUNDS, "dropped factor",
        "each = total_norms(sq_norms[: len(rows)], reduction) * scales",
        "each = total_norms(sq_norms[: len(rows)], reduction)",
        "with rtol, norms are of cotangents of size one",
    ),
    Fault(
        _ROUNDS, "option that does nothing",
        "each = total_norms(sq_norms[: len(rows)], reduction) * scales",
        'each = total_norms(sq_norms[: len(rows)], "global") * scales',
        "with rtol, reduction='per_tensor' has no effect",
    ),
    Fault(
        _ROUNDS, "off by one",
        "pulled += sum(drawn.numbers) + len(own) * len(partial.open)",
        "pulled = sum(drawn.numbers) + len(own) * len(partial.open)",
        "provenance's pull_backs are those of each batch's last round",
    ),
]  # fmt: skip
