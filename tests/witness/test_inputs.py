"""Inputs against what the first norm with running statistics remembers of training."""

import copy
import functools

import pytest
import torch
from torch import nn

from tests.support.cases import Custom, ResNet18, linear
from tests.support.doubts import findings, warned

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def photographs(samples, generator, contrast=1.0):
    """Pixels within [0, 1]: smooth colours with some detail, of about ImageNet's statistics."""
    coarse = torch.randn(samples, 3, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=16, mode="bilinear", align_corners=False)
    fine = torch.randn(samples, 3, 16, 16, generator=generator)
    return (MEAN + contrast * STD * (1.3 * smooth + 0.3 * fine)).clamp(0, 1)


def normalised(pixels):
    return (pixels - MEAN) / STD


def trained(model, draw, steps=60):
    """With the running statistics that training would leave."""
    model.train()
    with torch.no_grad():
        for _ in range(steps):
            model(draw())
    return model.eval()


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def norm_first():
    return nn.Sequential(nn.BatchNorm2d(3), *convolutional())


def deep():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))  # fmt: skip


def instance():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


class Frozen(nn.Module):
    """As torchvision's `FrozenBatchNorm2d`: buffers, and no class of PyTorch's own."""

    def __init__(self, norm):
        super().__init__()
        for name in ("running_mean", "running_var", "weight", "bias"):
            self.register_buffer(name, getattr(norm, name).detach().clone())

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def frozen(draw):
    model = trained(convolutional(), draw)
    model[1] = Frozen(model[1])
    return model


MODELS = {
    "convolutional": convolutional,
    "norm first": norm_first,
    "deep": deep,
    "instance": instance,
    "resnet": lambda: ResNet18(width=8),
}


@functools.cache
def made(name):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(3)

    def draw():
        return normalised(photographs(16, generator))

    return frozen(draw) if name == "frozen" else trained(MODELS[name](), draw)


SMALL = [name for name in [*MODELS, "frozen"] if name != "resnet"]


@pytest.fixture(params=[*SMALL, pytest.param("resnet", marks=pytest.mark.slow)])
def model(request):
    """Trained once, and each test's own."""
    model = copy.deepcopy(made(request.param))
    torch.manual_seed(1)  # the same for the test that trained it and for others
    return model


@pytest.fixture
def pixels():
    return photographs(24, torch.Generator().manual_seed(4))


class TestTold:
    @pytest.mark.slow
    def test_pixels_to_255(self, model, pixels):
        level, message = findings(model, [255 * pixels])["inputs"]
        assert level == "warn"
        assert "standard deviations away" in message and "normalisation" in message

    @pytest.mark.parametrize("samples", [2, 4])
    def test_few_of_them(self, model, pixels, samples):
        assert "inputs" in warned(model, [255 * pixels[:samples]])

    def test_normalised_as_if_to_255(self, model, pixels):
        assert "inputs" in warned(model, [normalised(255 * pixels)])

    def test_divided_by_255_twice(self, model, pixels):
        assert "inputs" in warned(model, [pixels / 255])

    def test_pixels_to_1(self, model, pixels):
        level, message = findings(model, [pixels])["inputs"]
        assert level == "warn" and "standard deviation in size" in message

    def test_normalised_twice_too_small(self, model, pixels):
        assert "inputs" in warned(model, [STD * (STD * normalised(pixels))])


class TestSilent:
    @pytest.mark.slow
    def test_as_in_training(self, model, pixels):
        assert not warned(model, pixels_in(normalised(pixels), 24))
        assert not warned(model, pixels_in(normalised(pixels), 5))
        assert not warned(model, pixels_in(normalised(pixels)[:1], 1))

    @pytest.mark.parametrize("contrast", [0.4, 0.6, 1.6])
    def test_other_contrast(self, model, contrast):
        others = photographs(24, torch.Generator().manual_seed(5), contrast)
        assert not warned(model, [normalised(others)])

    def test_grey(self, model, pixels):
        grey = pixels.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        assert not warned(model, [normalised(grey)])

    @pytest.mark.slow
    def test_dark_and_bright(self, model, pixels):
        assert not warned(model, [normalised(0.5 * pixels)])
        assert not warned(model, [normalised((pixels + 0.4).clamp(0, 1))])

    def test_noise(self, model):
        assert not warned(model, [torch.randn(24, 3, 16, 16)])

    @pytest.mark.parametrize("samples", [1, 3, 7])
    def test_a_few_that_are_even(self, model, pixels, samples):
        """Their variance says little, and one image may be of one colour."""
        even = pixels[:samples].mean((2, 3), keepdim=True).expand(-1, -1, 16, 16)
        assert not warned(model, [normalised(even)])

    def test_one_outlier(self, model, pixels):
        given = normalised(pixels)
        given[0] = 1e3
        assert "inputs" not in warned(model, [given])


def pixels_in(pixels, size):
    return pixels.split(size)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_statistics_of_no_training_are_no_reason(name, pixels):
    assert "inputs" not in warned(MODELS[name]().eval(), [255 * pixels])


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
@pytest.mark.parametrize("size", [0.02, 1.0])
def test_statistics_of_a_few_steps_are_no_reason(steps, size):
    """They are near to the 0 and 1 with which they began, whatever goes in."""
    generator = torch.Generator().manual_seed(1)
    model = trained(
        convolutional(), lambda: size * torch.randn(16, 3, 8, 8, generator=generator), steps
    )
    assert not warned(model, [size * torch.randn(24, 3, 8, 8, generator=generator)])


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_nor_are_those_of_a_few_odd_batches(steps, pixels):
    """Of even images, beside which ordinary ones would be far too large."""
    generator = torch.Generator().manual_seed(1)

    def even():
        return 0.02 * torch.randn(2, 3, 1, 1, generator=generator).expand(-1, -1, 16, 16)

    assert not warned(trained(norm_first(), even, steps), [normalised(pixels)])


@pytest.mark.slow
@pytest.mark.parametrize("steps", [10, 15, 30])
@pytest.mark.parametrize("size", [0.02, 1.0])
@pytest.mark.parametrize("momentum", [0.1, 0.01, None])
def test_what_they_began_with_is_taken_out(steps, size, momentum):
    generator = torch.Generator().manual_seed(1)

    def draw():
        return size * torch.randn(16, 3, 8, 8, generator=generator)

    model = convolutional()
    model[1].momentum = momentum
    trained(model, draw, steps)
    assert not warned(model, [draw()])
    assert "inputs" in warned(model, [200 * draw()])
    assert "inputs" in warned(model, [draw() / 200])


def test_statistics_of_unknown_age_count():
    """As of old checkpoints, which do not tell how many steps there were."""
    generator = torch.Generator().manual_seed(1)
    model = trained(convolutional(), lambda: torch.randn(16, 3, 8, 8, generator=generator), 60)
    model[1].num_batches_tracked.zero_()
    assert "inputs" in warned(model, [200 * torch.randn(16, 3, 8, 8)])


@pytest.mark.slow
def test_tables():
    """Columns of other units than in training."""
    generator = torch.Generator().manual_seed(0)

    def draw(samples=64):
        return torch.randn(samples, 6, generator=generator)

    table = nn.Sequential(linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), linear(8, 3))
    trained(table, draw)
    assert not warned(table, [draw(20)])
    assert "inputs" in warned(table, [40 * draw(20)])
    assert "inputs" in warned(table, [0.02 * draw(20)])


def test_words_are_no_matter():
    def forward(m, ids):
        return m.head(torch.relu(m.norm(m.embed(ids).mean(1))))

    texts = Custom(forward, embed=nn.Embedding(9, 6), norm=nn.BatchNorm1d(6), head=linear(6, 3))
    trained(texts, lambda: torch.randint(0, 9, (16, 5)))
    assert not warned(texts, [torch.randint(0, 9, (12, 5))])


def test_nothing_of_ours_stays_on_the_model(model, pixels):
    before = [len(m._forward_pre_hooks) for m in model.modules()]
    warned(model, [255 * pixels])
    assert [len(m._forward_pre_hooks) for m in model.modules()] == before
