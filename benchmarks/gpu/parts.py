"""The parts in their order, most telling first, and the seconds that each may take."""

from dataclasses import dataclass
from types import ModuleType

from benchmarks.gpu import (
    calls,
    contract,
    engine,
    exact,
    gradients,
    graphs,
    heads,
    kernel_tests,
    kernels,
    launches,
    pool,
    sweep,
    throughput,
    zoo,
)


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        module: Has `run`, `table` and `summary`.
        seconds: At most, of the default budget.
        timed: Whether it measures time, and so has the machine for itself.
        asked: Whether it runs only where it is named: an experiment.
    """

    module: ModuleType
    seconds: float
    timed: bool = True
    asked: bool = False


PARTS = {
    "engine": Part(engine, 100, timed=False),
    "tests": Part(kernel_tests, 100, timed=False),
    "contract": Part(contract, 100, timed=False),
    "calls": Part(calls, 100, timed=False),
    "zoo": Part(zoo, 150, timed=False, asked=True),
    "graphs": Part(graphs, 40),
    "launches": Part(launches, 40),
    "throughput": Part(throughput, 120),
    "gradients": Part(gradients, 45),
    "pool": Part(pool, 25),
    "kernels": Part(kernels, 40),
    "heads": Part(heads, 15),
    "sweep": Part(sweep, 25),
    "exact": Part(exact, 60, asked=True),
}
