"""Nothing of a batch outlives it."""

import gc
import weakref

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer
from tests.support.cases import CASES

pytestmark = pytest.mark.slow


def tensors():
    """All that this process holds, other tests' included."""
    gc.collect()
    # not isinstance: it asks objects for their class, at which some warn
    return [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]


class TestNothingOutlivesItsBatch:
    """Of 40 batches, of which none but the last two may be there at any time."""

    @pytest.mark.parametrize("extra", [{}, {"checkpoint": True}, {"subset": 0.5}])
    def test_batches(self, extra, tmp_path):
        if "checkpoint" in extra:
            extra = {"checkpoint": tmp_path / "scores.jsonl"}
        model, inputs = CASES["mlp"].random()
        alive, counts = [], []

        def batches():
            for i in range(40):
                batch = inputs[i : i + 4].clone()
                alive.append(weakref.ref(batch))
                yield batch
                del batch
                counts.append(sum(ref() is not None for ref in alive))

        GradNormScorer(model, scheme="entropy", progress=False, **extra).score(batches())
        assert max(counts) <= 1

    def test_tensors(self):
        """As many after 40 batches as after 5, though most have shapes not seen before."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
        model.append(nn.Linear(4, 3))
        sizes, others = [], tensors()  # held, so that no new one gets the `id` of one of them
        known = {id(x) for x in others}
        lengths = [5 + i % 20 for i in range(40)]
        scorer = GradNormScorer(model, progress=False)
        batches = (torch.randn(4, 2, length) for length in lengths)
        for done, _ in enumerate(scorer.stream(batches), 1):
            if done in (5, 40):
                found = [x for x in tensors() if id(x) not in known]
                kept = [t.untyped_storage() for t in found if t.device.type == "cpu"]
                sizes.append(sum({s.data_ptr(): s.nbytes() for s in kept}.values()))
                assert not [t for t in found if t.grad_fn is not None]
                del found
        assert sizes[1] <= sizes[0] + 4 * (4 * 2 * 30)  # a batch
