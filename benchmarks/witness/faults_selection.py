"""Faults in choosing samples: strategies, `acquire`, campaigns."""
# ruff: noqa: E501 - texts as they stand in the files

from benchmarks.witness.fault import Fault

_COVERAGE, _FREE, _HERDING = "_selection/coverage.py", "_selection/free.py", "_selection/herding.py"
_FRAMES, _KERNEL = "_selection/frames.py", "_selection/kernel.py"
_ACQUIRE, _READING, _GATHER = "_acquire.py", "_reading.py", "_gather.py"
_JOURNAL, _STATE = "active/campaign/_journal.py", "active/campaign/_state.py"

FAULTS = [
    Fault(
        _COVERAGE, "stale state",
        "            coverage.add(i)\n", "            pass\n",
        "herding chooses the best by what they add alone: near-duplicates",
    ),
    Fault(
        _COVERAGE, "dropped guard",
        "        if positions and far is None:\n            _look(coverage, bounds)\n", "",
        "coverage goes by what samples would have added at first",
    ),
    Fault(
        _COVERAGE, "dropped factor",
        ".clamp_min_(0) @ self._weights", ".clamp_min_(0).sum(1)",
        "herding does not heed the gradient norm",
    ),
    Fault(
        _HERDING, "option that does nothing",
        "coverage = Coverage(points, points[places], weight, labelled, kernel)",
        "coverage = Coverage(points, points[places], weight, labelled[:0], kernel)",
        "herding, MaxHerding, uncertainty herding and ProbCover start from nothing, not from what is labelled",
    ),
    Fault(
        _HERDING, "precision lost",
        "weight = weight.double().nan_to_num(0, 0, 0).clamp_min(0)",
        "weight = weight.float().nan_to_num(0, 0, 0).clamp_min(0)",
        "scores too small for float32 weigh alike",
    ),
    Fault(
        _KERNEL, "dropped guard",
        "distances = torch.pdist(points[~near.tril(-1).any(1)])", "distances = torch.pdist(points)",
        "of a pool that is a third blank pictures nothing but these is covered",
    ),
    Fault(
        _FRAMES, "precision lost",
        "        wide = part.double()\n", "        wide = part\n",
        "points too small or large for squares in float32 are all one: whatever is first is chosen",
    ),
    Fault(
        _FRAMES, "dropped term",
        "(x if mean is None else x - mean)", "x",
        "of points that lie close together rounding chooses",
    ),
    Fault(
        _FREE, "off by one",
        "if self._by_group[group] >= self._most:", "if self._by_group[group] > self._most:",
        "one more of a group is chosen than max_per_group says",
    ),
    Fault(
        _FREE, "option that does nothing",
        "            self.mask &= self._points @ self._points[i] <= self._similarity\n", "            pass\n",
        "max_similarity leaves no near-duplicates out",
    ),
    Fault(
        _READING, "dropped guard",
        "        candidates = candidates[~torch.isin(places[candidates], known)]\n", "",
        "acquire chooses what is labelled already",
    ),
    Fault(
        _READING, "wrong index",
        "candidates = candidates[~torch.isin(places[candidates], known)]",
        "candidates = candidates[~torch.isin(candidates, known)]",
        "of a loader that shuffles, acquire leaves out others than those that are labelled",
    ),
    Fault(
        _GATHER, "option that does nothing",
        'kept = {"features": wants.features, "probabilities": wants.classes}', "kept: dict[str, bool] = {}",
        "a checkpoint without features is gone on with by a strategy that needs them, and fails in other words",
    ),
    Fault(
        _ACQUIRE, "dropped guard",
        "    check_ranks(asked.distributed, told | bounds)\n", "",
        "ranks that are given different labelled samples choose differently, and nobody is told",
    ),
    Fault(
        _ACQUIRE, "wrong index",
        "indices=read.places[positions],", "indices=positions,",
        "of a loader that shuffles, acquire gives places in the loader for indices of the dataset",
    ),
    Fault(
        _ACQUIRE, "option that does nothing",
        "        found.close_near(labelled)\n", "        pass\n",
        "max_similarity does not heed what is labelled",
    ),
    Fault(
        _GATHER, "option forgotten in one branch",
        "logits, features = logits_and_features(passes, self._subject, names, batch, valid)",
        "logits, features = logits_and_features(passes, self._subject, names, batch, None)",
        "features of padded tokens and masked pixels count where all parameters are scored",
    ),
    Fault(
        _JOURNAL, "dropped guard",
        "                    file.truncate(whole)  # nothing is kept of what was not kept whole\n", "                    pass\n",
        "on a full disk half a line stays in the campaign's file, and later answers may be taken for damage",
    ),
    Fault(
        _STATE, "wrong comparison",
        "        return known != given\n", "        return bool(self.answers[batch, key] != label)\n",
        "a label 1 that is corrected to true stays 1",
    ),
    Fault(
        _JOURNAL, "dropped guard",
        "                file.truncate(whole)  # a line that was cut off goes\n", "",
        "a campaign whose last line was cut off by a kill cannot be opened after the next answer",
    ),
    Fault(
        _JOURNAL, "dropped guard",
        'with self._locked(self.path.with_suffix(".lock"), "ab", fcntl.LOCK_EX):', "with contextlib.nullcontext():",
        "two processes that ask at once each make a batch, of the same samples",
    ),
    Fault(
        _STATE, "forgotten state",
        "return tuple(key for key in batch.keys if key not in self.latest)",
        "return tuple(key for key in batch.keys if key not in self.labelled)",
        "a batch of which samples were skipped waits for ever",
    ),
]  # fmt: skip
