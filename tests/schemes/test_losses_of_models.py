"""The loss that a model returns, of language models too; labels that a model is certain of."""

import pytest
import torch
import transformers as hf
from torch import nn
from torch.nn import functional as F

from fastgradnorm import naive_score_pool, score_pool
from tests.support.asserts import assert_close_relative
from tests.support.losses import RTOL, Given, classifier, images, score, truth


def language_model(**trainable):
    config = hf.GPT2Config(
        vocab_size=29,
        n_positions=12,
        n_embd=12,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = hf.GPT2LMHeadModel(config).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable.get("only", "") in name)
    return model


class LoRA(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base
        rows, columns = base.weight.shape
        self.a = nn.Parameter(torch.randn(rows, 2) * 0.1)
        self.b = nn.Parameter(torch.randn(2, columns) * 0.1)

    def forward(self, x):
        return self.base(x) + x @ self.a @ self.b


def texts():
    ids, mask = torch.randint(0, 29, (5, 8)), torch.ones(5, 8, dtype=torch.long)
    mask[1, 5:] = mask[3, 3:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[2, :4] = -100  # a prompt
    whole = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return [{k: v[:3] for k, v in whole.items()}, {k: v[3:] for k, v in whole.items()}]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["everything, tied", "adapters"])
def test_a_language_models_own_loss(which):
    torch.manual_seed(4)
    model = language_model(only="" if which == "everything, tied" else "nothing")
    if which == "adapters":
        for block in model.transformer.h:
            block.attn.c_attn = LoRA(block.attn.c_attn)
    batches = texts()
    expected = truth(model, batches, lambda m, s: m(**s).loss)

    def shifted(output, batch):
        logits, labels = output.logits[:, :-1], batch["labels"][:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    for loss in ("model", shifted):
        assert_close_relative(score(model, batches, loss=loss), expected, RTOL)


@pytest.mark.slow
def test_a_models_own_loss_leaves_its_configuration_as_it_was():
    torch.manual_seed(5)
    config = hf.BertConfig(
        vocab_size=29,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
    )
    model = hf.BertForSequenceClassification(config).eval()
    batches = [
        {**batch, "labels": torch.randint(0, 3, batch["labels"].shape[:1])} for batch in texts()
    ]
    actual = score(model, batches, loss="model")
    assert config.problem_type is None
    assert_close_relative(actual, score(model, batches, loss="cross_entropy"), RTOL)
    several = score_pool(model, batches, loss="model", scheme=["entropy", "loss"], progress=False)
    assert torch.equal(several["loss"].double(), actual)
    # A loss that is given the whole batch is not gathered over batches.
    assert_close_relative(several["entropy"], score(model, batches, scheme="entropy"), RTOL)


@pytest.mark.slow
@pytest.mark.parametrize("gap", [5.0, 20.0, 40.0, 69.0])
def test_a_label_that_the_model_is_certain_of(gap):
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        model[2].weight.zero_()[:, 0] = torch.tensor([0.25, 0.5, -0.25])
        model[2].bias.copy_(torch.tensor([0.0, 0.5, gap]))
    x, y = torch.zeros(3, 4), torch.tensor([2, 2, 0])
    model[0].bias.detach().zero_()  # so that logits are exact in float32

    def by_hand(model, sample):
        z, label = model(sample[0])[0], int(sample[1])
        others = [j for j in range(3) if j != label]
        return F.softplus(torch.logsumexp(z[others] - z[label], 0))

    expected = truth(model, [(x, y)], by_hand)
    one_hot = F.one_hot(y, 3).float()
    assert float(expected[0]) < 4 * 2.718281828 ** (0.5 - gap)
    for batch, loss in [((x, y), "cross_entropy"), ((x, y), nn.CrossEntropyLoss())]:
        assert_close_relative(score(model, [batch], loss=loss), expected, RTOL)
    for loss in ("cross_entropy", nn.CrossEntropyLoss(), F.cross_entropy):
        assert_close_relative(score(model, [(x, one_hot)], loss=loss), expected, RTOL)
    # Twice the weight of the label is twice the loss, where no mean divides by it.
    weight = torch.tensor([2.0, 5.0, 2.0])
    twice = nn.CrossEntropyLoss(weight=weight, reduction="sum")
    for label in (one_hot, y):
        assert_close_relative(score(model, [(x, label)], loss=twice), 2 * expected, RTOL)
    assert_close_relative(score(Given(model), [(x, y)], loss="model"), expected, RTOL)
    logarithms = nn.Sequential(model, nn.LogSoftmax(-1))
    assert_close_relative(score(logarithms, [(x, y)], loss="cross_entropy"), expected, RTOL)
    assert_close_relative(naive_score_pool(model, [(x, y)], loss="cross_entropy"), expected, RTOL)


@pytest.mark.slow
def test_a_model_is_given_labels_from_where_they_are():
    torch.manual_seed(11)
    model, ((x, y), _) = Given(classifier()), images()
    expected = score(model, [(x, y)], loss="model")
    options = {"loss": "model", "target": "answer"}
    assert torch.equal(score(model, [{"x": x, "answer": y}], **options), expected)
    assert torch.equal(score(model, [({"x": x}, y)], loss="model"), expected)
    forward = {"forward": lambda model, batch: model(batch[0], batch[2]), "loss": "model"}
    assert torch.equal(score(model, [(x, x, y)], **forward), expected)
