"""A classifier of transformers and a table of texts in; the texts to label out.

On the command line the same is

    fastgradnorm acquire classifier/ reviews.csv 10 --text review --out to_label.csv --report page
"""

import csv
import random

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from fastgradnorm import acquire


def pretend(folder, table):
    """A tiny classifier with random weights and made-up texts. You have both: leave it out."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = "[PAD] [UNK] a bad boring film fine good great long not plot the very"
    words = words.split(" ")
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, num_labels=3, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    drawn = random.Random(0)
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review"])
        writer.writerows(
            [" ".join(drawn.choices(words[2:], k=drawn.randint(3, 20)))] for _ in range(150)
        )


if __name__ == "__main__":
    pretend("classifier", "reviews.csv")

    # With LoRA adapters: `text_lora.py`.
    model = AutoModelForSequenceClassification.from_pretrained("classifier")
    tokenizer = AutoTokenizer.from_pretrained("classifier")
    with open("reviews.csv", newline="") as file:
        texts = [row["review"] for row in csv.DictReader(file)]
    pool = Dataset.from_dict({"text": texts})
    pool = pool.map(lambda row: tokenizer(row["text"], truncation=True), remove_columns=["text"])
    loader = DataLoader(pool, batch_size=32, collate_fn=DataCollatorWithPadding(tokenizer))
    chosen = acquire(model, loader, 10, labelled=range(30))  # the first thirty have labels

    print(chosen)
    for row in chosen.records[:3]:
        print(f"{row['confidence']:.2f} sure of class {row['predicted']}: {texts[row['index']]}")
    chosen.to_csv("to_label.csv", columns={"text": texts})
    print(chosen.report("page", text=texts))
