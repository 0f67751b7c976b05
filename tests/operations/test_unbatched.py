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


def rows(function):
    """Of each sample by itself."""
    return lambda x: torch.stack([function(row) for row in x])


def scattered_in_place(row, mask=None, chosen=slice(None)):
    row = row.clone()
    row.masked_scatter_(row > 0 if mask is None else mask, row.flip(0).exp()[chosen])
    return row


def unpooled(pool, unpool, *sizes, output_size=None, shape=(2, 3, 4)):
    """Pooled, and put back where it stood."""

    def way(x):
        x = x.reshape(-1, *shape)
        values, places = pool(x, *sizes, return_indices=True)
        return unpool(values.exp(), places, *sizes, output_size=output_size).flatten(1)

    return way


def grid(dims, *space, align_corners=False):
    def way(x):
        theta = x[:, : dims * (dims + 1)].reshape(len(x), dims, dims + 1)
        return F.affine_grid(theta, [len(x), 1, *space], align_corners).flatten(1)

    return way


LEVELS = torch.tensor([0.1, 0.5, 0.9]).double()
LABELS = torch.tensor([[3, 0, -1, 5, 5, -1] * 4, [*range(22), 1, -1]])
WEIGHTS = torch.linspace(0.5, 2, 24).double()
WAYS = {
    "masked_fill by a tensor": lambda x: x.masked_fill(x > 0.3, torch.tensor(2.0)),
    "masked_fill by a value of the sample": rows(
        lambda row: torch.masked_fill(row, mask=row > 0, value=row.sum())
    ),
    "masked_fill of a broadcast mask": maps(lambda x: x.masked_fill(x[:, :1] > 0, x.new_ones(()))),
    "masked_scatter": rows(lambda row: row.masked_scatter(row > 0, row.flip(0).exp())),
    "masked_scatter of rows": rows(
        lambda row: torch.masked_scatter(
            row.reshape(6, 4), row[:6, None] > 0, row.reshape(4, 6).exp()
        ).flatten()
    ),
    "masked_scatter in place": rows(scattered_in_place),
    "masked_scatter of nothing": rows(lambda row: row.masked_scatter(row > 9, row[:0])),
    "masked_scatter of nothing, in place": rows(lambda row: scattered_in_place(row, row > 9, [])),
    "max_unpool": unpooled(F.max_pool2d, F.max_unpool2d, (1, 2)),
    "max_unpool of windows that overlap": unpooled(F.max_pool2d, F.max_unpool2d, 2, 1),
    "max_unpool to a size": unpooled(F.max_pool2d, F.max_unpool2d, 2, 2, output_size=(-1, 2, 3, 4)),
    "max_unpool with padding": unpooled(
        F.max_pool2d, F.max_unpool2d, 3, 2, 1, output_size=(4, 6), shape=(1, 4, 6)
    ),
    "max_unpool with padding, to its own size": unpooled(
        F.max_pool2d, F.max_unpool2d, 2, 2, 1, shape=(1, 4, 6)
    ),
    "max_unpool of a row": unpooled(F.max_pool1d, F.max_unpool1d, 2, shape=(1, 24)),
    "max_unpool of a volume": unpooled(F.max_pool3d, F.max_unpool3d, 2, 1, shape=(2, 3, 2, 2)),
    "put": rows(lambda row: row.put(torch.tensor([[0, 2], [-1, 5]]), row[5:9].exp())),
    "put, added": rows(
        lambda row: torch.put(row, torch.tensor([3, 3]), row[5:7].exp(), accumulate=True)
    ),
    "isin": lambda x: x * torch.isin(x.mul(3).round(), torch.tensor([0.0, 1.0])),
    "isin, inverted": lambda x: x * torch.isin(x.mul(3).round(), x.new_zeros(1, 1), invert=True),
    "renorm": maps(lambda x: x.renorm(2, 0, 0.5)),
    "renorm, p=1": rows(lambda row: torch.renorm(row.reshape(6, 4), 1.0, -1, 1.5).flatten()),
    "renorm of small ones": rows(lambda row: row.relu().reshape(6, 4).renorm(2, 0, 0.9).flatten()),
    "affine_grid": grid(2, 4, 5),
    "affine_grid to the corners": grid(2, 4, 5, align_corners=True),
    "affine_grid of one pixel": grid(2, 1, 3),
    "affine_grid of a volume": grid(3, 2, 3, 2),
    "spatial transformer": maps(
        lambda x: F.grid_sample(
            x,
            F.affine_grid(x.flatten(1)[:, :6].reshape(-1, 2, 3), x.shape, align_corners=False),
            align_corners=False,
        )
    ),
    "kl_div": lambda x: F.kl_div(x.log_softmax(1), x.detach().flip(1).softmax(1), reduction="none"),
    "kl_div of both": rows(
        lambda row: F.kl_div(row.log_softmax(0), row.flip(0).softmax(0), reduction="sum")[None]
    ),
    "kl_div of logarithms": rows(
        lambda row: F.kl_div(
            row.log_softmax(0), row.flip(0).log_softmax(0), reduction="batchmean", log_target=True
        )[None]
    ),
    "kl_div of a certain target": rows(
        lambda row: F.kl_div(
            row.log_softmax(0), F.one_hot(row.argmax(), 24).double(), reduction="sum"
        )[None]
    ),
    "soft_margin_loss": lambda x: F.soft_margin_loss(x, x.detach().sign(), reduction="none"),
    "soft_margin_loss, mean": rows(lambda row: F.soft_margin_loss(row, WEIGHTS.round() - 1)[None]),
    "multi_margin_loss": lambda x: F.multi_margin_loss(x, x.detach().argmin(1), reduction="none")[
        :, None
    ],
    "multi_margin_loss, squared": rows(
        lambda row: F.multi_margin_loss(row, torch.tensor(3), 2, 0.4, WEIGHTS, reduction="sum")[
            None
        ]
    ),
    "multilabel_margin_loss": rows(
        lambda row: torch.stack([F.multilabel_margin_loss(row, labels) for labels in LABELS])
    ),
    "multilabel_margin_loss, of each": lambda x: F.multilabel_margin_loss(
        x, LABELS[:1].expand(len(x), -1), reduction="none"
    )[:, None],
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
