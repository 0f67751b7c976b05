"""One pass over a pool that processes share: each scores some batches, all get every score."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from fastgradnorm._engine import Engine
from fastgradnorm._errors import ArgumentError
from fastgradnorm._model import Subject
from fastgradnorm._options import Options
from fastgradnorm._pool.ledger import Part
from fastgradnorm._pool.progress import progress_bar
from fastgradnorm._pool.ranks import Ranks
from fastgradnorm._pool.run import Run, union
from fastgradnorm._pool.samples import Pool, make_pool
from fastgradnorm._pool.shares import Share, whole_pool
from fastgradnorm._schemes import Scored
from fastgradnorm._witness import Findings, Record


class _Told(NamedTuple):
    """Of one batch, as ranks tell each other."""

    scored: Scored
    counted: tuple[str, ...]
    pulled: int
    drawn: Tensor | None
    lost: str | None
    findings: list[dict[str, str]]
    rank: int
    verified: dict[str, Any] | None  # so far
    gathered: dict[str, Any]  # so far
    replays: dict[str, Any]  # so far


class SharedRun:
    """What `Run` is to one process.

    Args:
        ranks: The processes.
        model: The same on each of them.
        loader: Yields the whole pool.
        options: All that is asked for. Each rank has a checkpoint of its own, by its number.
        make_engine: From a model and options.

    Attributes:
        counted: Names of the parameters counted so far, on any rank.
        pulled: Pull-backs so far where their number depends on the sample, on all ranks.
        lost: Why scores cannot be traced to samples, if so.
        findings: What was noticed so far, on any rank.
        gathered: How samples were put together over batches, on the last rank.
        replays: How passes were replayed, likewise.
    """

    def __init__(
        self,
        ranks: Ranks,
        model: nn.Module,
        loader: Iterable[Any],
        options: Options,
        make_engine: Callable[[nn.Module, Options], Engine],
    ) -> None:
        self.ranks, self.model, self.options, self.make_engine = ranks, model, options, make_engine
        self.subject = Subject(model, options)
        self.counted: tuple[str, ...] = ()
        self.pulled, self.lost = 0, cast(str | None, None)
        self.findings, self.gathered = Findings(), cast(dict[str, Any], {})
        self.replays: dict[str, Any] = {}
        self._verified: dict[int, dict[str, Any]] = {}
        self._start = time.perf_counter()
        self.pool = make_pool(whole_pool(loader), options.subset, options.seed)
        if self.pool.sieve is not None:
            raise ArgumentError(
                "`subset` must be None where ranks share a pool that can only be read from its "
                f"beginning. Got {options.subset}. Pass a DataLoader over a dataset with a length "
                "and indices.",
                "subset",
            )

    @property
    def seconds(self) -> float:
        """Since it began, on this rank."""
        return time.perf_counter() - self._start

    @property
    def verified(self) -> dict[str, Any] | None:
        """What was compared with the model's own calls, on all ranks."""
        if not self._verified:
            return None
        each = list(self._verified.values())
        record = Record(each[0]["mode"])
        for found in each:
            record.add(found)
        return record.plain()

    def parts(self, apart: bool = True) -> Iterator[Part]:
        """The scores of each batch of the whole pool, in order, on every rank."""
        shown = self.options.progress if self.ranks.rank == 0 else False
        with progress_bar(self.pool.total, shown) as bar:
            for found in self.ranks.together(self._score, self.model, self.pool.loader):
                self.counted = union(self.counted, found.counted)
                self.pulled += found.pulled
                self.gathered |= found.gathered
                self.replays |= found.replays
                if found.verified is not None:
                    self._verified[found.rank] = found.verified
                self.lost = self.lost or found.lost
                self.findings.remember(found.findings)
                drawn, places = found.drawn, self.pool.indices
                part = Part(
                    found.scored, drawn if drawn is None or places is None else places[drawn]
                )
                bar.update(len(part))
                yield part

    def _score(self, model: nn.Module, share: Share) -> Iterator[_Told]:
        """This rank's share."""
        options = replace(self.options, progress=False, subset=None, checkpoint=self._checkpoint())
        pool = Pool(share.batches, draws=share.draws, dataset=self.pool.dataset)
        run = Run(self.make_engine(model, options), pool)
        told = 0
        for part in run.parts():
            counted = union(run.counted, run.engine.counted)
            pulled, told = run.pulled - told, run.pulled
            noticed = run.findings.plain(), self.ranks.rank, run.verified
            how = run.gathered, run.replays
            yield _Told(part.scored, counted, pulled, part.indices, run.lost, *noticed, *how)

    def _checkpoint(self) -> Path | None:
        if self.options.checkpoint is None:
            return None
        path = Path(self.options.checkpoint)
        return path.with_name(f"{path.name}.rank{self.ranks.rank}of{self.ranks.world}")
