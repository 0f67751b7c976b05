"""Part 6: block sizes of every kernel by class of shape, stored by the GPU's name.

What a launcher chooses is replaced, and every candidate is held against the scores of the launcher
as it is before it is timed. `tiles` sums up by operation and arithmetic what the table of tiles in
the package can hold.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from types import ModuleType
from typing import Any

import torch
from fastgradnorm_kernels import affine_norm, embedding_norm, logit_head, tiles

from benchmarks.gpu.kernel_cases import Case, cases
from benchmarks.gpu.precision import IEEE, TF32
from benchmarks.gpu.rates import measure
from benchmarks.gpu.report import Report

Blocks = dict[str, int]
TOLERANCE = 1e-2  # a candidate is another order of sums, not another sum


def _grid(**choices: tuple[int, ...]) -> list[Blocks]:
    return [dict(zip(choices, found, strict=True)) for found in product(*choices.values())]


def kind(case: Case) -> tuple[str, str]:
    """Operation and arithmetic, as the package's table of tiles names them."""
    form = "ghost" if "ghost" in case.operation + case.shape else "direct"
    return form, tiles.arithmetic(case.dtype, case.precision)


def candidates(case: Case, device: torch.device) -> list[Blocks]:
    """Block sizes to try, small lists: each is a compilation."""
    if case.operation in ("ghost_sq_norm", "direct_sq_norm", "conv_sq_norm"):
        found = tiles.candidates(kind(case)[0], case.dtype, case.precision, device)
        return [dict(tile._asdict()) for tile in found]
    if case.operation == "affine_sq_norm":
        return _grid(BLOCK_T=(8, 32, 128), BLOCK_D=(16, 64, 256), num_warps=(4,))
    if case.operation == "embedding_sq_norm":
        return _grid(BLOCK_S=(16, 32), BLOCK_T=(32, 64), BLOCK_O=(64, 128), num_warps=(4,))
    return []


OTHER = "embedding_sq_norm"
MODULES: dict[str, ModuleType] = {
    "affine_sq_norm": affine_norm,
    "head_scores": logit_head,
}
WHOLLY = ("head_scores",)  # their block sizes say which kernel takes them


@contextmanager
def using(case: Case, blocks: Blocks) -> Iterator[None]:
    """The launcher of the case takes these block sizes."""
    if case.operation == OTHER:
        before = dict(embedding_norm.BLOCKS)
        embedding_norm.BLOCKS.update(blocks)
        try:
            yield
        finally:
            embedding_norm.BLOCKS.update(before)
        return
    owner, name = MODULES.get(case.operation, tiles), "blocks"
    chosen: Any = None
    if owner is tiles:
        name, tile = "choose", tiles.Tile(**blocks)
        chosen = lambda *args, **kwargs: tile  # noqa: E731
    original = getattr(owner, name)
    kept = not chosen and case.operation not in WHOLLY
    setattr(owner, name, _overriding(original, blocks) if kept else chosen or _only(blocks))
    try:
        yield
    finally:
        setattr(owner, name, original)


def _only(blocks: Blocks) -> Any:
    return lambda *args, **kwargs: dict(blocks)


def _overriding(original: Any, blocks: Blocks) -> Any:
    def chosen(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs) | blocks

    return chosen


def titled(case: Case) -> str:
    """Operation, shape and arithmetic of a case."""
    unit = "bfloat16" if case.dtype == torch.bfloat16 else case.precision
    return f"{case.operation}, {case.shape}, {unit}"


Candidates = Callable[[Case, torch.device], list[Blocks]]


def _targets(report: Report, made: Candidates) -> list[tuple[str, Case, Blocks]]:
    """Every case and candidate, in turn by case, so that a cut leaves some of each."""
    kinds: dict[tuple[Any, ...], list[tuple[str, Case, Blocks]]] = {}
    for case in cases(torch.device(report.device), report.dry):
        tried = made(case, torch.device(report.device))[: 2 if report.dry else None]
        kinds[(titled(case),)] = [(titled(case), case, blocks) for blocks in tried]
    longest = max(map(len, kinds.values()))
    return [found[i] for i in range(longest) for found in kinds.values() if i < len(found)]


def _key(title: str, blocks: Blocks) -> str:
    return f"{title}: " + " ".join(f"{k}={v}" for k, v in blocks.items())


def _mode(case: Case) -> Any:
    return TF32 if case.precision == "tf32" else IEEE


def warm(report: Report, index: int, slices: int, made: Candidates = candidates) -> None:
    """Compiles a share of the candidates, in the order in which they are timed."""
    for title, case, blocks in _targets(report, made)[index::slices]:
        key = _key(title, blocks)
        if report.wanted(key, 1):
            with report.step(key), torch.no_grad(), _mode(case).set(), using(case, blocks):
                case.kernel(*case.make())
            if not report.dry:
                torch.cuda.empty_cache()


def run(report: Report) -> None:
    """Times every candidate beside the launcher as it is, and stores the best by class of shape."""
    if not report.dry:
        report.fact("gpu", torch.cuda.get_device_name())
    every(report, candidates)


def every(report: Report, made: Candidates) -> None:
    """A row a case that has candidates."""
    by_case: dict[str, list[tuple[Case, Blocks]]] = {}
    for title, case, blocks in _targets(report, made):
        by_case.setdefault(title, []).append((case, blocks))
    for title, tried in by_case.items():
        if report.wanted(title, 0 if report.dry else 1.5):
            with report.step(title) as row, torch.no_grad(), _mode(tried[0][0]).set():
                row |= {"best_ms": float("nan"), "best": {}, "times": {}, "failed": {}}
                _case(row, tried, report)
            report.fact("tiles", _by_kind(report.document["rows"]))
            if not report.dry:
                torch.cuda.empty_cache()


def _by_kind(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean time of each tile over that of the launcher as it is, by operation and arithmetic.

    Of the tiles that every class of shapes could run; the least is the one for the table.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        if row.get("kind") is not None and row["times"]:
            ratios = {tile: took / row["as_it_is_ms"] for tile, took in row["times"].items()}
            found.setdefault(row["kind"], []).append(ratios)
    means = {}
    for name, shapes in found.items():
        common = set.intersection(*(set(ratios) for ratios in shapes))
        mean = {t: math.exp(sum(math.log(s[t]) for s in shapes) / len(shapes)) for t in common}
        means[name] = dict(sorted(mean.items(), key=lambda item: item[1]))
    return means


def _case(row: dict[str, Any], tried: list[tuple[Case, Blocks]], report: Report) -> None:
    case = tried[0][0]
    inputs = case.make()
    row["kind"] = ", ".join(kind(case)) if case.operation not in (*MODULES, OTHER) else None
    row["as_it_is_ms"] = measure(lambda: case.kernel(*inputs), report.device, 0.02)["median"]
    right = _first(case.kernel(*inputs))
    row |= {"best_ms": row["as_it_is_ms"], "best": {}}
    for _, blocks in tried:
        if report.left < (0 if report.dry else 1):
            row["cut"] = True
            break
        key = " ".join(f"{k}={v}" for k, v in blocks.items())
        try:
            with using(case, blocks):
                found = _first(case.kernel(*inputs))
                error = float(((found - right) / right).abs().max())
                if not error <= TOLERANCE:
                    row["failed"][key] = f"differs by {error:.1e}"
                    continue
                took = measure(lambda: case.kernel(*inputs), report.device, 0.02)["median"]
        except Exception as problem:  # too much shared memory, too many registers
            row["failed"][key] = f"{type(problem).__name__}: {str(problem)[:150]}"
            continue
        row["times"][key] = took
        if took < row["best_ms"]:
            row |= {"best_ms": took, "best": blocks}


def _first(outputs: Any) -> torch.Tensor:
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]


def table(document: dict[str, Any]) -> list[str]:
    """A line a case: the best beside what is."""
    return [
        f"{row['key']:<76} {row['as_it_is_ms']:9.3f} -> {row['best_ms']:9.3f} ms "
        f"({row['as_it_is_ms'] / row['best_ms']:.2f}x) {row['best']}, {len(row['failed'])} failed"
        for row in document["rows"]
        if "as_it_is_ms" in row
    ]


def summary(document: dict[str, Any]) -> list[str]:
    """How much is to be won."""
    rows = [row for row in document["rows"] if "as_it_is_ms" in row]
    gains = [f"{r['key']} {r['as_it_is_ms'] / r['best_ms']:.2f}x" for r in rows]
    won = [g for g, r in zip(gains, rows, strict=True) if r["as_it_is_ms"] > 1.15 * r["best_ms"]]
    best = {k: next(iter(v.items()), None) for k, v in document.get("tiles", {}).items()}
    return [f"{len(rows)} classes of shapes; faster by more than 15 %: {won}", f"tiles: {best}"]
