"""A tiny classifier of texts and its tokenizer, made here and saved as transformers does."""

import torch

WORDS = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dull", "fine", "film", "good", "great", "not", "plot",
    "slow", "story", "the", "very",
)  # fmt: skip
TEXTS = [
    "a great film", "the plot not good", "a very very slow story", "fine", "not a dull story",
    "the film the plot the story", "good good good", "a slow plot", "great story", "very dull",
    "not fine not good not great", "the very good film",
]  # fmt: skip


def tokenizer(padding="[PAD]"):
    """Splits at spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=padding, unk_token="[UNK]", eos_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def classifier(kind="BertForSequenceClassification", labels=3):
    """With random weights of a seed."""
    import transformers

    sizes = {
        "vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.BertConfig(
        **sizes, num_labels=labels, pad_token_id=0, initializer_range=0.4
    )
    return getattr(transformers, kind)(config).eval()


def save(folder, kind="BertForSequenceClassification"):
    """Model and tokenizer in one folder; returns the model."""
    model = classifier(kind)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model
