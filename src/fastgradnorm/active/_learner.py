"""The loop: train, score, select, label, repeat."""

import contextlib
import datetime
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from tqdm.auto import tqdm

import fastgradnorm
from fastgradnorm import ArgumentError, ArgumentTypeError
from fastgradnorm.active._checks import check_count, check_made, checked_indices, checked_subset
from fastgradnorm.active._context import Context
from fastgradnorm.active._randomness import (
    Purpose,
    draw_seed,
    generator,
    own_random_state,
    seed_all,
)
from fastgradnorm.active._records import Record, Run, append, stored_run
from fastgradnorm.active._registry import strategy as strategy_named
from fastgradnorm.active._strategies import Strategy
from fastgradnorm.active._task import Task, as_indices
from fastgradnorm.active._weights import Weights


class ActiveLearner:
    r"""Pool-based active learning of one task by one strategy, from one seed.

    Cycle by cycle: train on what is labelled, evaluate, score a random part of the rest, choose
    `budget` of them, label. Runs of the same seed have the same start set, random parts, initial
    weights and training seeds, whatever the strategy: compare them in pairs.

    Args:
        task: Data, model, training and evaluation, see `Task`.
        strategy: A name, see `strategy`, or a `Strategy` of your own.
        start: Number of random items labelled at first, or their indices.
        budget: Labels bought after each cycle; the last ones may be fewer.
        cycles: How often that is done: the curve has `cycles + 1` points.
        subset: Score a fresh random part of the unlabelled items in each cycle: a number of them,
            or a share of the pool; None: all.
        seed: Of everything.
        warm_start: Go on from the last cycle's weights, instead of new ones.
        run_file: Results go there, a JSON line a cycle, and a run that was stopped goes on where
            it was. With `warm_start`, weights go beside it. None: nothing is kept.
        progress: Show a progress bar; by default where standard error is a terminal.

    Raises:
        ValueError: If an argument is out of its range, or a strategy unknown.
        TypeError: If `task` is no `Task`, or an argument of a wrong type.

    Guarantees:
        - The same seed gives the same curve, bit for bit on a CPU with the same number of threads,
          also if the process was killed at any moment and the run started anew.
        - No label is looked at before its item is chosen.
        - The caller's random states are left as they were.

    Example:
        >>> class Sign:
        ...     name = "sign"
        ...     def pool(self):
        ...         return [(torch.tensor([x / 10 - 2.05]), int(x > 20)) for x in range(41)]
        ...     def make_model(self, seed):
        ...         torch.manual_seed(seed)
        ...         return nn.Linear(1, 2)
        ...     def train(self, model, labelled, seed):
        ...         x, y = (torch.stack([x for x, _ in labelled]), [y for _, y in labelled])
        ...         optimizer = torch.optim.SGD(model.parameters(), 1.0)
        ...         for _ in range(50):
        ...             optimizer.zero_grad()
        ...             nn.functional.cross_entropy(model(x), torch.tensor(y)).backward()
        ...             optimizer.step()
        ...     def evaluate(self, model):
        ...         right = [model(x).argmax() == y for x, y in self.pool()]
        ...         return {"accuracy": sum(map(float, right)) / 41}
        >>> run = ActiveLearner(Sign(), "margin", start=[3, 35], budget=2, cycles=3).run()
        >>> run.labelled.tolist()
        [2, 4, 6, 8]
    """

    def __init__(
        self,
        task: Task,
        strategy: str | Strategy[Any],
        *,
        start: int | Sequence[int],
        budget: int,
        cycles: int,
        subset: int | float | None = None,
        seed: int = 0,
        warm_start: bool = False,
        run_file: str | Path | None = None,
        progress: bool | None = None,
    ) -> None:
        if not isinstance(task, Task):
            raise ArgumentTypeError(
                "`task` must have name, pool, make_model, train and evaluate. Got "
                f"{type(task).__name__}.",
                "task",
            )
        self.task = task
        self.strategy = strategy_named(strategy) if isinstance(strategy, str) else strategy
        self.pool: Dataset[Any] = task.pool()
        self.size = len(self.pool)  # type: ignore[arg-type]
        check_count("budget", budget)
        check_count("cycles", cycles, least=0)
        check_count("seed", seed, least=0)
        self._candidate_count = self.size
        if subset is not None:
            self._candidate_count = checked_subset(subset, self.size, budget)
        if isinstance(start, int):
            check_count("start", start, most=self.size)
        else:
            start = checked_indices("start", start, self.size)
        self.budget, self.cycles, self.subset, self.seed = budget, cycles, subset, seed
        self.warm_start, self.progress, self.start = warm_start, progress, start
        self.run_file = None if run_file is None else Path(run_file)
        self._weights: Weights | None = None
        if warm_start and self.run_file is not None:
            self._weights = Weights(self.run_file, self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What tells this run from others; the number of cycles does not, since runs go on."""
        return {
            "task": self.task.name,
            "strategy": self.strategy.name,
            "seed": self.seed,
            "start": self.start,
            "budget": self.budget,
            "subset": self.subset,
            "warm_start": self.warm_start,
            "pool": self.size,
        }

    def run(self) -> Run:
        """Runs all cycles that are not in the run file yet; returns the whole run."""
        records = self._finished()
        disable = None if self.progress is None else not self.progress
        title = f"{self.task.name}, {self.strategy.name}, seed {self.seed}"
        with (
            tqdm(total=self.cycles + 1, initial=len(records), desc=title, disable=disable) as bar,
            own_random_state(),
        ):
            model: nn.Module | None = None
            while len(records) <= self.cycles:
                labelled = self._labelled(records)
                record, model = self._cycle(len(records), labelled, model, bar)
                if self.run_file is not None:
                    append(self.run_file, self.settings, record)
                records.append(record)
                bar.update()
                if not record["chosen"]:
                    break  # done, or nothing is left to label
        return Run(self.settings, tuple(records))

    def _finished(self) -> list[Record]:
        """Cycles in the run file, without one that was the last of a shorter run."""
        records = list(stored_run(self.run_file, self.settings).records[: self.cycles + 1])
        unlabelled = self.size - len(self._labelled(records))
        if 0 < len(records) <= self.cycles and not records[-1]["chosen"] and unlabelled:
            records.pop()
        return records

    def _labelled(self, records: Sequence[Record]) -> Tensor:
        """Pool indices labelled after these cycles, in the order they were."""
        first = self.start
        if isinstance(first, int):
            first = generator(self.seed, Purpose.START).permutation(self.size)[:first].tolist()
        return as_indices([*first, *(i for record in records for i in record["chosen"])])

    def _cycle(
        self, cycle: int, labelled: Tensor, model: nn.Module | None, bar: Any
    ) -> tuple[Record, nn.Module]:
        seconds: dict[str, float] = {}
        with _timed(seconds, "train", bar):
            model = self._initial(cycle, model)
            seed = draw_seed(self.seed, Purpose.TRAIN, cycle)
            seed_all(seed)
            self.task.train(model, Subset(self.pool, labelled.tolist()), seed)
            if self._weights is not None:
                self._weights.save(cycle, model)
        with _timed(seconds, "evaluate", bar):
            metrics = {name: float(v) for name, v in self.task.evaluate(model).items()}
        chosen: list[int] = []
        if cycle < self.cycles:
            chosen = self._choose(cycle, labelled, model, seconds, bar)
        record: dict[str, Any] = {
            "cycle": cycle,
            "labelled": len(labelled),
            "metrics": metrics,
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
            "chosen": chosen,
            "versions": _versions(),
            "environment": {
                "device": str(next(model.parameters()).device),
                "threads": torch.get_num_threads(),
            },
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        if cycle == 0:
            record["start"] = labelled.tolist()
        return record, model

    def _choose(
        self,
        cycle: int,
        labelled: Tensor,
        model: nn.Module,
        seconds: dict[str, float],
        bar: Any,
    ) -> list[int]:
        """Pool indices to label next, in the order they were chosen."""
        candidates = self._candidates(cycle, labelled)
        budget = min(self.budget, len(candidates))
        if not budget:
            return []
        context = Context(
            model=model.eval(),
            pool=self.pool,
            indices=candidates,
            labelled=labelled,
            budget=budget,
            seed=draw_seed(self.seed, Purpose.SELECT, cycle),
            batch_size=getattr(self.task, "batch_size", 256),
            score_options=getattr(self.task, "score_options", {}),
        )
        seed_all(context.seed)
        with _timed(seconds, "select", bar):
            chosen = as_indices(self.strategy.select(context)).cpu()
        seconds["score"] = context.seconds["score"]
        seconds["select"] -= seconds["score"]
        if len(chosen) != budget or len(chosen.unique()) != budget:
            raise ArgumentError(
                f"`strategy` must choose {budget} different items. {self.strategy.name!r} chose "
                f"{len(chosen.unique())} different ones of {len(chosen)}.",
                "strategy",
            )
        if not bool(torch.isin(chosen, candidates).all()):
            raise ArgumentError(
                f"`strategy` must choose among `context.indices`. {self.strategy.name!r} chose "
                "others.",
                "strategy",
            )
        return [int(i) for i in chosen]

    def _candidates(self, cycle: int, labelled: Tensor) -> Tensor:
        """The unlabelled items to score, as pool indices in pool order."""
        order = torch.from_numpy(generator(self.seed, Purpose.SUBSET, cycle).permutation(self.size))
        free = order[~torch.isin(order, labelled)]
        return free[: self._candidate_count].sort().values

    def _initial(self, cycle: int, model: nn.Module | None) -> nn.Module:
        """The model to train: new, or as the last cycle left it."""
        if self.warm_start and model is not None:
            return model
        seed = draw_seed(self.seed, Purpose.MODEL, cycle)
        seed_all(seed)
        new = self.task.make_model(seed)
        check_made(new)
        if self._weights is not None and cycle:
            self._weights.load(cycle - 1, new)
        return new


@contextlib.contextmanager
def _timed(seconds: dict[str, float], what: str, bar: Any) -> Iterator[None]:
    bar.set_postfix_str(what)
    start = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - start


def _versions() -> dict[str, str]:
    return {
        "fastgradnorm": fastgradnorm.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
