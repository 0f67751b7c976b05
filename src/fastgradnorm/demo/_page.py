"""The report as one HTML page, every picture inside it."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from torch import Tensor

from fastgradnorm.atomic import write_text
from fastgradnorm.demo._figures import draw_digit
from fastgradnorm.demo._learning import STRATEGIES, Curve
from fastgradnorm.demo._results import Results
from fastgradnorm.demo._wording import PARAMS, headline, percent, rate
from fastgradnorm.page import chart, definitions, number, page, pair, table, tile, tiles
from fastgradnorm.page import percent as of_all

_SHOWN = 10  # images at either end of the ranking
_CODE = """<pre tabindex="0"><code>from fastgradnorm import acquire

# which to label, best first; a loader or a dataset, and what has labels
chosen = acquire(model, pool, 100, labelled=labelled)

print(chosen.indices, chosen)
chosen.report("page")  # with the reason for each</code></pre>"""


def write_page(
    out: Path, results: Results, *, light: Mapping[str, bytes], dark: Mapping[str, bytes]
) -> Path:
    """Write ``index.html`` into `out` and return its path.

    Args:
        out: An existing folder.
        results: What to show.
        light: PNG figures by name, for a light page.
        dark: The same figures for a dark page.
    """
    charts = {
        name: chart(light[name], dark[name], caption)
        for name, caption in _captions(results).items()
    }
    order = results.pool.order
    html = page(
        title="Which digits to label next",
        kicker="fastgradnorm demo",
        lede=_lede(results),
        facts=_facts(results),
        sections={
            f"The {len(results.pool.chosen)} to label next, and why": _paragraph(_why(results))
            + _chosen(results),
            "What the choice is worth": _paragraph(_unbroken(escape(headline(results))))
            + pair(charts["accuracy"], _accuracy(results)),
            "What the score sees": _paragraph(_extremes(results))
            + f"<h3>Highest scores</h3>{_tiles(results, order[:_SHOWN])}"
            + f"<h3>Lowest scores</h3>{_tiles(results, order.flip(0)[:_SHOWN])}",
            "How the scores are spread": pair(charts["histogram"], charts["entropy"]),
            "Speed, and the same numbers": _paragraph(_speed(results)) + _speed_table(results),
            "In your code": _CODE,
            "Where these numbers come from": definitions(results.provenance()),
        },
        footer="Written by <code>fastgradnorm demo</code>. The figures are in "
        "<code>results.json</code> beside this page.",
    )
    path = out / "index.html"
    write_text(path, html)
    return path


def _paragraph(html: str) -> str:
    return f"<p>{html}</p>"


def _lede(results: Results) -> str:
    settings = results.settings
    return (
        f"A small network saw {settings.start_labels} labelled handwritten digits. It then scored "
        f"{len(results.pool.scores):,} unlabelled ones by how far each would move its parameters: "
        "the expected norm of the gradient, over the labels that the network holds possible."
    )


def _facts(results: Results) -> list[tuple[str, str]]:
    point, count = results.headline_point, results.settings.start_labels
    best, random = results.curve("acquire"), results.curve("random")
    entropy = results.curve("entropy")
    main = next(s for s in results.speeds if (s.params, s.scheme) == ("all", "expected"))
    worst = max(speed.largest_relative_difference for speed in results.speeds)
    high, low = _wrong_at_ends(results)
    ends = min(count, len(results.pool.order))
    return [
        (
            f"{100 * best.means[point]:.1f}&nbsp;%",
            f"accuracy with {results.settings.label_counts[point]} labels when "
            f"<code>acquire</code> chose the added ones; "
            f"{100 * random.means[point]:.1f}&nbsp;% with random ones, "
            f"{100 * entropy.means[point]:.1f}&nbsp;% with those of the highest entropy. "
            f"{_seeds(results)}.",
        ),
        (
            f"{high} to {low}",
            f"wrong predictions among the {ends} highest-scored images, and among the {ends} "
            "lowest-scored.",
        ),
        (
            f"{main.speedup:.1f}&times;",
            f"the speed of the plain autograd loop: {rate(main.samples_per_second)} images a "
            f"second over all {results.parameters:,} parameters.",
        ),
        (
            _power(worst),
            "the largest relative error against that loop in float64, over "
            f"{results.settings.loop_images} images and every scheme.",
        ),
    ]


def _captions(results: Results) -> dict[str, str]:
    pool = results.pool
    line = f"The dashed line cuts off the {results.settings.start_labels} best."
    return {
        "accuracy": f"Accuracy on held-out images by number of labels. "
        f"{_seeds(results, spread=True)}.",
        "histogram": f"Scores of the pool, by whether the prediction is right. {line}",
        "entropy": "Score against predictive entropy; "
        f"rank correlation {pool.rank_correlation:.3f}. {line}",
    }


def _accuracy(results: Results) -> str:
    step = results.settings.labels_per_step
    strategies = (
        f"All label {step}, train, and go on. <b>{STRATEGIES['entropy']}</b> and "
        f"<b>{STRATEGIES['top'].lower()}</b> (gradient norms over all parameters) take the top of "
        f"a ranking; <b>{STRATEGIES['acquire']}</b> covers the pool, each image weighing its "
        "gradient norm. Within a seed all four start from the same labels and weights. Score and "
        "entropy rank this pool nearly alike (rank correlation "
        f"{results.pool.rank_correlation:.3f}): what "
        "differs is what is chosen by them."
    )
    told = f'<p class="muted" style="margin-top:1.2rem">{strategies}</p>'
    return f"<div>{_accuracy_table(results)}{told}</div>"


def _why(results: Results) -> str:
    cover = results.pool.chosen.pool["coverage"]
    return (
        f"One pass over the pool. Labelled images are near {of_all(cover['before'])} of it; "
        f"with these it is {of_all(cover['after'])}. Under each: its score, what the network "
        "says, the runner-up, and the share of the pool that it covers and nothing before it did."
    )


def _chosen(results: Results) -> str:
    pool = results.pool
    return tiles(
        (
            tile(
                draw_digit(pool.images[row["index"]]),
                alt=f"Digit {int(pool.labels[row['index']])}",
                score=number(row["score"]),
                note=f"{row['predicted']} {of_all(row['confidence'])}, {row['runner_up']} "
                f"{of_all(row['runner_up_probability'])}<br>adds {of_all(row['coverage'])}",
            )
            for row in pool.chosen.records
        ),
        kind="drawing",
    )


def _extremes(results: Results) -> str:
    high, low = _wrong_at_ends(results)
    ends = min(results.settings.start_labels, len(results.pool.order))
    return (
        f"The network that scored names {100 * results.test_accuracy:.1f} % of the held-out images "
        f"correctly. It is wrong on {high} of the {ends} images that it scores highest and on "
        f"{low} of the {ends} that it scores lowest. True classes are shown; no score uses them."
    )


def _wrong_at_ends(results: Results) -> tuple[int, int]:
    pool, count = results.pool, results.settings.start_labels
    wrong = pool.wrong[pool.order]
    return int(wrong[:count].sum()), int(wrong[-count:].sum())


def _speed(results: Results) -> str:
    return (
        f"<code>score_pool</code> on {len(results.pool.scores):,} images, its own check against "
        f"autograd included, and the plain loop (one image at a time, a backward pass per class) "
        f"on {results.settings.loop_images} of them. Errors are relative "
        "to the loop in float64. Much of the time here goes to starting operations; "
        "larger networks look different."
    )


def _speed_table(results: Results) -> str:
    head = ("Parameters, scheme", "images/s", "loop, images/s", "speed-up", "largest error")
    rows = [
        (
            f"{PARAMS[speed.params]}, {speed.scheme}",
            rate(speed.samples_per_second),
            rate(speed.loop_samples_per_second),
            f"{speed.speedup:.1f}&times;",
            _power(speed.largest_relative_difference),
        )
        for speed in results.speeds
    ]
    return table(head, rows)


def _accuracy_table(results: Results) -> str:
    head = ("Labels", *STRATEGIES.values())
    rows = [
        (str(count), *(_mean_and_spread(results.curve(strategy), point) for strategy in STRATEGIES))
        for point, count in enumerate(results.settings.label_counts)
    ]
    return table(head, rows, caption=f"Accuracy, %. {_seeds(results, spread=True)}.")


def _mean_and_spread(curve: Curve, point: int) -> str:
    mean, _, spread = percent(curve, point).partition(" ± ")
    return f"{mean} <small>± {spread}</small>" if spread else mean


def _seeds(results: Results, *, spread: bool = False) -> str:
    seeds = results.settings.seeds
    if seeds == 1:
        return "One seed, so no spread" if spread else "One seed"
    return f"Mean {'and standard deviation ' if spread else ''}over {seeds} seeds"


def _unbroken(text: str) -> str:
    """`text` whose lines do not break inside ``1.2 ± 0.3 %``."""
    return text.replace(" ± ", "&nbsp;±&nbsp;").replace(" %", "&nbsp;%")


def _tiles(results: Results, indices: Tensor) -> str:
    return tiles((_tile(results, int(index)) for index in indices), kind="drawing")


def _tile(results: Results, index: int) -> str:
    pool = results.pool
    predicted, true = int(pool.predictions[index]), int(pool.labels[index])
    verdict = f'<span class="wrong">is {true}</span>' if predicted != true else "<span>right</span>"
    return tile(
        draw_digit(pool.images[index]),
        alt=f"Digit {true}",
        score=number(float(pool.scores[index])),
        note=f"says {predicted}, {verdict}",
    )


def _power(value: float) -> str:
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}&times;10<sup>{int(exponent)}</sup>".replace("-", "&minus;")
