"""The small models of `traps`, continued: parameters in odd places, composite layers, execution."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.trap_cases import (
    CLASSES,
    SAMPLES,
    WIDTH,
    Trap,
    conv_traps,
    embedding_traps,
    linear_traps,
    norm_traps,
    numbers,
    tokens_model,
)


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


class _Adapter(nn.Module):
    """A low-rank correction of a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.down, self.up = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def _weight_norm(m: nn.Linear) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(m)


def _frozen() -> nn.Module:
    model = tokens_model(lambda m, x: m.body(x), body=nn.Linear(WIDTH, WIDTH))
    model.body.weight.requires_grad_(False)
    return model


def _parameter_traps() -> list[Trap]:
    def raw(
        name: str,
        function: Callable[..., Tensor],
        make: Callable[[], dict[str, Any]],
        length: int = 5,
    ) -> Trap:
        draw = numbers(length, WIDTH)
        return Trap("parameters", name, lambda: tokens_model(function, **make()), draw)

    def with_token(m: Any, x: Tensor) -> Tensor:
        return torch.cat([m.token.expand(len(x), -1, -1), x], 1)

    layer = lambda: nn.Linear(WIDTH, WIDTH)  # noqa: E731
    return [
        raw("cls_token", with_token, lambda: {"token": _parameter(1, 1, WIDTH)}),
        raw("position table", lambda m, x: x + m.table, lambda: {"table": _parameter(1, 5, WIDTH)}),
        raw("layer scale", lambda m, x: x * m.scale, lambda: {"scale": _parameter(WIDTH)}),
        raw("layer scale, as many tokens as samples", lambda m, x: x * m.scale[:, None],
            lambda: {"scale": _parameter(SAMPLES)}, SAMPLES),
        raw("x @ weight.T", lambda m, x: x @ m.w.T, lambda: {"w": _parameter(WIDTH, WIDTH)}),
        raw("einsum", lambda m, x: torch.einsum("ntd,dhe->nthe", x, m.w).flatten(2),
            lambda: {"w": _parameter(WIDTH, 2, 3)}),
        raw("two layers, one weight", lambda m, x: F.linear(m.body(x).tanh(), m.body.weight),
            lambda: {"body": layer()}),
        raw("a module applied twice", lambda m, x: m.body(m.body(x).tanh()),
            lambda: {"body": layer()}),
        raw("weight_norm by parametrisation", lambda m, x: m.body(x),
            lambda: {"body": _weight_norm(layer())}),
        raw("low-rank adapter, base frozen", lambda m, x: m.body(x), lambda: {"body": _Adapter()}),
        raw("a module that is not used", lambda m, x: m.body(x),
            lambda: {"body": layer(), "spare": layer()}),
        Trap("parameters", "frozen weight, trainable bias", _frozen, numbers(5, WIDTH)),
    ]  # fmt: skip


def _attend(m: Any, x: Tensor) -> Tensor:
    keys, values = x[..., : m.attention.kdim], x[..., : m.attention.vdim]
    return m.attention(x, keys, values, need_weights=False)[0]


def _sequence_first(m: Any, x: Tensor) -> Tensor:
    return m.encoder(x.transpose(0, 1)).transpose(0, 1)


def _encoder(batch_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.0, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def _bilinear(m: Any, x: Tensor) -> Tensor:
    return m.pair(x, x.flip(1))


def _composite_traps() -> list[Trap]:
    def on_tokens(
        name: str, function: Callable[..., Tensor], make: Callable[[], dict[str, Any]]
    ) -> Trap:
        return Trap("layers", name, lambda: tokens_model(function, **make()), numbers(5, WIDTH))

    def attention(**options: Any) -> dict[str, Any]:
        return {"attention": nn.MultiheadAttention(WIDTH, 2, batch_first=True, **options)}

    def recurrent(kind: type[nn.RNNBase]) -> dict[str, Any]:
        return {"cell": kind(WIDTH, WIDTH, batch_first=True)}

    return [
        on_tokens("MultiheadAttention, packed", _attend, attention),
        on_tokens("MultiheadAttention, separate", _attend,
                  lambda: attention(kdim=4, vdim=5)),
        on_tokens("TransformerEncoder", lambda m, x: m.encoder(x),
                  lambda: {"encoder": _encoder(True)}),
        on_tokens("TransformerEncoder, batch_first=False", _sequence_first,
                  lambda: {"encoder": _encoder(False)}),
        *(
            on_tokens(kind.__name__, lambda m, x: m.cell(x)[0],
                      lambda kind=kind: recurrent(kind))  # type: ignore[misc]
            for kind in (nn.LSTM, nn.GRU, nn.RNN)
        ),
        on_tokens("PReLU", lambda m, x: m.act(x), lambda: {"act": nn.PReLU()}),
        on_tokens("Bilinear", _bilinear, lambda: {"pair": nn.Bilinear(WIDTH, WIDTH, WIDTH)}),
    ]  # fmt: skip


def _confident() -> nn.Module:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES))
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([80.0, 0.0, 0.0]))
    return model


def _execution_traps() -> list[Trap]:
    inplace = lambda m, x: F.relu(m.body(x).mul_(2.0), inplace=True)  # noqa: E731
    return [
        Trap("execution", "activations changed in place",
             lambda: tokens_model(inplace, body=nn.Linear(WIDTH, WIDTH)), numbers(5, WIDTH)),
        Trap("execution", "fully confident samples", _confident, numbers(WIDTH)),
    ]  # fmt: skip


TRAPS = (
    *conv_traps(),
    *linear_traps(),
    *norm_traps(),
    *embedding_traps(),
    *_parameter_traps(),
    *_composite_traps(),
    *_execution_traps(),
)
