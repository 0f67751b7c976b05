"""Which images to outline next: a network with an output for each pixel.

The score is `"entropy"`, one pull-back an image: the expected one would need one for each map of
classes. Pixels that do not count, as beyond the border of a scan, are left out by `mask=`.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fastgradnorm import GradNormScorer, acquire

torch.manual_seed(0)


class UNet(nn.Module):
    """Two levels; `[N, 1, H, W]` to logits `[N, 3, H, W]`."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.below = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, x):
        high = self.down(x)
        return self.head(torch.cat([high, self.up(self.below(high))], 1))


def blobs(count):
    """Images with a bright and a dark disc, and their masks. Yours come from files."""
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    images, masks = 0.3 * torch.randn(count, 1, 24, 24), torch.zeros(count, 24, 24).long()
    for i in range(count):
        for label, light in ((1, 1.0), (2, -1.0)):
            y, x, radius = torch.rand(3) * torch.tensor([24.0, 24, 5]) + torch.tensor([0.0, 0, 2])
            disc = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
            images[i, 0][disc] += light
            masks[i][disc] = label
    return images, masks


images, masks = blobs(100)
labelled, pool = range(20), range(20, 100)
model = UNet()
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
for _ in range(30):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images[:20]), masks[:20]).backward()
    optimizer.step()

# One dataset of all images; what is labelled is named by its place in it.
chosen = acquire(model, TensorDataset(images), 8, labelled=labelled, scheme="entropy")
print(chosen)

# By the whole gradient, and without a border of two pixels, which nobody outlines:
inside = torch.zeros(24, 24, dtype=torch.bool)
inside[2:-2, 2:-2] = True
scorer = GradNormScorer(
    model, scheme="entropy", mask=lambda batch: inside.expand(len(batch[0]), 24, 24)
)
scores = scorer.score(DataLoader(TensorDataset(images), batch_size=16))
print(scores)
