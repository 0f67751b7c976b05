"""Several processes score one pool: each its share, and all of them get every score.

Ranks meet every few seconds, and exchange what they scored since, or why they cannot go on. So a
rank that fails stops all of them soon, and slow ranks do not run into the timeouts of collective
operations.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastgradnorm._errors import ArgumentError, RankFailedError
from fastgradnorm._model import Mold
from fastgradnorm._pool.identity import digest_of, likeness, tensor_digests
from fastgradnorm._pool.shares import Share, share

T = TypeVar("T")

_SECONDS_BETWEEN_MEETINGS = 5.0
_NOTHING: Any = object()


@dataclass(frozen=True)
class Ranks:
    """The processes of the default group of `torch.distributed`.

    Attributes:
        rank: This one's number.
        world: How many there are.
    """

    rank: int
    world: int

    @classmethod
    def joined(cls, wanted: bool | None) -> "Ranks | None":
        """The ranks that share a pool, or None: this process scores alone.

        Args:
            wanted: None: where `torch.distributed` is initialised with more than one rank.
        """
        there = dist.is_available() and dist.is_initialized()
        if wanted and not there:
            raise ArgumentError(
                "`distributed` must be False or None where torch.distributed is not initialised. "
                "Got True. Start with torchrun and call torch.distributed.init_process_group.",
                "distributed",
            )
        if wanted is False or not there or (wanted is None and dist.get_world_size() == 1):
            return None
        return cls(dist.get_rank(), dist.get_world_size())

    def together(
        self, score: Callable[[nn.Module, Share], Iterator[T]], model: nn.Module, loader: Any
    ) -> Iterator[T]:
        """Yields what `score` finds for each batch of the whole pool, in order, on every rank.

        Args:
            score: From a model and a share to one finding a batch, which can be pickled.
            model: Must have the same parameters on every rank. Buffers are rank 0's, as
                `DistributedDataParallel` has it: each rank's running statistics are its own.
            loader: Yields the whole pool, or is a `DataLoader` whose distributed sampler can be
                undone.

        Raises:
            ValueError: If parameters or pools differ between ranks.
            RankFailedError: If another rank failed; the one that did raises its own error.
        """
        with _on_device_of(model):
            model, mine = self._open(model, loader)
        findings = score(model, mine)
        rounds, ended, counts = 1, False, [0] * self.world
        while True:
            start, failure = time.perf_counter(), None
            found: list[T] = []
            try:
                if not ended:
                    found = list(islice(findings, rounds))
                    ended = len(found) < rounds
            except Exception as error:
                failure = error
            with _on_device_of(model):
                news = self._meet((found, ended, time.perf_counter() - start), failure)
            counts = [count + len(each) for count, (each, _, _) in zip(counts, news, strict=True)]
            _check_counts(counts)
            for row in zip_longest(*(each for each, _, _ in news), fillvalue=_NOTHING):
                yield from (finding for finding in row if finding is not _NOTHING)
            if all(end for _, end, _ in news):
                return
            slowest = max(seconds for _, _, seconds in news)
            # The same numbers everywhere, so that every rank goes to the next meeting as late.
            rounds = max(1, min(2 * rounds, int(rounds * _SECONDS_BETWEEN_MEETINGS / slowest)))

    def wait(self, last: Callable[[], None]) -> None:
        """Lets rank 0 do something last, for which the others wait.

        Raises:
            RankFailedError: If rank 0 failed, which raises its own error.
        """
        failure = None
        try:
            if self.rank == 0:
                last()
        except Exception as error:
            failure = error
        self._meet(None, failure)

    def agree(self, given: dict[str, Any]) -> None:
        """Makes sure that arguments are the same on every rank.

        Args:
            given: Their values, by the arguments' names.

        Raises:
            ValueError: If one is not, which is named.
        """
        told = {name: digest_of(value) for name, value in given.items()}
        everywhere = self._meet(told, None)
        for rank, there in enumerate(everywhere):
            for name in told:
                if there[name] != everywhere[0][name]:
                    raise ArgumentError(
                        f"`{name}` must be the same on every rank. Got another one on rank {rank} "
                        "than on rank 0. Make it on one rank and send it to the others "
                        "(`torch.distributed.broadcast_object_list`), or pass `distributed=False` "
                        "for what a rank has of its own.",
                        name,
                    )

    def _open(self, model: nn.Module, loader: Any) -> tuple[nn.Module, Share]:
        """The model and the share to score, after making sure that all ranks mean the same."""
        mine, failure, facts = None, None, None
        try:
            mine = share(loader, self.rank, self.world)
            facts = (*tensor_digests(model), mine.order, likeness(mine.first))
        except Exception as error:
            failure = error
        parameters, buffers, orders, firsts = zip(*self._meet(facts, failure), strict=True)
        for rank in range(self.world):
            differing = [
                name
                for name in {**parameters[0], **parameters[rank]}
                if parameters[0].get(name) != parameters[rank].get(name)
            ]
            if differing or buffers[0].keys() != buffers[rank].keys():
                raise ArgumentError(
                    f"`model` must be the same on every rank. Got another one on rank {rank}: "
                    f"{', '.join(differing[:3]) or 'its buffers'} differ from rank 0's. "
                    "Load the same weights, or wrap it in DistributedDataParallel, which sends "
                    "those of rank 0.",
                    "model",
                )
            if orders[0] != orders[rank] or firsts[0] != firsts[rank]:
                what = "order" if orders[0] != orders[rank] else "first sample"
                raise ArgumentError(
                    f"`loader` must yield the same pool on every rank. Got another {what} on rank "
                    f"{rank} than on rank 0. Pass the whole pool, without random transforms; or "
                    "`distributed=False` for what a rank has of its own.",
                    "loader",
                )
        if any(sums != buffers[0] for sums in buffers):
            model = self._with_first_buffers(model)
        assert mine is not None
        return model, mine

    def _with_first_buffers(self, model: nn.Module) -> nn.Module:
        """A copy of the modules, with the same parameters and the buffers of rank 0."""
        sent: list[dict[str, Tensor]] = [{name: b.cpu() for name, b in model.named_buffers()}]
        dist.broadcast_object_list(sent, src=0)
        ours = dict(model.named_buffers())
        return Mold(model).cast({id(b): sent[0][name].to(b.device) for name, b in ours.items()})

    def _meet(self, news: T, failure: Exception | None) -> list[T]:
        """Everyone's news, by rank; or an error on every rank, if one of them has failed."""
        text = None if failure is None else f"{type(failure).__name__}: {failure}"
        said: list[Any] = [None] * self.world
        try:
            dist.all_gather_object(said, (text, None if failure else news))
        except RuntimeError as error:
            raise RankFailedError(
                "The ranks lost each other: one was killed, or does not score the pool. Every rank "
                "must call with the same pool; `distributed=False` scores on one rank alone. "
                f"{error}",
                {},
            ) from (failure or error)
        if failure is not None:
            raise failure
        failures = {rank: text for rank, (text, _) in enumerate(said) if text is not None}
        if failures:
            told = "; ".join(f"rank {rank}: {text}" for rank, text in failures.items())
            raise RankFailedError(
                f"{len(failures)} of {self.world} ranks failed; none returns scores. {told}",
                failures,
            )
        return [each for _, each in said]


@contextlib.contextmanager
def _on_device_of(model: nn.Module) -> Iterator[None]:
    """NCCL sends objects through the current device: make it the model's."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        yield


def _check_counts(counts: list[int]) -> None:
    """Dealt in turn, an earlier rank has as many batches as a later one, or one more."""
    if sorted(counts, reverse=True) != counts or counts[0] > counts[-1] + 1:
        raise ArgumentError(
            "`loader` must yield the same batches on every rank. Got shares of "
            f"{', '.join(map(str, counts))} batches, by rank.",
            "loader",
        )
