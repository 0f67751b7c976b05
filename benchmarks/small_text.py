"""The drop-in for small-text's expected gradient length beside small-text's own strategy.

    python -m benchmarks small-text

One model, small-text's KimCNN (1000 trainable word vectors of 100 numbers, 50 channels of widths
3, 4 and 5: less than its usual size, at which its own query takes minutes at 10 classes), and one
pool of texts, at 10 and at 50 classes. The texts are random: each class prefers some of the words,
texts are 10 to 40 words long, and the model has learnt from a few of them.

small-text takes a backward pass of the whole batch's graph for each instance and class. Its batch
size is 50; with 1, its fastest, each pass is short. Both are timed. The drop-in is timed as it
comes, with its check of two samples against plain autograd.

The selections differ, for small-text adds up absolute values (an L1 norm) where the published score
is a Euclidean length: the share of its top 20 that the drop-in selects too, and the rank
correlation, are measured on one pool of 100. Plain gradients tell that this is the norm and nothing
else: `l1_error_of_theirs` is how far small-text's scores are from their expected L1 norm, `error`
how far the drop-in's are from the L2 norm. An L1 norm grows with the number of parameters that a
gradient touches, here with the words of a text, where an L2 norm grows with its root.
"""

import contextlib
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import provenance, timing
from fastgradnorm import Options, naive_score_pool

WORDS, LENGTH, WIDTH, CHANNELS = 1000, 40, 100, 50
TIMED, POOL, TOP = 50, 100, 20
TOLERANCE = 1e-4


def texts(count: int, classes: int, seed: int) -> list[tuple[Tensor, int]]:
    """Texts and labels; half of a text's words are among its class's own."""
    rng = np.random.default_rng(seed)
    own = np.random.default_rng(classes).integers(1, WORDS, (classes, 40))
    found = []
    for label in rng.integers(0, classes, count):
        words = rng.integers(1, WORDS, rng.integers(10, LENGTH + 1))
        topical = rng.random(len(words)) < rng.uniform(0.05, 0.5)
        words[topical] = rng.choice(own[label], int(topical.sum()))
        found.append((torch.from_numpy(words), int(label)))
    return found


def classifier(classes: int) -> Any:
    """A KimCNN that has seen 20 texts a class, five times over."""
    from small_text.integrations.pytorch.classifiers import KimCNNClassifier
    from small_text.integrations.pytorch.models.kimcnn import KimCNN

    torch.manual_seed(0)
    vectors = torch.randn(WORDS, WIDTH) / 5
    clf = KimCNNClassifier(classes, embedding_matrix=vectors, max_seq_len=LENGTH, device="cpu")
    model = KimCNN(WORDS, LENGTH, classes, CHANNELS, embed_dim=WIDTH, embedding_matrix=vectors)
    clf.model = model
    x, y, _ = clf._create_collate_fn()(texts(20 * classes, classes, seed=1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(5):
        for part in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    model.eval().zero_grad()
    return clf


def dataset(count: int, classes: int) -> Any:
    """A pool as small-text holds it."""
    from small_text.integrations.pytorch.datasets import PytorchTextClassificationDataset

    return PytorchTextClassificationDataset(
        texts(count, classes, seed=2), None, target_labels=np.arange(classes)
    )


def ours(classes: int) -> dict[str, Any]:
    """The drop-in's strategies by column."""
    from fastgradnorm.integrations.small_text import ExpectedGradientLength

    settings: dict[str, dict[str, Any]] = {"exact": {}, "last layer": {"params": "last_layer"}}
    try:
        Options(rtol=0.02)
    except NotImplementedError:
        pass
    else:
        settings["rtol=0.02"] = {"rtol": 0.02}
    return {
        name: ExpectedGradientLength(classes, pbar=None, **options)
        for name, options in settings.items()
    }


def theirs(classes: int) -> dict[str, Any]:
    """small-text's own strategy at its batch size and at 1."""
    from small_text.integrations.pytorch.query_strategies import ExpectedGradientLength

    return {
        f"small-text, batches of {size}": ExpectedGradientLength(
            classes, batch_size=size, device="cpu"
        )
        for size in (50, 1)
    }


def _query(strategy: Any, clf: Any, pool: Any, n: int) -> np.ndarray:
    count = len(pool.data)
    none = np.arange(0)
    with contextlib.redirect_stderr(io.StringIO()):  # small-text's progress bar has no switch
        return np.asarray(strategy.query(clf, pool, np.arange(count), none, none, n=n))


def speed(classes: int, clf: Any, rounds: int) -> list[dict[str, Any]]:
    """Seconds of a query over 50 texts, and how many times small-text's own that is."""
    pool, own = dataset(TIMED, classes), theirs(classes)
    runs: dict[str, Callable[[], Any]] = {
        name: lambda s=strategy: _query(s, clf, pool, 10)
        for name, strategy in ours(classes).items()
    }
    seconds = {name: timing.Seconds() for name in own}
    for name, strategy in own.items():
        for _ in range(rounds):  # each of them is hundreds of passes: nothing to warm up
            wall, cpu = time.perf_counter(), time.process_time()
            _query(strategy, clf, pool, 10)
            seconds[name].wall.append(time.perf_counter() - wall)
            seconds[name].cpu.append(time.process_time() - cpu)
    clf.model.zero_grad()
    seconds |= timing.side_by_side(runs, 9, 20.0)
    first, second = (seconds[name].summary() for name in own)
    rows = []
    for name, found in seconds.items():
        facts = found.summary()
        rows.append(
            {
                "classes": classes,
                "column": name,
                "samples": TIMED,
                **facts,
                "speedup": first["seconds_median"] / facts["seconds_median"],
                "speedup_cpu": first["cpu_seconds_median"] / facts["cpu_seconds_median"],
                "speedup_over_batches_of_1": second["seconds_median"] / facts["seconds_median"],
            }
        )
    return rows


def selections(classes: int, clf: Any) -> list[dict[str, Any]]:
    """How far each column selects what small-text selects, on 200 texts."""
    pool = dataset(POOL, classes)
    own = theirs(classes)["small-text, batches of 1"]
    top = set(_query(own, clf, pool, TOP).tolist())
    clf.model.zero_grad()
    rows = []
    for name, strategy in ours(classes).items():
        chosen = set(_query(strategy, clf, pool, TOP).tolist())
        row = {
            "classes": classes,
            "column": name,
            "samples": POOL,
            "overlap": len(top & chosen) / TOP,
            "rank_correlation": _rank_correlation(own.scores_, strategy.scores_),
        }
        if name == "exact":
            x, *_ = clf._create_collate_fn()(pool.data[:3])
            exact = naive_score_pool(clf.model, [x]).numpy()
            row["error"] = float(np.abs(strategy.scores_[:3] / exact - 1).max())
            row["l1_error_of_theirs"] = max(
                abs(own.scores_[i] / _l1(clf.model, x[i : i + 1]) - 1) for i in range(3)
            )
        rows.append(row)
    return rows


def _l1(model: torch.nn.Module, x: Tensor) -> float:
    """The expected L1 norm of one text's gradient, by plain autograd."""
    logits = model(x)
    p = logits.softmax(-1)[0].tolist()
    parameters = [each for each in model.parameters() if each.requires_grad]
    total = 0.0
    for c in range(len(p)):
        loss = F.cross_entropy(logits, torch.tensor([c]))
        grads = torch.autograd.grad(loss, parameters, retain_graph=True)
        total += p[c] * sum(float(g.abs().sum()) for g in grads)
    return total


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def main(classes: list[int], rounds: int, folder: Path | None) -> int:
    """Measures, prints and stores, if there is a folder for it; 1 if a score is wrong."""
    if provenance.installed("small-text") is None:
        print("This needs small-text: pip install fastgradnorm[small-text].", file=sys.stderr)
        return 2
    found: dict[str, list[dict[str, Any]]] = {"speed": [], "selections": []}
    for count in classes:
        clf = classifier(count)
        found["selections"] += selections(count, clf)
        found["speed"] += speed(count, clf, rounds)
        _show(count, found)
    if folder:
        facts = provenance.provenance()
        facts["versions"]["small-text"] = provenance.installed("small-text")
        setting = {
            "words": WORDS,
            "length": LENGTH,
            "width": WIDTH,
            "channels": CHANNELS,
            "top": TOP,
        }
        results = {"setting": setting, "provenance": facts, **found}
        print(f"written: {provenance.store('small_text', results, folder)}")
    return int(any(row.get("error", 0) > TOLERANCE for row in found["selections"]))


def _show(classes: int, found: dict[str, list[dict[str, Any]]]) -> None:
    print(f"{classes} classes, a query over {TIMED} texts")
    for row in found["speed"]:
        if row["classes"] == classes:
            print(
                f"  {row['column']:26s}{row['seconds_median']:9.3f} s{row['speedup']:9.1f}x"
                f"{row['speedup_over_batches_of_1']:9.1f}x batches of 1"
            )
    for row in found["selections"]:
        if row["classes"] == classes:
            print(
                f"  {row['column']:26s}{row['overlap']:9.0%} of the top {TOP}, rank correlation "
                f"{row['rank_correlation']:.3f}",
                flush=True,
            )
