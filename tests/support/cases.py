"""The small models that scores are checked on, and makers of their inputs.

No parameter or running statistic keeps its trivial initial value (zeros, ones): no gradient is zero
by accident. Heads are calibrated: logits of the drawn inputs are centred and spread or, for
confident samples, scaled until the most certain one has `1 - p_max = 1e-30`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelsLastGradient(nn.Module):
    """Plain autograd gets it wrong, see `oracle.ContiguousGradients`."""

    def __init__(self, norm=nn.BatchNorm2d, **options):
        super().__init__()
        self.norm, self.head = norm(4, **options), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.norm(x.contiguous()).flatten(2).mT.square().mean(1))


class MLP(nn.Module):
    def __init__(self, inputs: int = 10, hidden: int = 16, classes: int = 5):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden, bias=False), nn.GELU()
        )
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class PaddedCNN(nn.Module):
    """Grouped, depthwise, dilated and strided convolutions under three padding modes."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect", groups=2)
        self.dilated = nn.Conv2d(8, 12, 3, stride=2, padding=2, dilation=2, groups=4, bias=False)
        self.depthwise = nn.Conv2d(12, 12, (3, 1), padding="same", dilation=(2, 1), groups=12)
        self.wrapped = nn.Conv2d(12, 6, (1, 3), padding=(0, 1), padding_mode="circular")
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.dilated(F.relu(self.grouped(x))))
        x = F.gelu(self.wrapped(F.gelu(self.depthwise(x))))
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, i: int, o: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or i != o:
            self.skip = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(y + self.skip(x), inplace=True)


class ResNet18(nn.Module):
    """ResNet-18 with the stem for CIFAR: a 3x3 convolution, no pooling."""

    def __init__(self, classes: int = 10, width: int = 64):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        blocks, i = [], width
        for stage in range(4):
            for stride in (1 if stage == 0 else 2, 1):
                blocks.append(Block(i, width * 2**stage, stride))
                i = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(i, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class GroupNormCNN(nn.Module):
    def __init__(self, classes: int = 3):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 8, 3, padding=1), nn.GroupNorm(4, 8)
        self.conv2 = nn.Conv2d(8, 6, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(2, 6)
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        return self.head(F.gelu(self.norm2(self.conv2(x))).mean((2, 3)))


class CNN3d(nn.Module):
    def __init__(self, classes: int = 2):
        super().__init__()
        self.conv1 = nn.Conv3d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm3d(4)
        self.conv2 = nn.Conv3d(4, 6, (2, 3, 3), stride=(1, 2, 2), groups=2)
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.relu(self.norm(self.conv1(x)))))
        return self.head(x.mean((2, 3, 4)))


class TransformerClassifier(nn.Module):
    """Patches, a class token and a position embedding through `nn.TransformerEncoder`."""

    def __init__(self, classes: int = 4, width: int = 16):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, width))
        layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
        return self.head(self.encoder(tokens)[:, 0])


class BagOfWords(nn.Module):
    """The mean of the embeddings of a text's words, of which word 0 is padding."""

    def __init__(self, bag: bool, classes: int = 4, words: int = 12, width: int = 8):
        super().__init__()
        self.embed: nn.Module
        if bag:
            self.embed = nn.EmbeddingBag(words, width, mode="mean", padding_idx=0)
        else:
            self.embed = nn.Embedding(words, width, padding_idx=0)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        if x.dim() == 3:
            x = x.sum(1) / (ids != 0).sum(1, keepdim=True)
        return self.head(torch.tanh(self.hidden(x)))


def perturb(model: nn.Module) -> nn.Module:
    """Moves what is initialised to 0 or 1, and running statistics, off these values; eval mode."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1 or bool((p == p.flatten()[0]).all()):
                p.add_(0.2 * torch.randn_like(p))
            elif name == "embed.weight":
                p[0].normal_()  # a padding row that would show if it were looked up
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.add_(0.2 * torch.randn_like(b))
            elif name.endswith("running_var"):
                b.mul_(0.5 + torch.rand_like(b))
    return model.eval()


def images(*shape: int) -> Callable[[int], Tensor]:
    """Noise of a scale and an offset of its own per sample and channel."""

    def draw(n: int) -> Tensor:
        rest = [1] * (len(shape) - 1)
        scale, offset = 0.5 + torch.rand(n, shape[0], *rest), 0.5 * torch.randn(n, shape[0], *rest)
        return scale * torch.randn(n, *shape) + offset

    return draw


def words(n: int) -> Tensor:
    """Texts [n, 6] with repeated words, padded to different lengths."""
    ids = torch.randint(1, 12, (n, 6))
    ids[:, 1] = ids[:, 0]
    return ids * (torch.arange(6) < torch.randint(2, 7, (n, 1)))


class Custom(nn.Module):
    """A model made of submodules and a function of them."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def by_sample(forward):
    """A forward pass of models that is written for one sample at a time, for batches."""
    return lambda m, x: torch.cat([forward(m, row) for row in x.split(1)])


def linear(i, o, **options):
    return perturb(nn.Linear(i, o, **options))


@dataclass(frozen=True)
class Case:
    """A model and its inputs; `head` is the name of the layer that returns the logits."""

    name: str
    build: Callable[[], nn.Module]
    draw: Callable[[int], Tensor]
    samples: int = 64
    head: str = "head"

    def initial(self) -> tuple[nn.Module, Tensor]:
        """The model as it is initialised, and inputs [samples, ...]."""
        torch.manual_seed(1)
        return perturb(self.build()), self.draw(self.samples)

    def random(self) -> tuple[nn.Module, Tensor]:
        """The model and inputs [samples, ...]; logits have mean 0 and standard deviation 1.5."""
        model, inputs = self.initial()
        center(model, inputs, self.head)
        scale_head(model, 1.5 / logits_of(model, inputs).std(), self.head)
        return model, inputs

    def confident(self, least: float = 1e-30) -> tuple[nn.Module, Tensor]:
        """The same with the head scaled until the most certain sample has `1 - p_max = least`."""
        model, inputs = self.random()
        sharpen(model, inputs, least, self.head)
        return model, inputs


def logits_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Logits [N, C], float32."""
    with torch.no_grad():
        return model(inputs)


def log_doubt(logits: Tensor) -> Tensor:
    """log(1 - p_max) [N] of logits [N, C], exact for any confidence."""
    z = logits.double()
    rest = z.clone().scatter_(1, z.argmax(1, keepdim=True), -torch.inf)
    return rest.logsumexp(1) - z.logsumexp(1)


def center(model: nn.Module, inputs: Tensor, head: str = "head") -> None:
    """Shifts the head's bias until the mean logit of every class is 0."""
    with torch.no_grad():
        model.get_submodule(head).bias.sub_(logits_of(model, inputs).mean(0))


def scale_head(model: nn.Module, factor: float | Tensor, head: str = "head") -> None:
    """Multiplies the logits."""
    with torch.no_grad():
        for p in model.get_submodule(head).parameters():
            p.mul_(factor)


def sharpen(model: nn.Module, inputs: Tensor, least: float, head: str = "head") -> None:
    """Scales the head until the most certain sample has `1 - p_max = least`."""
    logits, low, high = logits_of(model, inputs).double(), 0.0, 1e6
    target = torch.tensor(least, dtype=torch.float64).log()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if log_doubt(middle * logits).min() > target else (low, middle)
    scale_head(model, low, head)


CASES = {
    case.name: case
    for case in [
        Case("mlp", MLP, images(10)),
        Case("padded-cnn", PaddedCNN, images(4, 7, 7)),
        Case("resnet18", lambda: ResNet18(width=32), images(3, 8, 8), samples=12),
        Case("groupnorm-cnn", GroupNormCNN, images(2, 8, 8)),
        Case("cnn3d", CNN3d, images(1, 5, 6, 6)),
        Case("transformer", TransformerClassifier, images(3, 8, 8)),
        Case("embedding", lambda: BagOfWords(bag=False), words),
        Case("embedding-bag", lambda: BagOfWords(bag=True), words),
    ]
}
