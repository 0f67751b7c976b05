"""Kinds of batches and of model outputs, and several schemes at once."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fastgradnorm import naive_score_pool, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import CASES, MLP

RTOL = 1e-5


def scores(model, batches, **options):
    return score_pool(model, batches, progress=False, **options)


@pytest.fixture
def mlp():
    model, inputs = CASES["mlp"].random()
    inputs = inputs[:9]
    return model, inputs, oracle.scores(model, oracle.ones(inputs))


class TwoInputs(nn.Module):
    """Takes keywords, one of them optional and not a tensor."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 6), nn.Linear(6, 3)

    def forward(self, ids, weights=None, scale=1.0, return_dict=True):
        x = self.embed(ids)
        x = x.mean(1) if weights is None else (x * weights[..., None]).sum(1)
        return {"logits": self.head(torch.tanh(scale * x))}


class TestBatches:
    def test_tensors(self, mlp):
        model, inputs, expected = mlp
        assert_close_relative(scores(model, inputs.split(4)), expected, RTOL)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [tuple, list])
    def test_labels_of_a_tuple_or_list_are_ignored(self, mlp, kind):
        model, inputs, expected = mlp
        batches = [kind([x, torch.zeros(len(x), dtype=torch.long), "ids"]) for x in inputs.split(4)]
        assert_close_relative(scores(model, batches), expected, RTOL)
        assert_close_relative(scores(model, [kind([x]) for x in inputs.split(4)]), expected, RTOL)

    def test_data_loader(self, mlp):
        model, inputs, expected = mlp
        loader = DataLoader(TensorDataset(inputs, torch.arange(9)), batch_size=4)
        assert_close_relative(scores(model, loader), expected, RTOL)

    def test_generator_of_unknown_length(self, mlp):
        model, inputs, expected = mlp
        assert_close_relative(scores(model, (x for x in inputs.split(4))), expected, RTOL)

    @pytest.mark.parametrize("label", ["labels", "label"])
    @pytest.mark.parametrize("weighted", [True, False])
    def test_mapping_is_passed_as_keywords_without_labels(self, label, weighted):
        model, ids, weights = TwoInputs(), torch.randint(0, 9, (7, 4)), torch.rand(7, 4)
        batches = [
            OrderedDict(
                {"ids": ids[i : i + 3], label: torch.zeros(len(ids[i : i + 3]))}
                | ({"weights": weights[i : i + 3]} if weighted else {})
            )
            for i in (0, 3, 6)
        ]
        samples = [(ids[i : i + 1], weights[i : i + 1] if weighted else None) for i in range(7)]
        expected = oracle.scores(model, samples, call=lambda m, s: m(*s)["logits"])
        assert_close_relative(scores(model, batches), expected, RTOL)

    def test_forward_for_any_other_batch(self):
        """The function sees a batch of the loader's structure and calls the model as usual."""
        Batch = namedtuple("Batch", ["ids", "weights", "scale"])
        model, ids, weights = TwoInputs(), torch.randint(0, 9, (5, 4)), torch.rand(5, 4)
        expected = oracle.scores(
            model,
            [(ids[i : i + 1], weights[i : i + 1]) for i in range(5)],
            call=lambda m, s: m(*s, scale=0.5)["logits"],
        )

        def forward(model, batch):
            return model(batch.ids, weights=batch.weights, scale=batch.scale)["logits"]

        batches = [Batch(ids[:3], weights[:3], 0.5), Batch(ids[3:], weights[3:], 0.5)]
        assert_close_relative(scores(model, batches, forward=forward), expected, RTOL)

    def test_forward_takes_nested_batches_and_may_change_the_output(self, mlp):
        model, inputs, expected = mlp
        batches = [{"nested": [{"x": x}, "text"]} for x in inputs.split(4)]

        def forward(model, batch):
            return model(batch["nested"][0]["x"])

        assert_close_relative(scores(model, batches, forward=forward), expected, RTOL)

    def test_loader_and_a_sequence_of_schemes_are_read_once(self, mlp):
        model, inputs, expected = mlp
        pool = iter(inputs.split(2))
        by_scheme = scores(model, pool, scheme=["entropy", "expected"])
        assert list(by_scheme) == ["entropy", "expected"]
        assert_close_relative(by_scheme["expected"], expected, RTOL)
        assert next(pool, None) is None

    @pytest.mark.slow
    def test_parameters_and_inputs_are_moved_to_the_device(self, mlp):
        model, inputs, expected = mlp
        for device in ("cpu", torch.device("cpu")):
            actual = scores(model, inputs.split(4), device=device)
            assert actual.device.type == "cpu"
            assert_close_relative(actual, expected, RTOL)


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor


class TestOutputs:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "wrap",
        [
            pytest.param(lambda z: (z, z.sum()), id="tuple"),
            pytest.param(lambda z: [z, 2 * z], id="list"),
            pytest.param(lambda z: {"out": z, "aux": 2 * z}, id="out"),
            pytest.param(lambda z: OrderedDict(hidden=2 * z, logits=z), id="logits"),
            pytest.param(lambda z: Output(z, 2 * z), id="object"),
            pytest.param(lambda z: namedtuple("O", ["logits", "b"])(z, 2 * z), id="namedtuple"),
        ],
    )
    @pytest.mark.parametrize("params", ["all", "last_layer"])
    def test_containers(self, wrap, params):
        class Wrapped(MLP):
            def forward(self, x):
                return wrap(super().forward(x))

        torch.manual_seed(3)
        plain, model = MLP(), Wrapped()
        model.load_state_dict(plain.state_dict())
        x = torch.randn(5, 10)
        expected = scores(plain, [x], params=params)
        assert_close_relative(scores(model, [x], params=params), expected, 1e-6)
        assert_close_relative(naive_score_pool(model, [x], params=params), expected, RTOL)


class TestSchemes:
    @pytest.mark.slow
    @pytest.mark.parametrize("params", ["all", "last_layer"])
    @pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
    def test_several_in_one_pass_equal_single_ones(self, params, reduction):
        model, inputs = CASES["groupnorm-cnn"].random()
        options = {"params": params, "reduction": reduction}
        together = scores(model, inputs.split(16), scheme=oracle.SCHEMES, **options)
        assert list(together) == list(oracle.SCHEMES)
        for scheme in oracle.SCHEMES:
            alone = scores(model, inputs.split(16), scheme=scheme, **options)
            assert_close_relative(together[scheme], alone, 1e-6, scheme)
            listed = scores(model, inputs.split(16), scheme=[scheme], **options)
            assert_close_relative(listed[scheme], alone, 1e-6, scheme)
