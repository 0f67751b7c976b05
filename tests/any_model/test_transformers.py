"""Models of the transformers library: exact, on padded and unpadded samples in one batch."""

import copy

import pytest
import torch
import transformers as hf
from torch import nn

from fastgradnorm import score_pool
from tests.support import oracle, zoo
from tests.support.agreement import FLOAT64, Wide, assert_agrees, logits_of, ones, take
from tests.support.asserts import assert_close_relative
from tests.support.cases import perturb

HEADS = {  # names of the layers that return the logits
    "bert": "classifier.",
    "distilbert": "classifier.",
    "roberta": "classifier.out_proj.",
    "albert": "classifier.",
    "deberta-v2": "classifier.",
    "modernbert": "classifier.",
    "gpt2": "score.",
    "llama": "score.",
    "t5-encoder": "head.",
    "vit": "classifier.",
    "swin": "classifier.",
    "convnext": "classifier.",
    "resnet": "classifier.1.",
    "mobilevit": "classifier.",
    "wav2vec2-layer-norm": "classifier.",
}


def batch_of(name):
    if name in zoo.TEXTS:
        return zoo.texts()
    if name in zoo.SPEECHES:
        return zoo.sounds()
    return {"pixel_values": zoo.images(32 if name == "mobilevit" else 16)}


def attributes(model):
    """What each module holds, by identity."""
    return {
        name: {key: id(value) for key, value in vars(module).items()}
        for name, module in model.named_modules()
    }


def entropies(model, batches, **options):
    options = {"scheme": "entropy", "verify": False, "progress": False} | options
    with Wide():
        return score_pool(model, batches, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.ALL)
def test_exact_against_the_float64_loop(name):
    model = zoo.built(name)
    before = attributes(model)
    assert_agrees(model, batch_of(name), idle=zoo.ALL[name].idle)
    assert attributes(model) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", [*zoo.TEXTS, "wav2vec2-layer-norm"])
def test_padding_changes_no_score(name):
    """Neither a sample's own padding nor that of the others."""
    model = copy.deepcopy(zoo.built(name)).double()
    make = zoo.texts if name in zoo.TEXTS else zoo.sounds
    batch, longer = oracle.in_float64(make()), oracle.in_float64(make(padding=3))
    lengths = batch["attention_mask"].sum(1).tolist()
    alone = [
        {key: value[:, :length] for key, value in sample.items()}
        for sample, length in zip(ones(batch), lengths, strict=True)
    ]
    with torch.no_grad(), Wide():
        logits = logits_of(model, batch)
        for other in (torch.cat([logits_of(model, a) for a in alone]), logits_of(model, longer)):
            assert torch.allclose(other, logits, 1e-11, 1e-11), "the model itself sees padding"
    expected = entropies(model, alone)
    for padded in (batch, longer):
        assert_close_relative(entropies(model, [padded]), expected, FLOAT64, name)
        # Two padded samples, or two that are not, take branches of their own.
        order = torch.tensor([0, 2, 1, 3])
        sorted_ = {key: value[order] for key, value in padded.items()}
        halves = [take(sorted_, slice(0, 2)), take(sorted_, slice(2, 4))]
        assert_close_relative(entropies(model, halves), expected[order], FLOAT64, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta", "gpt2", "llama", "modernbert"])
def test_texts_without_an_attention_mask(name):
    model = copy.deepcopy(zoo.built(name)).double()
    batch = {"input_ids": zoo.texts()["input_ids"].masked_fill(zoo.texts()["input_ids"] == 0, 5)}
    with Wide():
        table = oracle.norms(model, ones(batch), call=logits_of)
    assert_close_relative(entropies(model, [batch]), table.scores("entropy"), FLOAT64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_attention_implementations_give_the_same_scores(name):
    batch = oracle.in_float64(batch_of(name))
    by_kind = {}
    for kind in ("sdpa", "eager"):
        model = copy.deepcopy(zoo.built(name)).double()
        model.set_attn_implementation(kind)
        assert model.config._attn_implementation == kind
        by_kind[kind] = entropies(model, [batch])
    assert_close_relative(by_kind["eager"], by_kind["sdpa"], FLOAT64)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_last_layer(name):
    model, batch = copy.deepcopy(zoo.built(name)).double(), oracle.in_float64(batch_of(name))
    head_alone = copy.deepcopy(model)
    for parameter_name, parameter in head_alone.named_parameters():
        parameter.requires_grad_(parameter_name.startswith(HEADS[name]))
    with Wide():
        table = oracle.norms(head_alone, ones(batch), call=logits_of)
        scores = score_pool(
            model, [batch], scheme=oracle.SCHEMES, params="last_layer", progress=False
        )
    for scheme in oracle.SCHEMES:
        assert_close_relative(scores[scheme], table.scores(scheme), FLOAT64, scheme)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "gpt2", "vit"])
def test_frozen_body(name):
    model, batch = copy.deepcopy(zoo.built(name)), batch_of(name)
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in parameter_name.lower() or "ln_" in parameter_name)
    assert_agrees(model, batch)


TAGGERS = {
    "bert": zoo.model("BertForTokenClassification", "BertConfig", zoo.TEXT),
    "roberta": zoo.model("RobertaForTokenClassification", "RobertaConfig", zoo.TEXT),
    "deberta-v2": zoo.model(
        "DebertaV2ForTokenClassification", "DebertaV2Config", zoo.TEXT,
        relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=4,
    ),
    "llama": zoo.model("LlamaForTokenClassification", "LlamaConfig", zoo.TEXT),
    "modernbert": zoo.model(
        "ModernBertForTokenClassification", "ModernBertConfig", zoo.TEXT,
        local_attention=4, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2,
    ),
}  # fmt: skip


class TestTokenClassification:
    @pytest.fixture(params=TAGGERS)
    def model(self, request):
        return perturb(TAGGERS[request.param].build()).double()

    def table(self, model, batch, masks):
        with Wide():
            return oracle.norms(
                model, ones(batch), call=logits_of, class_dim=-1, masks=masks.bool()
            )

    @pytest.mark.slow
    @pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
    def test_padded_positions_are_left_out_by_the_attention_mask(self, model, reduction):
        batch = zoo.texts()
        table = self.table(model, batch, batch["attention_mask"])
        for padded in (batch, zoo.texts(padding=3)):
            actual = entropies(model, [padded], class_dim=-1, reduction=reduction)
            assert_close_relative(actual, table.scores("entropy", reduction), FLOAT64)

    @pytest.mark.slow
    def test_positions_without_a_label_are_left_out_by_a_mask(self, model):
        """Of each word the first token has a label, the others -100."""
        batch = zoo.texts()
        labels = torch.where(batch["attention_mask"].bool(), 1, -100)
        labels[:, 1::2] = -100
        actual = entropies(
            model, [batch | {"labels": labels}], class_dim=-1, mask=lambda b: b["labels"] != -100
        )
        table = self.table(model, batch, labels != -100)
        assert_close_relative(actual, table.scores("entropy"), FLOAT64)

    @pytest.mark.slow
    def test_in_float32(self):
        model = perturb(TAGGERS["bert"].build())
        batch = zoo.texts()
        table = self.table(model, batch, batch["attention_mask"])
        actual = score_pool(model, [batch], scheme="entropy", class_dim=-1, progress=False)
        assert_close_relative(actual, table.scores("entropy"), 1e-4)


class TestSegmentation:
    @pytest.mark.slow
    def test_segformer(self):
        torch.manual_seed(1)
        settings = hf.SegformerConfig(
            num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 12],
            patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
            decoder_hidden_size=8, num_labels=zoo.CLASSES, initializer_range=0.3,
        )  # fmt: skip
        model = perturb(hf.SegformerForSemanticSegmentation(settings)).double()
        batch = {"pixel_values": zoo.images(8).double()}
        table = oracle.norms(model, ones(batch), call=logits_of)
        assert_close_relative(entropies(model, [batch]), table.scores("entropy"), FLOAT64)


class TestAdapters:
    class Adapted(nn.Module):
        """A low-rank change of a frozen layer."""

        def __init__(self, frozen, rank=2):
            super().__init__()
            self.frozen = frozen.requires_grad_(False)
            self.down = nn.Linear(frozen.in_features, rank, bias=False)
            self.up = nn.Linear(rank, frozen.out_features, bias=False)

        def forward(self, x):
            return self.frozen(x) + 0.5 * self.up(self.down(x))

    @pytest.mark.slow
    def test_low_rank_adapters_over_a_frozen_bert(self):
        model = copy.deepcopy(zoo.built("bert")).requires_grad_(False)
        model.classifier.requires_grad_(True)
        adapted = [
            (module, name)
            for module in model.modules()
            for name, child in module.named_children()
            if isinstance(child, nn.Linear) and name in ("query", "value")
        ]
        assert len(adapted) == 4
        for module, name in adapted:
            setattr(module, name, self.Adapted(getattr(module, name)))
        assert_agrees(model, zoo.texts())
