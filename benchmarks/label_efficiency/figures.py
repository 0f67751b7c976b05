"""Learning curves as pictures."""

from pathlib import Path

import numpy as np

from benchmarks.label_efficiency.curves import Results
from benchmarks.label_efficiency.statistics import summarise

# Strategies keep their look in every picture: grey for random, dashes for what is not gradnorm.
LOOKS = {
    "random": ("black", "-"), "entropy": ("tab:brown", "--"), "margin": ("tab:red", "--"),
    "badge": ("tab:purple", "--"), "coreset": ("tab:gray", "--"),
    "expected/last_layer/top": ("tab:cyan", "-"), "expected/all/top": ("tab:blue", "-"),
    "expected/last_layer/gumbel": ("tab:olive", "-"), "expected/all/gumbel": ("tab:green", "-"),
    "entropy_gradnorm/all/top": ("tab:orange", "-"), "published": ("tab:pink", "-"),
    "sketch/predicted/all/kmeans++": ("navy", "-"),
}  # fmt: skip


def draw(results: Results, path: Path) -> Path:
    """Left the mean curves, right each strategy's paired difference to random with its spread."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    random = results.of("random")
    for summary in summarise(results):
        color, line = LOOKS.get(summary.strategy, (None, ":"))
        style = {"color": color, "linestyle": line, "linewidth": 1.6}
        left.plot(summary.labels, summary.means, label=summary.strategy, marker=".", **style)
        mine = results.of(summary.strategy)
        pairs = [s for s in mine if s in random]
        if summary.strategy == "random" or not pairs:
            continue
        gains = np.array([mine[s].headline for s in pairs]) - [random[s].headline for s in pairs]
        error = gains.std(0, ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else 0 * gains[0]
        mean = gains.mean(0)
        right.plot(summary.labels, mean, marker=".", **style)
        right.fill_between(summary.labels, mean - error, mean + error, color=color, alpha=0.1)
    spread = next((s for s in summarise(results) if s.strategy == "random"), None)
    if spread is not None:
        low, high = np.array(spread.means) - spread.spreads, np.array(spread.means) + spread.spreads
        left.fill_between(spread.labels, low, high, color="black", alpha=0.1)
    left.set(xlabel="labels", ylabel=results.metric)
    left.set_title("mean over seeds; band: standard deviation of random", fontsize="small")
    right.set(xlabel="labels", ylabel=f"{results.metric}, difference to random")
    right.set_title("paired by seed; band: standard error", fontsize="small")
    right.axhline(0, color="black", linewidth=1)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize="small")
    figure.suptitle(str(results.facts["title"]), fontsize="medium")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
