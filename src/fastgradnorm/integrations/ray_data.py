"""Scores in Ray Data: a callable class for `Dataset.map_batches`, ids in, ids and scores out."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastgradnorm import GradNormScorer


class GradNormActor:
    """Scores batches of columns in the actors of Ray Data, for pools and clusters of any size.

    Each actor makes the model once, and verifies the first batch it sees. Ray does not keep rows in
    order, so that each score comes with its row's id. An actor that fails ends the run in Ray's
    error, which tells the ids of NaN and infinite scores; rows are left out only if one sets
    `DataContext.max_errored_blocks`.

    Args:
        model_factory: Returns the model, on the device to score on; called once in each actor. It
            must give each actor the same model: load weights there, or pass `lambda: model`.
        input_column: The column of inputs; or several, which are passed to the model as keywords.
        id_column: The column that tells rows apart; it is handed on.
        score_column: What to call the scores of a single scheme. Those of several are called as
            the schemes.
        options: Keyword arguments, see `fastgradnorm.Options`.

    Raises:
        TypeError: If a name is no option, or a column does not hold numbers of one shape.
        ValueError: If a column is missing, or a score is NaN or infinite.

    Example:
        Score a table with two actors, and take the best hundred::

            scores = ray.data.read_parquet("pool.parquet").map_batches(
                GradNormActor,
                fn_constructor_args=[load_model],
                fn_constructor_kwargs={"input_column": "image", "id_column": "id"},
                batch_format="numpy", batch_size=64, concurrency=2,  # num_gpus=1 for GPUs
            )
            best = scores.sort("score", descending=True).take(100)

        Without Ray it is a function from columns to columns:

        >>> model = nn.Linear(3, 2)
        >>> for p in model.parameters(): _ = nn.init.zeros_(p)
        >>> actor = GradNormActor(lambda: model, input_column="x", id_column="id")
        >>> actor({"x": np.array([[1.0, 0, 0], [1.0, 1, 1]]), "id": np.array([7, 8])})["score"]
        array([1.       , 1.4142135], dtype=float32)
    """

    def __init__(
        self,
        model_factory: Callable[[], nn.Module],
        *,
        input_column: str | Sequence[str],
        id_column: str,
        score_column: str = "score",
        **options: Any,
    ) -> None:
        self._inputs, self._id, self._score = input_column, id_column, score_column
        # An actor is given rows of its own: other processes have no part in them, and the scores of
        # a batch are asked for before the next one is there.
        own = {"distributed": False, "latency": 0}
        options = {"progress": False, **options, **own}
        self._scorer = GradNormScorer(model_factory(), **options)
        floating = (p.dtype for p in self._scorer.model.parameters() if p.is_floating_point())
        self._dtype = next(floating, torch.get_default_dtype())
        self._batch: Any = None
        self._stream = self._scorer.stream(self._arriving())

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The ids and scores of a batch of columns."""
        names = [self._inputs] if isinstance(self._inputs, str) else list(self._inputs)
        columns = {name: self._tensor(name, _column(batch, name)) for name in names}
        self._batch = columns[self._inputs] if isinstance(self._inputs, str) else columns
        ids = _column(batch, self._id)
        try:
            scores = next(self._stream)
        except Exception:  # a generator that raised is over; the next batch has another one
            self._stream = self._scorer.stream(self._arriving())
            raise
        by_name = scores if isinstance(scores, dict) else {self._score: scores}
        self._judge(ids, by_name)
        return {self._id: ids, **{name: values.numpy() for name, values in by_name.items()}}

    def _arriving(self) -> Iterator[Any]:
        """Batches as a pool of unknown length: one plan and one verification for all of them."""
        while True:
            yield self._batch

    def _tensor(self, name: str, column: np.ndarray) -> Tensor:
        if column.dtype.kind not in "biuf":
            raise TypeError(
                f"`input_column` must hold numbers of one shape. Got dtype {column.dtype} in "
                f"{name!r}. Pad and convert it in an earlier `map_batches`."
            )
        tensor = torch.tensor(column, device="cpu")  # a copy: Ray's arrays are read-only
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def _judge(self, ids: np.ndarray, by_name: Mapping[str, Tensor]) -> None:
        bad = torch.stack([~values.isfinite() for values in by_name.values()]).any(0).numpy()
        if not bad.any() or self._scorer.options.on_nonfinite == "keep":
            return
        message = (
            f"Scores are NaN or infinite for {self._id!r} {ids[bad].tolist()}. Check these rows"
        )
        if self._scorer.options.on_nonfinite == "raise":
            raise ValueError(f"{message}; `on_nonfinite='keep'` passes the scores on.")
        warnings.warn(f"{message}.", stacklevel=3)


def _column(batch: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in batch:
        raise ValueError(
            f"`input_column` and `id_column` must name columns. Got {name!r}; there are "
            f"{', '.join(map(repr, batch))}."
        )
    return np.asarray(batch[name])
