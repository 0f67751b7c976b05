"""Small configurations of models of the transformers library, with random weights.

Nothing keeps a trivial initial value: what is initialised to 0 or 1 is moved off it, and weights
are drawn wide enough for logits that differ.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers as hf
from torch import Tensor, nn

from tests.support.cases import perturb

CLASSES = 3
WORDS = 20
TEXT = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "num_labels": CLASSES,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
IMAGE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 4,
    "num_labels": CLASSES,
    "initializer_range": 0.3,
}
SPEECH = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8, 8),
    "conv_stride": (4, 2),
    "conv_kernel": (6, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "num_labels": CLASSES,
    "initializer_range": 0.3,
}


class Pooled(nn.Module):
    """A body without a head, averaged over the valid tokens."""

    def __init__(self, body: nn.Module, width: int):
        super().__init__()
        self.body, self.head = body, nn.Linear(width, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        valid = attention_mask[..., None].to(hidden.dtype)
        return self.head((hidden * valid).sum(1) / valid.sum(1))


@dataclass(frozen=True)
class Model:
    """How to build one, and beginnings of names of parameters that its logits do not depend on."""

    build: Callable[[], nn.Module]
    idle: tuple[str, ...] = ()


def model(
    name: str, config: str, defaults: dict, /, idle: tuple[str, ...] = (), **changes
) -> Model:
    """A class of the library and the class of its configuration, by name."""

    def build() -> nn.Module:
        settings = getattr(hf, config)(**(defaults | changes))
        return getattr(hf, name)(settings)

    return Model(build, idle)


def t5_encoder() -> nn.Module:
    config = hf.T5Config(
        vocab_size=WORDS, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, pad_token_id=0,
        relative_attention_num_buckets=8, relative_attention_max_distance=16,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return Pooled(hf.T5EncoderModel(config), 16)


_ATTENTION = {"attn_implementation": "eager"}

TEXTS = {
    "bert": model("BertForSequenceClassification", "BertConfig", TEXT),
    "bert-eager": model("BertForSequenceClassification", "BertConfig", TEXT, **_ATTENTION),
    "distilbert": model(
        "DistilBertForSequenceClassification", "DistilBertConfig", {},
        vocab_size=WORDS, dim=16, hidden_dim=24, n_layers=2, n_heads=2, num_labels=CLASSES,
        max_position_embeddings=16, pad_token_id=0, initializer_range=0.3,
    ),
    "roberta": model("RobertaForSequenceClassification", "RobertaConfig", TEXT),
    "albert": model(
        "AlbertForSequenceClassification", "AlbertConfig", TEXT, embedding_size=8
    ),
    "deberta-v2": model(
        "DebertaV2ForSequenceClassification", "DebertaV2Config", TEXT,
        relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=4,
        norm_rel_ebd="layer_norm", share_att_key=False, max_relative_positions=-1,
        pooler_hidden_size=16,
    ),
    "modernbert": model(
        "ModernBertForSequenceClassification", "ModernBertConfig", TEXT,
        local_attention=4, global_attn_every_n_layers=2, cls_token_id=1, sep_token_id=2,
        bos_token_id=1, eos_token_id=2, initializer_cutoff_factor=2.0,
    ),
    "gpt2": model(
        "GPT2ForSequenceClassification", "GPT2Config", {},
        vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=16, num_labels=CLASSES,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.3,
    ),
    "llama": model(
        "LlamaForSequenceClassification", "LlamaConfig", TEXT, num_key_value_heads=1
    ),
    "t5-encoder": Model(t5_encoder),
}  # fmt: skip

IMAGES = {
    "vit": model("ViTForImageClassification", "ViTConfig", IMAGE),
    "vit-eager": model("ViTForImageClassification", "ViTConfig", IMAGE, **_ATTENTION),
    "deit": model("DeiTForImageClassification", "DeiTConfig", IMAGE),
    "deit-with-teacher": model("DeiTForImageClassificationWithTeacher", "DeiTConfig", IMAGE),
    "beit": model(
        "BeitForImageClassification", "BeitConfig", IMAGE,
        use_relative_position_bias=True, use_absolute_position_embeddings=True,
    ),
    "beit-shared-bias": model(
        "BeitForImageClassification", "BeitConfig", IMAGE,
        use_shared_relative_position_bias=True, use_mean_pooling=False,
    ),
    "swin": model(
        "SwinForImageClassification", "SwinConfig", {},
        image_size=16, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[2, 2], window_size=4,
        num_labels=CLASSES, initializer_range=0.3,
    ),
    "convnext": model(
        "ConvNextForImageClassification", "ConvNextConfig", {},
        hidden_sizes=[8, 12], depths=[2, 1], num_stages=2, patch_size=2, num_labels=CLASSES,
        initializer_range=0.3, layer_scale_init_value=0.1,
    ),
    "resnet": model(
        "ResNetForImageClassification", "ResNetConfig", {},
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], num_labels=CLASSES,
    ),
    "mobilevit": model(
        "MobileViTForImageClassification", "MobileViTConfig", {},
        image_size=32, output_stride=8, hidden_sizes=[8, 10, 12],
        neck_hidden_sizes=[4, 6, 8, 8, 10, 12, 16],
        num_attention_heads=2, mlp_ratio=1.5, expand_ratio=2.0, num_labels=CLASSES,
        initializer_range=0.3,
    ),
    "segformer": model(
        "SegformerForImageClassification", "SegformerConfig", {},
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 12],
        patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
        num_labels=CLASSES, initializer_range=0.3,
    ),
    "clip": Model(lambda: hf.CLIPForImageClassification(hf.CLIPConfig(
        vision_config={k: v for k, v in IMAGE.items() if k != "num_labels"},
        text_config={k: v for k, v in TEXT.items() if k != "num_labels"}, num_labels=CLASSES,
    )), idle=("vision_model.post_layernorm.",)),
}  # fmt: skip

SPEECHES = {
    "wav2vec2": model(
        "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", SPEECH,
        idle=("wav2vec2.masked_spec_embed",),
    ),
    "wav2vec2-layer-norm": model(
        "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", SPEECH,
        feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True,
        use_weighted_layer_sum=True,
        idle=("wav2vec2.masked_spec_embed", "wav2vec2.encoder.layer_norm."),
    ),
}  # fmt: skip

ALL = TEXTS | IMAGES | SPEECHES


@functools.cache
def built(name: str) -> nn.Module:
    """The model of a name, perturbed; shared between tests, which must not change it."""
    torch.manual_seed(1)
    return perturb(ALL[name].build())


LENGTHS = torch.tensor([9, 4, 9, 6])  # of the four samples, two of them padded


def texts(padding: int = 0) -> dict[str, Tensor]:
    """Four texts `[4, 9 + padding]` without word 0, and their attention mask."""
    torch.manual_seed(2)
    ids = torch.randint(3, WORDS, (4, 9))
    ids = torch.cat([ids, torch.zeros(4, padding, dtype=ids.dtype)], 1)
    mask = (torch.arange(9 + padding) < LENGTHS[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def images(size: int = 16) -> Tensor:
    """Four images `[4, 3, size, size]`."""
    torch.manual_seed(2)
    return torch.randn(4, 3, size, size)


def sounds(padding: int = 0) -> dict[str, Tensor]:
    """Four sounds of up to 100 samples, padded by zeros."""
    torch.manual_seed(2)
    lengths = 11 * LENGTHS[:, None] + 1
    values = torch.randn(4, 100)
    values = torch.cat([values, torch.zeros(4, padding)], 1)
    mask = (torch.arange(100 + padding) < lengths).long()
    return {"input_values": values * mask, "attention_mask": mask}
