"""Nothing of the caller's changes, in whatever mode torch is."""

import gc
import itertools

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import CASES, MLP
from tests.support.unchanged import assert_unchanged, snapshot

RTOL = 5e-6  # of float32 by other steps, on any processor


def scores(model, batches, **options):
    return score_pool(model, batches, **{"progress": False, "verify": False} | options)


def eventful():
    """A model with mixed train and eval flags, gradients, frozen parameters, buffers and hooks."""
    model, inputs = CASES["transformer"].random()
    model.train()
    model.encoder.layers[0].eval()
    model.encoder.layers[1].dropout.eval()
    model.extra = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout())
    model.patches.weight.grad = torch.ones_like(model.patches.weight)
    model.head.bias.requires_grad_(False)
    model.register_buffer("counter", torch.arange(3))
    model.encoder.register_forward_hook(lambda module, args, output: None)
    model.head.register_forward_pre_hook(lambda module, args: None)
    model.pos_embed.register_hook(lambda grad: grad)
    return model, inputs[:6]


class TestNothingChanges:
    @pytest.mark.slow
    @pytest.mark.parametrize("params", ["all", "last_layer"])
    def test_after_scoring(self, params):
        model, inputs = eventful()
        before = snapshot(model)
        score_pool(model, inputs.split(4), scheme=oracle.SCHEMES, params=params, progress=False)
        assert_unchanged(before, model)

    def test_after_sampling(self):
        model, inputs = MLP(classes=6), torch.randn(5, 10)
        before = snapshot(model)
        score_pool(model, [inputs], likelihood="bernoulli", num_samples=4, progress=False)
        assert_unchanged(before, model)

    def test_after_an_exception_in_the_loader(self):
        model, inputs = eventful()

        def breaks():
            yield inputs[:3]
            raise RuntimeError("disk full")

        before = snapshot(model)
        with pytest.raises(RuntimeError, match=r"disk full"):
            score_pool(model, breaks(), progress=False)
        assert_unchanged(before, model)

    @pytest.mark.filterwarnings("ignore::fastgradnorm.SlowPathWarning")
    @pytest.mark.parametrize("call", [1, 2, 3, 4])
    def test_after_an_exception_in_the_model(self, call):
        """Whichever of the engine's forward passes fails, for whatever reason."""
        model, inputs = eventful()
        calls = []

        def forward(model, batch):
            logits = model(batch)
            calls.append(1)
            if len(calls) >= call:
                raise RuntimeError("out of luck")
            return logits

        before = snapshot(model)
        with pytest.raises((RuntimeError, ValueError), match=r"out of luck"):
            score_pool(model, inputs.split(1), forward=forward, progress=False)
        assert_unchanged(before, model)

    @pytest.mark.slow
    def test_while_a_stream_is_half_consumed(self):
        """Between two batches, and after the stream is dropped, the caller sees an idle model."""
        model, inputs = eventful()
        before = snapshot(model)
        stream = GradNormScorer(model, progress=False).stream(inputs.split(2))
        next(stream)
        assert_unchanged(before, model)
        next(stream)
        stream.close()
        assert_unchanged(before, model)

    def test_random_numbers_drawn_between_two_batches_of_a_stream_stay_drawn(self):
        """The caller's own draws are not rolled back when the stream ends."""
        model, inputs = MLP(classes=6), torch.randn(6, 10)
        torch.manual_seed(4)
        expected = torch.rand(4)
        torch.manual_seed(4)
        scorer = GradNormScorer(model, likelihood="bernoulli", num_samples=4, progress=False)
        actual = [torch.rand(1) for _ in scorer.stream(inputs.split(2))] + [torch.rand(1)]
        assert torch.equal(torch.cat(actual), expected)

    def test_inputs_are_not_written_to(self):
        """A model may begin with an in-place operation."""

        class InPlace(MLP):
            def forward(self, x):
                return super().forward(x.mul_(2))

        model, inputs = InPlace(), torch.randn(5, 10)
        kept = inputs.clone()
        expected = oracle.scores(model, oracle.ones(inputs))
        assert_close_relative(score_pool(model, [inputs], progress=False), expected, 1e-5)
        assert torch.equal(inputs, kept)

    def test_scores_carry_no_graph(self):
        model, inputs = CASES["mlp"].random()
        actual = score_pool(model, [inputs[:4]], progress=False)
        assert not actual.requires_grad
        assert actual.grad_fn is None
        assert not actual.is_inference()


class TestModes:
    @pytest.fixture(params=["mlp", "groupnorm-cnn", "transformer"])
    def case(self, request):
        model, inputs = CASES[request.param].random()
        expected = {
            params: scores(model, [inputs[:5]], scheme=oracle.SCHEMES, params=params)
            for params in ("all", "last_layer")
        }
        return request.param, model, inputs[:5], expected

    @staticmethod
    def check(model, inputs, expected):
        for params, scheme in itertools.product(expected, oracle.SCHEMES):
            actual = score_pool(model, [inputs], scheme=scheme, params=params, progress=False)
            assert_close_relative(actual, expected[params][scheme], RTOL, f"{params} {scheme}")

    @pytest.mark.slow
    def test_inside_no_grad(self, case):
        _, model, inputs, expected = case
        with torch.no_grad():
            self.check(model, inputs, expected)
            assert not torch.is_grad_enabled()

    @pytest.mark.slow
    def test_inside_inference_mode_with_ordinary_and_with_inference_tensors(self, case):
        _, model, inputs, expected = case
        with torch.inference_mode():
            self.check(model, inputs, expected)
            self.check(model, inputs.clone(), expected)
            assert torch.is_inference_mode_enabled()

    @pytest.mark.slow
    def test_inference_tensors_outside_of_inference_mode(self, case):
        _, model, inputs, expected = case
        with torch.inference_mode():
            inputs = inputs.clone()
        self.check(model, inputs, expected)

    @pytest.mark.slow
    def test_model_created_in_inference_mode(self, case):
        name, model, inputs, expected = case
        with torch.inference_mode():
            created = CASES[name].build().eval()
            created.load_state_dict(model.state_dict())
            assert all(p.is_inference() for p in created.parameters())
            self.check(created, inputs, expected)
        self.check(created, inputs, expected)

    @pytest.mark.slow
    def test_dropout_is_off_though_the_model_trains(self, case):
        _, model, inputs, expected = case
        model.train()
        self.check(model, inputs, expected)
        assert model.training

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
    @pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
    def test_wrapped_models_are_unwrapped(self, case, wrap):
        _, model, inputs, expected = case
        self.check(wrap(model), inputs, expected)

    @pytest.mark.slow
    def test_under_deterministic_algorithms(self, case):
        _, model, inputs, expected = case
        torch.use_deterministic_algorithms(True)
        try:
            self.check(model, inputs, expected)
        finally:
            torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_as_it_was(enabled):
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        score_pool(nn.Linear(3, 2), [torch.randn(2, 3)], progress=False)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()
