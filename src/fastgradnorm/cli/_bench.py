"""``fastgradnorm bench``: the user's own model, against the plain autograd loop."""

import json
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from torch.utils.data import DataLoader, Subset

from fastgradnorm import naive_score_pool, score_pool
from fastgradnorm.cli import _given


def add(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    @_given.opened
    def bench(
        given: _given.Given,
        samples: Annotated[int, typer.Option(min=1, help="How many of the pool to time.")] = 32,
        repeats: Annotated[int, typer.Option(min=1, help="Paired runs; medians are told.")] = 3,
        as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    ) -> None:
        """Time your own model against the plain autograd loop.

        Both score the same samples of your pool; the scores are compared, too.
        """
        samples = min(samples, len(given.pool.ids))
        part = DataLoader(Subset(given.pool.dataset, range(samples)), given.batch_size)
        found = _measure(given.model, list(part), given.options, samples, repeats)
        found["pool_hours"] = len(given.pool.ids) / found["samples_per_second"] / 3600
        typer.echo(json.dumps(found, indent=1) if as_json else _table(found, len(given.pool.ids)))


def _measure(
    model: Any, batches: list[Any], options: dict[str, Any], samples: int, repeats: int
) -> dict[str, Any]:
    exact = {name: value for name, value in options.items() if name != "rtol"}

    def ours() -> Any:
        return score_pool(model, batches, verify=False, progress=False, **options)

    def loop() -> Any:
        return naive_score_pool(model, batches, **exact)

    scores, expected = ours(), loop()  # and warm up
    pairs = [(_seconds(ours), _seconds(loop)) for _ in range(repeats)]
    fast, slow = (statistics.median(times) for times in zip(*pairs, strict=True))
    difference = ((scores - expected).abs() / expected.abs().clamp_min(1e-30)).max()
    return {
        "samples": samples,
        "repeats": repeats,
        "samples_per_second": samples / fast,
        "loop_samples_per_second": samples / slow,
        "speed_up": statistics.median(s / f for f, s in pairs),
        "largest_relative_difference": float(difference),
    }


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _table(found: dict[str, Any], pool: int) -> str:
    hours = found["pool_hours"]
    whole = f"{hours * 3600:.0f} s" if hours < 0.1 else f"{hours:.1f} h"
    return "\n".join(
        [
            f"{found['samples']} samples, medians of {found['repeats']} paired runs",
            f"  fastgradnorm        {found['samples_per_second']:10.4g} samples/s",
            f"  plain autograd loop {found['loop_samples_per_second']:10.4g} samples/s",
            f"  speed-up            {found['speed_up']:10.1f} x",
            f"  largest difference  {found['largest_relative_difference']:10.1e} relative",
            f"The whole pool of {pool:,} would take about {whole}.",
        ]
    )
