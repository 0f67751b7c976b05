"""What the recipes found, as tables of the documentation."""

from typing import Any

from benchmarks import tables

Results = dict[str, Any]


def labels(results: Results) -> str:
    """A row a score, a column an epoch."""
    rows = results["labels"]
    epochs = sorted({row["epochs"] for row in rows})
    known = {(row["score"], row["epochs"]): row["auc"] for row in rows}
    scores = dict.fromkeys(row["score"] for row in rows)
    best = {epoch: max(known[score, epoch]["mean"] for score in scores) for epoch in epochs}
    lines = ["| ranked by | " + " | ".join(f"after {epoch} epochs" for epoch in epochs) + " |"]
    lines.append("|---|" + "---|" * len(epochs))
    for score in scores:
        cells = [_cell(known[score, epoch], best[epoch]) for epoch in epochs]
        lines.append(f"| {score} | " + " | ".join(cells) + " |")
    seeds = results["sizes"]["seeds"]
    told = (
        f"Area under the curve: the share of pairs of a wrong and a right label in which the wrong "
        f"one ranks higher; mean of {seeds} seeds and half the width of its 95 % interval."
    )
    return "\n".join([told, "", *lines, "", _source(results, "labels")])


def pruning(results: Results) -> str:
    """A row a way of choosing, a column a share that is left out."""
    rows = results["pruning"]
    shares = sorted({row["left_out"] for row in rows} - {0.0})
    known = {(row["kept"], row["left_out"]): row["accuracy"] for row in rows}
    ways = dict.fromkeys(row["kept"] for row in rows if row["left_out"])
    best = {share: max(known[way, share]["mean"] for way in ways) for share in shares}
    lines = ["| kept: highest | " + " | ".join(f"{100 * s:.0f} % left out" for s in shares) + " |"]
    lines.append("|---|" + "---|" * len(shares))
    for way in ways:
        cells = [_cell(known[way, share], best[share], 100) for share in shares]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    everything = _cell(known["all", 0.0], 2.0, 100)
    told = (
        f"Test accuracy in per cent after training anew on what is kept, of {everything} with all "
        f"{results['sizes']['train']} images; mean of {results['sizes']['seeds']} seeds."
    )
    return "\n".join([told, "", *lines, "", _source(results, "pruning")])


def influence(results: Results) -> str:
    """A row a way of attributing."""
    rows, sizes = results["influence"], results["sizes"]
    best = max(row["lds"]["mean"] for row in rows)
    lines = ["| attributed by | LDS |", "|---|---|"]
    lines += [f"| {row['way']} | {_cell(row['lds'], best)} |" for row in rows]
    told = (
        f"{sizes['halves']} random halves of {sizes['train']} images, {sizes['seeds']} trainings "
        f"each; {sizes['queries']} test images; attributions add up those of {sizes['models']} "
        "trained models; mean over test images and half the width of its 95 % interval."
    )
    return "\n".join([told, "", *lines, "", _source(results, "influence")])


def selection(results: Results) -> str:
    """A row a way of choosing."""
    rows, sizes = results["selection"], results["sizes"]
    bounds = ("random among the task's own turn", "the whole pool")
    best = max(row["accuracy"]["mean"] for row in rows if row["chosen"] not in bounds)
    lines = ["| chosen by | accuracy on the task | of the task's turn |", "|---|---|---|"]
    for row in rows:
        limit = 2.0 if row["chosen"] in bounds else best
        cells = [_cell(row["accuracy"], limit, 100), _cell(row["fits"], 2.0, 100)]
        lines.append(f"| {row['chosen']} | " + " | ".join(cells) + " |")
    told = (
        f"Test accuracy in per cent on digits turned by 90 degrees, and the share of the chosen "
        f"that is turned so; a tenth of {sizes['train']} images, of which a quarter is, by 30 "
        f"examples; mean of {len(rows[0]['each'])} seeds and half the width of its 95 % interval."
    )
    return "\n".join([told, "", *lines, "", _source(results, "selection")])


def _source(results: Results, part: str) -> str:
    """Of one part, which may have been run by itself."""
    measured = results.get("measured", {}).get(part, results["provenance"])
    return tables.source({"provenance": measured}, "recipes")


def _cell(value: dict[str, float], best: float, times: float = 1.0) -> str:
    digits = 1 if times > 1 else 3
    text = f"{times * value['mean']:.{digits}f} ± {times * value['interval']:.{digits}f}"
    return f"**{text}**" if value["mean"] >= best else text
