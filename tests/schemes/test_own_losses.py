"""Losses that a model has of a batch without labels, losses of 16 bits, and scripted ones."""

import pytest
import torch
import transformers as hf
from torch import nn
from torch.nn import functional as F

from fastgradnorm import gradient_dots, gradient_sketch, mean_gradient
from tests.support.asserts import assert_close_relative
from tests.support.losses import RTOL, score, truth

X, Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4


@pytest.fixture
def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))


class Autoencoder(nn.Module):
    """Its loss is of its input alone."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 3)

    def forward(self, x):
        return {"loss": F.mse_loss(self.body(x).tanh(), x)}


class Distance(nn.Module):
    """It is given what it is to come near to, by a name of its own."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 3)

    def forward(self, x, goal=None):
        found = self.body(x)
        return (found,) if goal is None else (F.mse_loss(found, goal), found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "made, batch, loss",
    [
        pytest.param(Autoencoder, X, lambda m, s: m(s)["loss"], id="tensor"),
        pytest.param(Autoencoder, {"x": X}, lambda m, s: m(s["x"])["loss"], id="mapping"),
        pytest.param(
            Distance, {"x": X, "goal": X.sin()}, lambda m, s: m(s["x"], s["goal"])[0], id="tuple"
        ),
    ],
)
def test_a_models_loss_of_its_batch_as_it_is(made, batch, loss):
    torch.manual_seed(2)
    model = made()
    expected = truth(model, [batch], loss)
    assert_close_relative(score(model, [batch], loss="model"), expected, RTOL)
    options = {"loss": "model", "progress": False}
    mean = mean_gradient(model, [batch], **options)
    sizes = gradient_sketch(model, [batch], 8, norms=True, **options)[1]
    assert_close_relative(sizes.double(), expected, RTOL)
    products = gradient_dots(model, [batch], mean, **options).double()
    square = sum(v.double().square().sum() for v in mean.values())
    assert_close_relative(products.mean(), square, RTOL)


@pytest.mark.slow
def test_question_answering():
    torch.manual_seed(3)
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.BertConfig(vocab_size=29, intermediate_size=16, **sizes)
    model = hf.BertForQuestionAnswering(config).eval()
    mask = torch.ones(4, 8, dtype=torch.long)
    mask[1, 5:] = 0
    batch = {
        "input_ids": torch.randint(1, 29, (4, 8)),
        "attention_mask": mask,
        "start_positions": torch.tensor([1, 2, 0, 3]),
        "end_positions": torch.tensor([3, 2, 1, 3]),
    }
    expected = truth(model, [batch], lambda m, s: m(**s).loss)
    assert_close_relative(score(model, [batch], loss="model"), expected, RTOL)


def test_a_model_without_a_loss_is_told(model):
    for batch in (X, {"input": X}):
        with pytest.raises(ValueError, match=r"returns no loss.*`target=` tells where"):
            score(model, [batch], loss="model")
    with pytest.raises(ValueError, match="`target` must say where the labels are"):
        score(model, [(X, Y, Y)], loss="model")


def test_a_loss_that_the_model_was_given_no_labels_for():
    class Labelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(3, 4)

        def forward(self, x, labels=None):
            loss = None if labels is None else F.cross_entropy(self.body(x), labels)
            return hf.modeling_outputs.SequenceClassifierOutput(loss=loss, logits=self.body(x))

    with pytest.raises(ValueError, match=r"Got NoneType. The model made no loss.*`loss='model'`"):
        score(Labelled(), [{"x": X, "labels": Y}], loss=lambda output, batch: output.loss)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factor", [1.0, 0.01])
def test_a_loss_of_16_bits_pulls_back_what_autograd_does(model, dtype, factor):
    def loss(output, batch):
        return (factor * F.cross_entropy(output, batch[1])).to(dtype)

    expected = truth(model, [(X, Y)], lambda m, s: factor * F.cross_entropy(m(s[0]), s[1]))
    assert_close_relative(score(model, [(X, Y)], loss=loss), expected, RTOL)
    sizes = gradient_sketch(model, [(X, Y)], 8, norms=True, loss=loss, progress=False)[1]
    assert_close_relative(sizes.double(), expected, RTOL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")
def test_a_scripted_loss(model):
    scripted = torch.jit.script(nn.CrossEntropyLoss(label_smoothing=0.1))
    expected = truth(model, [(X, Y)], lambda m, s: scripted(m(s[0]), s[1]))
    assert_close_relative(score(model, [(X, Y)], loss=scripted), expected, RTOL)


@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss(), "a function"])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_sparse_labels(model, loss, layout):
    chances = F.one_hot(Y, 4).float()

    def own(output, batch):
        return -(output.log_softmax(1) * batch[1].to_dense()).sum(1).mean()

    expected = truth(model, [(X, Y)], lambda m, s: F.cross_entropy(m(s[0]), s[1]))
    sparse = chances.to_sparse(layout=layout)
    asked = own if loss == "a function" else loss
    assert_close_relative(score(model, [(X, sparse)], loss=asked), expected, RTOL)


@pytest.mark.parametrize("margin", [20.0, 60.0])
def test_losses_of_certain_samples_keep_their_gradients(model, margin):
    """Their squares lie below what float32 holds."""

    def loss(model, sample):
        return F.softplus(model(sample[0])[0, 0] - margin)

    exact = truth(model, [(X, Y)], loss)
    assert 0 < float(exact.max()) < 1e-7
    found = score(model, [(X, Y)], loss=lambda z, batch: F.softplus(z[0, 0] - margin))
    assert_close_relative(found, exact, RTOL, "loss")
