"""Pictures of results."""

from pathlib import Path
from typing import Any

SHOWN = ("naive", "expected", "floor, expected", "training step", "entropy", "last layer",
         "forward only")  # fmt: skip


def throughput(results: dict[str, Any], path: Path) -> Path:
    """Bars of samples a second by case and column, with the 20th to 80th percentile."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in results["rows"] if row["column"] in SHOWN and "reason" not in row]
    cases = list(dict.fromkeys((row["title"], row["classes"]) for row in rows))
    figure, axes = plt.subplots(figsize=(max(6.0, 2.2 * len(cases)), 4.2), layout="constrained")
    width = 0.8 / len(SHOWN)
    colors = plt.get_cmap("tab10")
    for i, column in enumerate(SHOWN):
        found = {(row["title"], row["classes"]): row for row in rows if row["column"] == column}
        at = [x for x, case in enumerate(cases) if case in found]
        mine = [found[cases[x]] for x in at]
        rates = [row["samples_per_second"] for row in mine]
        low = [r - row["samples"] / row["seconds_p80"] for r, row in zip(rates, mine, strict=True)]
        high = [row["samples"] / row["seconds_p20"] - r for r, row in zip(rates, mine, strict=True)]
        spread = [[max(0.0, v) for v in side] for side in (low, high)]
        axes.bar(
            [x + (i - len(SHOWN) / 2 + 0.5) * width for x in at], rates, width,
            yerr=spread, label=column, color=colors(i), error_kw={"lw": 0.8},
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xticks(range(len(cases)), [f"{title}\n{n} classes" for title, n in cases])
    axes.set_ylabel("samples per second")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(ncols=4, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, 1.18))
    facts = results["provenance"]
    axes.set_title(
        f"{facts['machine']['processor']}, {facts['machine']['threads']} threads; "
        f"torch {facts['versions']['torch']}; commit {facts['commit']}",
        fontsize="x-small", loc="left", y=-0.24,
    )  # fmt: skip
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
