"""Scores a pool while a Lightning trainer predicts it.

    writer = GradNormWriter("scores.npz", params="last_layer")
    Trainer(callbacks=[writer]).predict(model, loader)
    writer.scores.select(100)

Inside `predict_step`, `score_pool(self, [batch])` works as well, also in the inference mode that
`Trainer.predict` runs in.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastgradnorm import GradNormScorer, PoolScores
from fastgradnorm.integrations._extras import needs
from fastgradnorm.integrations._one_scheme import check_one_scheme

with needs("lightning"):
    from lightning.pytorch.callbacks import BasePredictionWriter


class GradNormWriter(BasePredictionWriter):
    """Scores each batch that is predicted, and keeps or writes the scores of the whole pool.

    The model is the LightningModule itself: its `forward` takes a batch's inputs and returns
    logits, as told at `fastgradnorm.score_pool`; `forward=` is for other batches and outputs. What
    `predict_step` does and returns is its own affair.

    With several processes each scores its share; the shares are put in the dataset's order and
    samples that the sampler repeated are counted once. All processes hold all scores, the first
    writes them.

    Args:
        path: An npz file for `PoolScores.load`, or None.
        options: Keyword arguments, see `fastgradnorm.Options`.

    Attributes:
        scores: `PoolScores` of the last prediction, in the order of the dataset, with `indices` if
            not all of it was predicted; NaN and infinite ones are kept.
    """

    scores: PoolScores

    def __init__(self, path: str | Path | None = None, **options: Any) -> None:
        super().__init__("batch_and_epoch")
        check_one_scheme(options)
        self.path = path
        self.options: dict[str, Any] = {"progress": False, **options}

    def on_predict_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts anew."""
        self._found: dict[int, float] = {}
        self._inbox: deque[Any] = deque()
        # One stream, so that the model is read and verified once and not at each batch; and each
        # batch is scored before the next one is there.
        options: dict[str, Any] = {**self.options, "latency": 0}
        scorer = GradNormScorer(pl_module, **options)
        self._stream: Iterator[Any] = scorer.stream(iter(self._inbox.popleft, None))

    def write_on_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Scores one batch."""
        if dataloader_idx:
            raise ValueError("`dataloaders` must be one. Got several. Predict them one by one.")
        self._inbox.append(batch)
        values = next(self._stream)
        if not batch_indices:  # unknown to Lightning for iterable datasets and some samplers
            if trainer.world_size > 1:
                raise ValueError(
                    "`dataloaders` must have samplers that Lightning can trace over several "
                    "processes. Got one without indices. Score with one process."
                )
            batch_indices = range(len(self._found), len(self._found) + len(values))
        self._dtype = values.dtype
        self._found.update(zip(map(int, batch_indices), values.tolist(), strict=True))

    def write_on_epoch_end(
        self, trainer: Any, pl_module: Any, predictions: Any, batch_indices: Any
    ) -> None:
        """Puts the scores of all batches together."""
        shares: list[Any] = [self._found]
        if trainer.world_size > 1:
            shares = [None] * trainer.world_size
            torch.distributed.all_gather_object(shares, self._found)
        found = {index: score for share in shares for index, score in share.items()}
        order = np.array(sorted(found), dtype=np.int64)
        values = torch.tensor(
            [found[index] for index in order.tolist()], dtype=self._dtype, device="cpu"
        )
        del self._stream  # a generator: callbacks are copied and pickled
        facts = {"scheme": self.options.get("scheme", "expected")}
        whole = np.array_equal(order, np.arange(len(order)))
        self.scores = PoolScores(values, None, facts, None if whole else torch.from_numpy(order))
        if self.path is not None and trainer.is_global_zero:
            self.scores.save(self.path)
