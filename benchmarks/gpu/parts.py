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
    "engine": Part(engine, 120, timed=False),
    "tests": Part(kernel_tests, 120, timed=False),
    "graphs": Part(graphs, 60),
    "launches": Part(launches, 60),
    "throughput": Part(throughput, 150),
    "kernels": Part(kernels, 70),
    "sweep": Part(sweep, 50),
}
