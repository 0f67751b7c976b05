"""What a strategy is given to choose from."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fastgradnorm._pool import as_loader
from fastgradnorm.active._task import Inputs


@dataclass(frozen=True, eq=False)
class Context:
    """The state of one cycle, just before samples are chosen.

    Attributes:
        model: Trained on what is labelled so far, in eval mode.
        pool: The task's data. Its labels are none of a strategy's business.
        indices: Pool indices `[n]` of the candidates.
        labelled: Pool indices of what is labelled already.
        budget: How many to choose, at most n.
        seed: Of this cycle; everything random in a strategy starts from it.
        batch_size: For passes over the candidates.
        score_options: Keyword arguments of `score_pool` that the task needs.
        seconds: Filled by `timed`.
    """

    model: nn.Module
    pool: Dataset[Any]
    indices: Tensor
    labelled: Tensor
    budget: int
    seed: int
    batch_size: int = 256
    score_options: Mapping[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def candidates(self) -> DataLoader[Any]:
        """Batches of the candidates' inputs, in the order of `indices`."""
        return self.loader(self.indices)

    def loader(self, indices: Tensor) -> DataLoader[Any]:
        """Batches of the inputs of any items of the pool, in order."""
        inputs = Inputs(self.pool, indices)
        if self.score_options.get("forward") is not None or not len(inputs):
            return DataLoader(inputs, self.batch_size)
        made: DataLoader[Any] = as_loader(inputs, self.model, None, self.batch_size, "task.pool")
        return made

    def generator(self) -> np.random.Generator:
        """Random numbers that depend on the cycle's seed alone."""
        return np.random.default_rng(self.seed)

    @property
    def options(self) -> dict[str, Any]:
        """`score_options` without a progress bar: the learner has its own."""
        return {"progress": False, **self.score_options}

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the seconds of a block to `seconds[what]`."""
        start = _now()
        try:
            yield
        finally:
            self.seconds[what] += _now() - start


def _now() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
