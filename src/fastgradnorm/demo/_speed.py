"""How fast every scheme is, and how far from the plain autograd loop in float64."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fastgradnorm import SCHEMES, Scheme, naive_score_pool, score_pool
from fastgradnorm.demo._watch import Watch

ParamsName = Literal["all", "last_layer"]


@dataclass(frozen=True)
class Speed:
    """One scheme over one choice of parameters.

    Attributes:
        params: Which parameters the gradient is taken over.
        scheme: Which score.
        samples_per_second: Of `score_pool`, over the whole pool, its self-check included.
        loop_samples_per_second: Of the plain autograd loop, over a part of the pool.
        largest_relative_difference: Between the two, over that part, the loop run in float64.
    """

    params: ParamsName
    scheme: Scheme
    samples_per_second: float
    loop_samples_per_second: float
    largest_relative_difference: float

    @property
    def speedup(self) -> float:
        """How many times the loop's samples per second."""
        return self.samples_per_second / self.loop_samples_per_second


def measure_speed(
    model: nn.Module, batches: Sequence[Tensor], loop_images: int, watch: Watch
) -> list[Speed]:
    """Score the pool with every scheme, and its first `loop_images` with the loop too."""
    cases: list[tuple[ParamsName, Scheme]]
    cases = [(params, scheme) for params in get_args(ParamsName) for scheme in SCHEMES]
    return [
        _measure(model, batches, loop_images, params=params, scheme=scheme, watch=watch)
        for params, scheme in cases
    ]


def _measure(
    model: nn.Module,
    batches: Sequence[Tensor],
    loop_images: int,
    *,
    params: ParamsName,
    scheme: Scheme,
    watch: Watch,
) -> Speed:
    part = list(torch.cat(list(batches))[:loop_images].split(1))
    parameters = "all parameters" if params == "all" else "last layer"

    # The first call of each pays for what PyTorch sets up once.
    score_pool(model, part[:2], scheme=scheme, params=params, progress=False)
    naive_score_pool(model, part[:2], scheme=scheme, params=params)

    start = perf_counter()
    watched = watch(batches, f"Score the pool: {scheme}, {parameters}")
    scores = score_pool(model, watched, scheme=scheme, params=params, progress=False)
    seconds = perf_counter() - start

    start = perf_counter()
    watched = watch(part, f"Autograd loop: {scheme}, {parameters}")
    naive_score_pool(model, watched, scheme=scheme, params=params)
    loop_seconds = perf_counter() - start

    exact = naive_score_pool(
        copy.deepcopy(model).double(), [x.double() for x in part], scheme=scheme, params=params
    )
    difference = (scores[: len(exact)].double() - exact).abs() / exact.abs()
    return Speed(
        params=params,
        scheme=scheme,
        samples_per_second=len(scores) / seconds,
        loop_samples_per_second=len(part) / loop_seconds,
        largest_relative_difference=float(difference.max()),
    )
