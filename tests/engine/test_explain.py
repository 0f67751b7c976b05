"""The table of `explain`: what it says is what is done."""

import json

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer
from tests.support.cases import CASES

transformers = pytest.importorskip("transformers")


def bert():
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, num_labels=3, max_position_embeddings=32,
    )  # fmt: skip
    ids = torch.randint(1, 60, (3, 12))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    model = transformers.BertForSequenceClassification(config).eval()
    return model, {"input_ids": ids, "attention_mask": mask}


def resnet():
    model, inputs = CASES["resnet18"].initial()
    return model, inputs[:2]


@pytest.mark.parametrize("make", [resnet, bert])
def test_no_parameter_of_common_models_needs_a_loop_and_leftovers_are_small(make):
    model, batch = make()
    table = GradNormScorer(model).explain(batch)
    assert {row.parameter for row in table.rows} == {
        name for name, p in model.named_parameters() if p.requires_grad
    }
    assert all(row.rule != "loop" for row in table.rows)
    assert table.totals["leftover_share"] < 0.01
    assert all(len(line) <= 100 for line in str(table).splitlines())


def test_rows_name_rule_shape_and_cost():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    table = GradNormScorer(model).explain(torch.randn(2, 4))
    first = table.rows[0]
    assert (first.parameter, first.operation, first.layer) == ("0.weight", "linear", "0")
    assert (first.positions, first.inputs, first.outputs) == (1, 4, 5)
    assert first.rule == "closed form"
    assert first.flops == 2 * 4 + 2 * 5 * 3  # |a|^2 once, |g|^2 for each of three classes
    assert table.cotangents == 3
    assert table.totals["parameters"] == sum(p.numel() for p in model.parameters())
    assert json.loads(json.dumps(table.to_dict()))["rows"][0]["parameter"] == "0.weight"


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 4, padding="same", dilation=3),
        nn.Conv1d(4, 6, 3, padding="valid", dilation=2, groups=2),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(0, 1), dilation=(1, 2)),
        nn.Conv2d(4, 6, 1, stride=4),
        nn.Conv3d(4, 6, 2, stride=2, padding=1, groups=2),
    ],
    ids=["same", "valid", "2d", "strided", "3d"],
)
def test_a_convolution_has_as_many_positions_as_its_output(layer):
    dims = layer.weight.dim() - 2
    x = torch.randn(2, 4, *(7, 6, 5)[:dims])
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3))
    model(x)  # the lazy layer learns its size
    row, *_ = GradNormScorer(model).explain(x).rows
    found = (row.positions, row.inputs, row.outputs)
    assert found == (layer(x)[0, 0].numel(), layer.weight[0].numel(), 6 // layer.groups)


def test_a_raw_parameter_is_a_leftover_and_an_unused_one_is_named():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.head = nn.Parameter(torch.rand(4)), nn.Linear(4, 3)
            self.idle = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x * self.scale)

    table = GradNormScorer(Raw()).explain(torch.randn(2, 4))
    assert {row.parameter: row.rule for row in table.rows}["scale"] == "leftover"
    assert set(table.unused) == {"idle.weight", "idle.bias"}
    assert "idle.weight" in str(table)


def test_a_model_that_vmap_cannot_run_has_loop_rows_and_the_reason():
    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(1, 3)

        def forward(self, x):
            return self.head(torch.from_numpy(x.numpy().sum(1, keepdims=True)))

    table = GradNormScorer(Dynamic()).explain(torch.randn(4, 6))
    assert {row.rule for row in table.rows} == {"loop"}
    assert "vmap" in str(table)


def test_measured_shares_add_up_to_no_more_than_the_whole():
    model, inputs = CASES["groupnorm-cnn"].initial()
    table = GradNormScorer(model).explain(inputs[:4], measure=True)
    shares = [row.share for row in table.rows]
    assert all(share is not None and share >= 0 for share in shares)
    assert 0 < sum(shares) <= 1
    assert table.seconds > 0
    assert "time" in str(table).splitlines()[0]
