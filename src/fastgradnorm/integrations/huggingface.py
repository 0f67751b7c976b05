"""Scores in Hugging Face `datasets` and with a `transformers.Trainer`.

pool = pool.map(score_column(model, collator), batched=True)  # a column "gradient_norm"
scores = score_trainer(trainer, pool)
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from fastgradnorm import GradNormScorer, score_pool
from fastgradnorm.integrations._extras import needs
from fastgradnorm.integrations._one_scheme import check_one_scheme


def score_column(
    model: nn.Module,
    collator: Callable[[list[dict[str, Any]]], Any] | None = None,
    column: str = "gradient_norm",
    **options: Any,
) -> Callable[[Mapping[str, list[Any]]], dict[str, list[float]]]:
    """A function for `datasets.Dataset.map(..., batched=True)` that adds a column of scores.

    Columns that are no tensors or numbers, such as the text, are left out of what the collator
    gets. `datasets` tells cached results apart by the function and all it holds, the model's
    parameters included: a model trained further is scored anew. Each call looks the model over, so
    that small values of `map`'s `batch_size` (1000) cost time.

    Args:
        model: Classifier; a mapping from the collator is passed to it as keywords, without labels.
        collator: A list of examples to a batch, such as `DataCollatorWithPadding(tokenizer)`; by
            default `transformers.default_data_collator`, for examples of equal lengths.
        column: Name of the new column.
        options: Keyword arguments, see `fastgradnorm.Options`.

    Returns:
        The function: columns of some examples to `{column: scores}`.
    """
    check_one_scheme(options)
    collate = _default_collator() if collator is None else collator
    scorer = GradNormScorer(model, **options)

    def add_scores(examples: Mapping[str, list[Any]]) -> dict[str, list[float]]:
        if type(examples).__name__ == "LazyRow":  # the values of one are no examples
            raise TypeError(
                "`score_column` must be given several examples at once. Got one: "
                "`dataset.map(score_column(...), batched=True)`."
            )
        kept = {name: values for name, values in examples.items() if not _is_text(values)}
        rows = [dict(zip(kept, row, strict=True)) for row in zip(*kept.values(), strict=True)]
        return {column: scorer.score_batch(collate(rows)).tolist()}

    return add_scores


def score_trainer(trainer: Any, dataset: Any, **options: Any) -> Any:
    """Scores of `dataset` by a trainer's model, through its collator, in the dataset's order.

    Columns are dropped and labels recognised as the trainer does it. Its sampler is not used: with
    `group_by_length` it would change the order, with `dataloader_drop_last` leave samples out, and
    over several processes give each a share. Here each process scores the whole dataset.

    Args:
        trainer: A `transformers.Trainer`.
        dataset: What `trainer.predict` takes.
        options: Keyword arguments, see `fastgradnorm.Options`.

    Returns:
        Scores `[N]`, or a dict of them; see `fastgradnorm.score_pool`.
    """
    theirs = trainer.get_test_dataloader(dataset)
    loader = DataLoader(
        theirs.dataset,
        batch_size=trainer.args.eval_batch_size,
        collate_fn=theirs.collate_fn,
        num_workers=trainer.args.dataloader_num_workers,
    )
    return score_pool(trainer.model, _Unlabelled(loader, trainer.label_names), **options)


class _Unlabelled:
    """A loader whose batches have no labels, whatever the trainer calls them."""

    def __init__(self, loader: DataLoader[Any], label_names: list[str]) -> None:
        self.loader, self.label_names = loader, set(label_names)
        self.dataset = loader.dataset  # its length is the progress bar's

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if isinstance(batch, Mapping):
                yield {k: v for k, v in batch.items() if k not in self.label_names}
            else:
                yield batch


def _default_collator() -> Callable[[list[dict[str, Any]]], Any]:
    with needs("huggingface"):
        from transformers import default_data_collator
    collator: Callable[[list[dict[str, Any]]], Any] = default_data_collator
    return collator


def _is_text(values: Any) -> bool:
    return len(values) > 0 and isinstance(values[0], (str, bytes))
