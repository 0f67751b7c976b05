"""Norm layers whose batch holds several rows of each sample: frames, patches, windows."""

import pytest
import torch
from torch import nn

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative


class Frames(nn.Module):
    """`[N, frames, *]`, whose frames are more rows for the layer; the rest is as it is."""

    def __init__(self, norm, channels, positions, with_body):
        super().__init__()
        self.body = nn.Conv1d(channels, channels, 1) if with_body else nn.Identity()
        self.norm, self.head = norm, nn.Linear(channels * positions, 3)

    def forward(self, x):
        frames = x.flatten(0, 1)  # [N * frames, C, *space]
        space = frames.shape[2:]
        frames = self.norm(self.body(frames.flatten(2)).unflatten(2, space) if space else frames)
        made = torch.tanh(frames).flatten(1).unflatten(0, (len(x), -1))
        return self.head(made).mean(1)


NORMS = {
    "batch norm of rows": (lambda c: nn.BatchNorm1d(c), ()),
    "batch norm of series": (lambda c: nn.BatchNorm1d(c), (5,)),
    "batch norm of images": (lambda c: nn.BatchNorm2d(c), (2, 4)),
    "of a square": (lambda c: nn.BatchNorm1d(c), (3,)),  # as many positions as channels
    "group norm": (lambda c: nn.GroupNorm(1, c), (5,)),
    "groups of channels": (lambda c: nn.GroupNorm(c, c), (2, 3)),
    "instance norm": (lambda c: nn.InstanceNorm2d(c, affine=True), (2, 3)),
    "instance norm with statistics": (
        lambda c: nn.InstanceNorm1d(c, affine=True, track_running_stats=True), (4,)
    ),
    "layer norm": (lambda c: nn.LayerNorm([c, 4]), (4,)),
    "a slope for each channel": (lambda c: nn.PReLU(c), (2, 3)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("name", NORMS)
def test_scores_are_those_of_the_loop(name, frames):
    make, space = NORMS[name]
    torch.manual_seed(0)
    model = Frames(make(3), 3, int(torch.tensor(space).prod()) if space else 1, bool(space))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn_like(tensor).abs())
    model = model.double().eval()
    for parameter_of in (lambda n, p: True, lambda n, p: n.startswith("norm")):
        for n, p in model.named_parameters():
            p.requires_grad_(parameter_of(n, p))
        x = torch.randn(4, frames, 3, *space, dtype=torch.float64)
        exact = oracle.scores(model, oracle.ones(x))
        for verify in (True, False):
            found = score_pool(model, [x[:3], x[3:]], verify=verify, progress=False)
            assert_close_relative(found, exact, 1e-9)
