import numpy as np
import pytest
import torch

from fastgradnorm import score_pool, select
from tests.support.asserts import assert_close_relative

datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from fastgradnorm.integrations.huggingface import score_column, score_trainer  # noqa: E402

WORDS, CLASSES, LENGTH = 40, 3, 10


@pytest.fixture
def model():
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=CLASSES, max_position_embeddings=LENGTH,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, WORDS, rng.integers(3, LENGTH)).tolist() for _ in range(19)]
    return datasets.Dataset.from_dict(
        {
            "text": ["some words"] * len(ids),
            "input_ids": ids,
            "attention_mask": [[1] * len(row) for row in ids],
            "label": [0] * len(ids),
        }
    )


def collate(rows):
    """Pads, as `DataCollatorWithPadding` does, which needs a tokenizer's files."""
    length = max(len(row["input_ids"]) for row in rows)
    batch = {
        name: torch.tensor([row[name] + [0] * (length - len(row[name])) for row in rows])
        for name in ("input_ids", "attention_mask")
    }
    return {**batch, "labels": torch.tensor([row["label"] for row in rows])}


@pytest.fixture
def outside(model, pool):
    return score_pool(model, [collate(pool.remove_columns("text").to_list())], progress=False)


# `datasets` sorts with an argument that pyarrow has given another place.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")
def test_a_column_of_scores(model, pool, outside):
    scored = pool.map(score_column(model, collate), batched=True, batch_size=5)
    assert scored.column_names == [*pool.column_names, "gradient_norm"]
    found = torch.tensor(scored["gradient_norm"][:])
    assert_close_relative(found, outside, 1e-5)
    best = scored.sort("gradient_norm", reverse=True).select(range(4))
    chosen = pool.select(select(outside, 4).tolist())
    assert best["input_ids"][:] == chosen["input_ids"][:]


@pytest.mark.slow
def test_a_model_trained_further_is_scored_anew(model, pool, tmp_path):
    pool.save_to_disk(tmp_path)
    pool = datasets.load_from_disk(tmp_path)  # only datasets with files are cached
    first = pool.map(score_column(model, collate, "score"), batched=True)
    with torch.no_grad():
        model.classifier.weight.mul_(2)
    second = pool.map(score_column(model, collate, "score"), batched=True)
    assert len(first.cache_files) == len(second.cache_files) == 1
    assert first.cache_files != second.cache_files
    assert first["score"][:] != second["score"][:]


@pytest.mark.slow
def test_the_default_collator_and_options(pool):
    images = datasets.Dataset.from_dict(
        {"x": np.random.default_rng(0).standard_normal((6, 4)).tolist(), "label": [0] * 6}
    )

    class Linear(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x)

    model = Linear(4, 3)
    scored = images.map(score_column(model, scheme="entropy"), batched=True)
    expected = score_pool(model, [torch.tensor(images["x"][:])], scheme="entropy", progress=False)
    assert_close_relative(torch.tensor(scored["gradient_norm"][:]), expected, 1e-5)
    with pytest.raises(TypeError, match=r"`scheme` must be one name"):
        score_column(model, scheme=["entropy"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"train_sampling_strategy": "group_by_length"}, {"dataloader_drop_last": True}]
)
def test_a_trainer(model, pool, outside, settings, tmp_path):
    arguments = transformers.TrainingArguments(
        str(tmp_path), per_device_eval_batch_size=4, use_cpu=True, report_to=[], **settings
    )
    trainer = transformers.Trainer(model, arguments, data_collator=collate)
    scores = score_trainer(trainer, pool, progress=False)
    assert_close_relative(scores, outside, 1e-5)
    assert select(scores, 4).tolist() == select(outside, 4).tolist()


@pytest.mark.slow
def test_labels_by_another_name(model, pool, outside, tmp_path):
    """The trainer's label names are kept from the model, which refuses them."""

    class Strict(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, input_ids, attention_mask):
            return self.inner(input_ids=input_ids, attention_mask=attention_mask)

    arguments = transformers.TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        report_to=[],
        label_names=["targets"],
        remove_unused_columns=False,
    )

    def with_targets(rows):
        batch = collate(rows)
        return {**batch, "targets": batch.pop("labels")}

    trainer = transformers.Trainer(Strict(), arguments, data_collator=with_targets)
    pool = pool.remove_columns("text")
    found = score_trainer(trainer, pool, scheme=["entropy", "expected"], progress=False)
    assert list(found) == ["entropy", "expected"]
    assert_close_relative(found["expected"], outside, 1e-5)


@pytest.mark.parametrize("format_of", [None, "torch", "numpy"])
def test_a_column_whatever_format_the_dataset_has(format_of):
    rows = torch.randn(7, 5)
    pool = datasets.Dataset.from_dict({"x": rows.tolist()}).with_format(format_of)
    model = torch.nn.Linear(5, 3)

    def collate(examples):
        return torch.stack([torch.as_tensor(example["x"]) for example in examples])

    scored = pool.map(score_column(model, collate), batched=True).with_format("torch")
    exact = score_pool(model, [rows], progress=False)
    torch.testing.assert_close(scored["gradient_norm"][:], exact)
    if format_of is None:  # `datasets` tells a row with a format by nothing
        with pytest.raises(TypeError, match="batched=True"):
            pool.map(score_column(model, collate))
