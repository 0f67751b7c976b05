"""The parts in their order, most telling first, and the seconds that each may take."""

from dataclasses import dataclass
from types import ModuleType

from benchmarks.gpu import (
    engine,
    exact,
    graphs,
    heads,
    kernel_tests,
    kernels,
    launches,
    sweep,
    throughput,
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
    "graphs": Part(graphs, 50),
    "launches": Part(launches, 50),
    "throughput": Part(throughput, 140),
    "kernels": Part(kernels, 50),
    "heads": Part(heads, 20),
    "sweep": Part(sweep, 40),
    "exact": Part(exact, 60, asked=True),
}
