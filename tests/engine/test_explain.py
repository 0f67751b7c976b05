"""The table of `explain`: what it says is what is done."""

import itertools
import json
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fastgradnorm import GradNormScorer
from fastgradnorm._engine import traces
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


@pytest.mark.slow
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


@pytest.mark.parametrize("depth", [0, 1, 9])
@pytest.mark.parametrize("layers", [1, 2, 12])
def test_names_that_are_too_long_stay_apart(layers, depth):
    """As adapters in a wrapped transformer: alike at both ends, told apart by the layer."""
    model = nn.Sequential()
    for number in range(layers):
        inner = nn.Sequential(nn.Linear(3, 3))
        for i in range(depth):
            outer = nn.Sequential()
            outer.add_module(f"a_long_name_of_a_module_{i}", inner)
            inner = outer
        model.add_module(f"layer{number}", inner)
    table = str(GradNormScorer(model).explain(torch.ones(2, 3)))
    names = [line.split()[0] for line in table.splitlines()[2 : 2 + 2 * layers]]
    assert len({*names}) == 2 * layers
    assert max(map(len, table.splitlines())) <= 100
    if layers > 1:
        assert all(f"layer{i}" in table for i in range(layers))


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


@pytest.mark.slow
def test_measured_shares_add_up_to_no_more_than_the_whole():
    model, inputs = CASES["groupnorm-cnn"].initial()
    table = GradNormScorer(model).explain(inputs[:4], measure=True)
    shares = [row.share for row in table.rows]
    assert all(share is not None and share >= 0 for share in shares)
    assert 0 < sum(shares) <= 1
    assert table.seconds > 0
    assert "time" in str(table).splitlines()[0]


class TestReplays:
    @pytest.mark.slow
    def test_what_is_traced_is_told_with_what_it_takes(self, monkeypatch):
        monkeypatch.setattr(traces, "_seconds", lambda traced, args: -1.0)
        model, batch = nn.Linear(4, 3), torch.randn(3, 4)
        table = GradNormScorer(model).explain(batch, measure=True)
        assert table.replays["replayed"] >= 1 and table.replays["seconds"] > 0
        assert "traced and replayed where a pool is long enough" in str(table)
        assert GradNormScorer(model).explain(batch).replays is None

    @pytest.mark.slow
    def test_a_machine_that_grows_busier_is_no_reason_not_to_trace(self, monkeypatch):
        ticks = (1e-6 * i**2 for i in itertools.count())  # each second is longer than that before
        clocks = SimpleNamespace(perf_counter=lambda: next(ticks), thread_time=time.thread_time)
        monkeypatch.setattr(traces, "time", clocks)
        model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(9)))
        table = GradNormScorer(model).explain(torch.randn(3, 4), measure=True)
        assert table.replays["replayed"] >= 1

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("_LONGEST", -1.0, "replays save a small part of it"),
            ("_seconds", lambda traced, args: 1e9, "takes as long as the pass itself"),
            ("_alike", lambda found, outputs: False, "gives other numbers"),
        ],
    )
    def test_what_is_not_is_told_why(self, monkeypatch, name, value, reason):
        monkeypatch.setattr(traces, name, value)
        table = GradNormScorer(nn.Linear(4, 3)).explain(torch.randn(3, 4), measure=True)
        assert not table.replays["replayed"] and reason in table.replays["reason"]
        assert reason in " ".join(str(table).split())

    def test_samples_one_by_one(self):
        class Odd(nn.Linear):
            def forward(self, x):
                return super().forward(x) * float(x.detach().numpy().sum())

        table = GradNormScorer(Odd(4, 3)).explain(torch.randn(3, 4), measure=True)
        assert "run as they are: samples are scored one by one" in str(table)

    @pytest.mark.parametrize(
        ("latency", "loader", "reason"),
        [
            (0, lambda x: [x] * 3, "too few passes of one kind ran"),
            (0, lambda x: DataLoader(TensorDataset(x), 1), "too few passes are to come"),
            (None, lambda x: [x], "too few passes of one kind ran"),
        ],
    )
    def test_provenance_tells_of_pools(self, latency, loader, reason):
        scorer = GradNormScorer(nn.Linear(4, 3), latency=latency, progress=False, verify=False)
        told = scorer.score(loader(torch.randn(3, 4))).provenance["replays"]
        assert told["from"] == "traced" and told["replayed"] == told["traced"] == 0
        assert told["passes"] == (3 if latency == 0 else 1) and reason in told["reason"]
        assert json.loads(json.dumps(told)) == told

    @pytest.mark.slow
    def test_and_of_what_was_replayed(self, monkeypatch):
        monkeypatch.setattr(traces, "_seconds", lambda traced, args: -1.0)
        monkeypatch.setattr(traces, "_BEEN", 2)
        monkeypatch.setattr(traces, "_LONGEST", float("inf"))  # however busy the machine is
        monkeypatch.setattr(traces, "_SHORT", float("inf"))
        scorer = GradNormScorer(nn.Linear(4, 3), latency=0, progress=False, verify=False)
        told = scorer.score([torch.randn(3, 4)] * 9).provenance["replays"]
        assert told["passes"] == 9 and told["replayed"] >= 5 and told["traced"] == 1
        assert told["seconds"] > 0 and told["reason"] is None
