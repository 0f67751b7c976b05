"""Draws the pictures of `gallery.md`: `python docs/gallery.py`, in an environment with matplotlib.

Every picture is of a run: a small network, trained on few points of a plane, and what `acquire`
chooses or what `score_pool` gives. The first code block of `gallery.md` is the same setting.
"""

import io
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgradnorm import acquire, score_pool

PAGE = Path(__file__).with_name("gallery.md")
PICTURES = PAGE.parent / "pictures" / "gallery"
STRATEGIES = (
    "random", "entropy", "margin", "least_confidence", "top", "gumbel", "proportional", "diverse",
    "badge", "kmeans++", "kcenter", "coreset", "typiclust", "probcover", "lcmd", "bait",
    "maxherding", "uherding", "herding", "adaptive",
)  # fmt: skip
SCHEMES = ("expected", "expected_squared", "entropy", "loss", "el2n")
CHOSEN = 15
HEAD = (
    f"| of the {CHOSEN} chosen | wrongly predicted | of the small group | median distance to the "
    "next |\n|---|---:|---:|---:|\n"
)
# Okabe and Ito's colours, told apart with any colour vision.
CLASSES = ("#0072B2", "#E69F00", "#009E73")


def setting() -> dict[str, Any]:
    """`model`, `points`, `classes` and `labelled` as the page's first block makes them."""
    block = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(block[0], names)
    return names


def _figure() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(3.2, 2.6), layout="constrained")
    axes.set_xticks([])
    axes.set_yticks([])
    return figure, axes


def _save(figure: Any, name: str) -> None:
    from matplotlib import pyplot as plt
    from PIL import Image

    raw = io.BytesIO()
    figure.savefig(raw, dpi=110)
    plt.close(figure)
    PICTURES.mkdir(parents=True, exist_ok=True)
    place = PICTURES / f"{name.replace('++', '_pp')}.png"
    Image.open(raw).convert("RGB").quantize(64).save(place, optimize=True)


def _grid(points: Tensor, side: int = 90) -> tuple[Tensor, list[float]]:
    """Points `[side², 2]` over the picture, and where it ends."""
    low, high = points.amin(0) - 0.4, points.amax(0) + 0.4
    x, y = (torch.linspace(float(low[i]), float(high[i]), side) for i in range(2))
    ends = [float(low[0]), float(high[0]), float(low[1]), float(high[1])]
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2), ends


def draw_strategy(name: str, made: dict[str, Any]) -> str:
    """The pool, what is labelled, the model's classes behind them, and what is chosen.

    Returns:
        A row of the page's table.
    """
    model, points, classes, known = (made[n] for n in ("model", "points", "classes", "labelled"))
    chosen = acquire(
        model, [points], CHOSEN, labelled=known, strategy=name, seed=0, progress=False
    ).indices
    grid, ends = _grid(points)
    with torch.no_grad():
        regions = model(grid).argmax(1).reshape(90, 90).numpy()
    figure, axes = _figure()
    axes.contourf(regions, levels=[-0.5, 0.5, 1.5, 2.5], colors=CLASSES, alpha=0.15, extent=ends)
    axes.scatter(*points.T.numpy(), s=5, c=[CLASSES[c] for c in classes], linewidths=0)
    axes.scatter(*points[known].T.numpy(), s=34, marker="s", c=[CLASSES[c] for c in classes[known]],
                 edgecolors="black", linewidths=1)  # fmt: skip
    axes.scatter(
        *points[chosen].T.numpy(), s=60, facecolors="none", edgecolors="black", linewidths=1.4
    )
    _save(figure, name)
    with torch.no_grad():
        wrong = int((model(points[chosen]).argmax(1) != classes[chosen]).sum())
    small = int((made["group"][chosen] == 3).sum())
    gaps = torch.cdist(points[chosen], points[chosen]).fill_diagonal_(torch.inf).amin(1)
    return f"| `{name}` | {wrong} | {small} | {float(gaps.median()):.2f} |\n"


def draw_scheme(name: str, made: dict[str, Any]) -> None:
    """Scores over the plane, or of the points where a label is needed: dark is high."""
    model: nn.Module = made["model"]
    points, classes = made["points"], made["classes"]
    options: dict[str, Any] = {"scheme": name, "progress": False}
    figure, axes = _figure()
    if name in ("loss", "el2n"):
        if name == "loss":
            options["loss"] = "cross_entropy"
        scores = score_pool(model, [(points, classes)], **options)
        found = axes.scatter(
            *points.T.numpy(), s=12, c=scores.numpy(), cmap="viridis_r", linewidths=0
        )
    else:
        grid, ends = _grid(points)
        scores = score_pool(model, [grid], **options).reshape(90, 90).numpy()
        found = axes.imshow(scores, origin="lower", extent=ends, aspect="auto", cmap="viridis_r")
        axes.scatter(*points.T.numpy(), s=3, c="black", alpha=0.35, linewidths=0)
    figure.colorbar(found, ax=axes).ax.tick_params(labelsize=7)
    _save(figure, f"scheme_{name}")


def main() -> None:
    """Draws all."""
    made = setting()
    rows = "".join(draw_strategy(name, made) for name in STRATEGIES)
    for name in SCHEMES:
        draw_scheme(name, made)
    table = f"{HEAD}{rows}"
    text = re.sub(r"(?<=<!-- counts:start -->\n).*?(?=<!-- counts:end -->)", lambda _: table,
                  PAGE.read_text("utf-8"), flags=re.DOTALL)  # fmt: skip
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
