"""Operations that PyTorch runs sample by sample under vmap: at once here, and without a warning.

Warnings are errors in these tests, so that an operation which is left to PyTorch fails.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

LAST, LAST_3D = torch.channels_last, torch.channels_last_3d


def maps(function):
    """Of features as maps `[N, 2, 3, 4]`."""
    return lambda x: function(x.reshape(-1, 2, 3, 4)).flatten(1)


def with_gaps(x):
    return torch.where(x > 0.6, math.nan, x)


def written_windows(x):
    x = x.clone()
    x.unfold(1, 2, 2).mul_(3.0)
    return x


def mish_in_place(x):
    x = x.clone()
    F.mish(x, inplace=True)
    return x


def copied(x):
    """A copy with the channels last is no view: what is written to it stays there."""
    y = x.to(memory_format=LAST)
    y.mul_(2.0)
    return x + y


LEVELS = torch.tensor([0.1, 0.5, 0.9]).double()
WAYS = {
    "mish": F.mish,
    "mish of a module": nn.Mish(),
    "mish in place": mish_in_place,
    "rrelu": lambda x: F.rrelu(x, 0.2, 0.4),
    "rrelu of a module": nn.RReLU().eval(),
    "rrelu in place": lambda x: nn.RReLU(inplace=True).eval()(x.clone()),
    "rrelu of torch": lambda x: torch.rrelu(x, 0.1, 0.3),
    "cummax": lambda x: x.cummax(1).values,
    "cummax of two": lambda x: torch.cummax(x.reshape(-1, 4, 6), dim=1)[0].flatten(1),
    "cummin": lambda x: torch.cummin(x, -1)[0],
    "cummin, and where": lambda x: x.cummin(1).values * x.cummin(1).indices,
    "cumprod": lambda x: torch.cumprod(1 + x, 1),
    "cumprod of zeros": lambda x: x.relu().cumprod(-1),
    "cumprod of two": lambda x: x.reshape(-1, 4, 6).cumprod(dim=1).flatten(1),
    "quantile": lambda x: x.quantile(0.3, dim=1, keepdim=True),
    "quantile of all": lambda x: x.quantile(0.3, 1)[:, None] * x,
    "quantiles": lambda x: torch.quantile(x, LEVELS, dim=1).T,
    "quantiles, kept": lambda x: torch.quantile(x, LEVELS, dim=-1, keepdim=True)[:, :, 0].T,
    "quantile, lower": lambda x: x.quantile(0.3, dim=1, interpolation="lower")[:, None],
    "quantile, higher": lambda x: x.quantile(0.3, dim=1, interpolation="higher")[:, None],
    "quantile, nearest": lambda x: x.quantile(0.3, dim=1, interpolation="nearest")[:, None],
    "quantile, midpoint": lambda x: x.quantile(0.3, dim=1, interpolation="midpoint")[:, None],
    "quantile of two": lambda x: x.reshape(-1, 4, 6).quantile(0.7, dim=1),
    "quantile without gaps": lambda x: with_gaps(x).nanquantile(0.4, dim=1, keepdim=True),
    "quantiles without gaps": lambda x: torch.nanquantile(with_gaps(x), LEVELS, dim=1).T,
    "windows": lambda x: x.unfold(1, 4, 2).flatten(1),
    "windows side by side": lambda x: x.unfold(-1, 3, 3).flatten(1),
    "windows with gaps": lambda x: x.unfold(1, 2, 5).flatten(1),
    "windows, written to": written_windows,
    "patches": maps(lambda x: x.unfold(2, 3, 3).unfold(3, 2, 2)),
    "patches that overlap": maps(lambda x: x.unfold(2, 2, 1).unfold(3, 2, 1)),
    "pdist": lambda x: torch.stack([F.pdist(row.reshape(6, 4)) for row in x]),
    "pdist, p=1": lambda x: torch.stack([torch.pdist(row.reshape(6, 4), 1.0) for row in x]),
    "take": lambda x: torch.stack([row.take(torch.tensor([[0, -1], [2, 2]])) for row in x]),
    "log_ndtr": lambda x: torch.special.log_ndtr(20 * x),
    "nearest-exact": maps(lambda x: F.interpolate(x, size=(5, 7), mode="nearest-exact")),
    "nearest-exact by a factor": maps(
        lambda x: F.interpolate(x, scale_factor=(1.7, 0.5), mode="nearest-exact")
    ),
    "nearest-exact by sizes": maps(
        lambda x: F.interpolate(
            x, scale_factor=1.7, mode="nearest-exact", recompute_scale_factor=True
        )
    ),
    "nearest-exact of a row": lambda x: F.interpolate(x[:, None], size=7, mode="nearest-exact"),
    "upsample": maps(nn.Upsample(scale_factor=2, mode="nearest-exact")),
    "channels last": maps(lambda x: x.to(memory_format=LAST) * x),
    "channels last, contiguous": maps(lambda x: x.contiguous(memory_format=LAST) * x),
    "channels last, cloned": maps(lambda x: x.clone(memory_format=LAST) * x),
    "channels last, cast": maps(lambda x: x.to(torch.float64, memory_format=LAST) * x),
    "channels last, in place": maps(copied),
    "channels last, volumes": lambda x: x.reshape(-1, 2, 3, 2, 2).to(memory_format=LAST_3D),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_it_is_exact_and_runs_at_once(way):
    torch.manual_seed(0)
    body, x = linear(4, 24).double(), torch.randn(5, 4).double()
    with torch.no_grad():
        size = way(torch.tanh(body(x))).flatten(1).shape[1]
    head = linear(size, 3).double()
    model = Custom(lambda m, x: m.head(way(torch.tanh(m.body(x))).flatten(1)), body=body, head=head)
    expected = oracle.scores(model, oracle.ones(x))
    for verify in (True, False):
        scores = score_pool(model, x.split(3), verify=verify, progress=False)
        assert_close_relative(scores, expected, 1e-9, f"verify={verify}")


@pytest.mark.parametrize("interpolation", ["linear", "lower", "higher", "nearest", "midpoint"])
@pytest.mark.parametrize("function", [torch.quantile, torch.nanquantile])
def test_quantiles_are_those_of_pytorch(function, interpolation):
    from fastgradnorm._operations.table import TABLE

    form, x = TABLE[function].form, torch.randn(3, 5, 4).double()
    x[0, 1, 2] = math.nan
    for q in (0.0, 0.37, 1.0, LEVELS, LEVELS[:1]):
        for dim in (None, 0, 1, -1):
            for keepdim in (True, False):
                options = {"dim": dim, "keepdim": keepdim, "interpolation": interpolation}
                expected = function(x, q, **options)
                assert form(x, q, **options).shape == expected.shape
                assert torch.allclose(form(x, q, **options), expected, equal_nan=True)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1)])
def test_what_has_its_channels_last_is_itself(shape):
    from fastgradnorm._operations.unbatched import laid_out

    x = torch.randn(shape)
    for given in (x, x.contiguous(memory_format=LAST)):
        same = given.to(memory_format=LAST) is given
        assert (laid_out(torch.Tensor.to, given, memory_format=LAST) is given) == same
