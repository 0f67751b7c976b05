"""The parts in their order, most telling first, and the seconds that each may take."""

from dataclasses import dataclass
from types import ModuleType

from benchmarks.gpu import engine, graphs, kernel_tests, kernels, launches, sweep, throughput


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        module: Has `run`, `table` and `summary`.
        seconds: At most, of the default budget.
        timed: Whether it measures time, and so has the machine for itself.
    """

    module: ModuleType
    seconds: float
    timed: bool = True


PARTS = {
    "engine": Part(engine, 100, timed=False),
    "tests": Part(kernel_tests, 100, timed=False),
    "graphs": Part(graphs, 50),
    "launches": Part(launches, 50),
    "throughput": Part(throughput, 140),
    "kernels": Part(kernels, 65),
    "sweep": Part(sweep, 45),
}
