"""Texts and a transformer with LoRA adapters (peft): only what is trained counts in the scores.

Needs peft (`pip install peft`) beside transformers and datasets.
"""

import csv
import random

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from fastgradnorm import GradNormScorer, acquire

BUDGET, LABELLED = 10, 40


def pretend(folder, table):
    """A tiny base model with random weights, and texts. You have both: leave it out."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    good, bad, other = ["fine", "good", "great"], ["bad", "boring", "long"], ["a", "film", "the"]
    words = ["[PAD]", "[UNK]", *good, *bad, *other]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, num_labels=2, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    drawn = random.Random(0)
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "label"])
        for i in range(160):
            mood = drawn.choices(good if i % 2 else bad, k=drawn.randint(1, 4))
            text = mood + drawn.choices(other, k=drawn.randint(1, 9))
            writer.writerow(
                [" ".join(drawn.sample(text, len(text))), i % 2 if i < LABELLED else ""]
            )


def train(model, loader):
    """As you train yours; adapters and the head move, the base stays as it was."""
    torch.manual_seed(0)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 5e-3)
    model.train()
    for _ in range(15):
        for batch in loader:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()


if __name__ == "__main__":
    pretend("base", "reviews.csv")

    tokenizer = AutoTokenizer.from_pretrained("base")
    with open("reviews.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = [row["review"] for row in rows]
    tokens = [tokenizer(text, truncation=True) for text in texts]
    collator = DataCollatorWithPadding(tokenizer)

    # Train adapters on what has labels, and keep them: a folder of some kilobytes.
    base = AutoModelForSequenceClassification.from_pretrained("base")
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules=["query", "value"])
    model = get_peft_model(base, lora)
    model.print_trainable_parameters()
    known = [
        {**token, "labels": int(row["label"])}
        for token, row in zip(tokens, rows, strict=True)
        if row["label"]
    ]
    train(model, DataLoader(known, batch_size=8, shuffle=True, collate_fn=collator))
    model.save_pretrained("adapters")

    # On another day, from disk. Without `is_trainable=True` peft freezes the adapters, and nothing
    # would have a gradient.
    base = AutoModelForSequenceClassification.from_pretrained("base")
    model = PeftModel.from_pretrained(base, "adapters", is_trainable=True)
    pool = Dataset.from_list([dict(token) for token in tokens])
    loader = DataLoader(pool, batch_size=32, collate_fn=collator)
    chosen = acquire(
        model, loader, BUDGET, labelled=[i for i, row in enumerate(rows) if row["label"]]
    )

    print(chosen)
    for row in chosen.records[:3]:
        print(f"{row['confidence']:.2f} sure of class {row['predicted']}: {texts[row['index']]}")
    chosen.to_csv("to_label.csv", columns={"text": texts})

    # Scores over adapters and head, instead of the head alone:
    scorer = GradNormScorer(model)
    scores = scorer.score(loader)
    print(scores)
    print(scorer.explain(next(iter(loader))))
