"""What is timed in a cell of the throughput: how each column is made."""

import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks import timing
from benchmarks.engines import Engine
from benchmarks.gpu import baselines
from benchmarks.gpu.precision import Mode
from benchmarks.setting import OURS, RTOL, Setting
from fastgradnorm import SlowPathWarning

# What is tried first. Kernels are compiled anew for sizes that 16 does not divide.
FEW = 16
LONGEST = 2.0  # seconds of a run that is timed more than once


@dataclass
class Column:
    """What is timed, how many samples it treats, and how often a whole job needs it."""

    run: baselines.Run
    samples: int
    times: int = 1
    facts: dict[str, Any] = field(default_factory=dict)
    clocks: list[float] = field(default_factory=list)

    @property
    def each(self) -> float:
        """Seconds a sample."""
        return self.times * timing.quantile(self.clocks, 0.5) / self.samples


def makers(setting: Setting, mode: Mode) -> dict[str, Any]:
    """How each column is made, in order of what is wanted most."""

    def own(**options: Any) -> Column:
        options |= {"autocast": mode.autocast}
        few = baselines.smaller(setting, min(FEW, setting.samples))
        run = few.stream(**options)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run()
            took = timing.clocked(run, setting.device)
        slow = [str(w.message)[-400:] for w in told if issubclass(w.category, SlowPathWarning)]
        if slow or took > LONGEST:
            return Column(
                run, few.samples, facts={"few": slow or f"{took:.1f} s for {few.samples}"}
            )
        return Column(setting.stream(**options), setting.samples)

    def plain(make: Any) -> Column:
        layout, run = baselines.fastest(setting, mode, make)
        return Column(run, setting.samples, facts={"layout": layout})

    def sampled() -> Column:
        temperature = setting.sharp_temperature()
        column = own(scheme="expected", temperature=temperature, rtol=RTOL)
        column.facts["temperature"] = temperature
        return column

    def vmapped() -> Column:
        chunk, run = baselines.vmap_grad(setting, mode)
        return Column(run, chunk, setting.classes, {"chunk": chunk, "classes timed": 1})

    def naive() -> Column:
        few, run = baselines.naive(setting, mode)
        return Column(run, few)

    def other(engine: Engine) -> Column:
        facts, chunk, run = baselines.rival(engine, setting, mode)
        return Column(run, chunk, setting.classes, facts | {"classes timed": 1})

    rivals = {engine.name: partial(other, engine) for engine in baselines.rivals()}
    return {
        "expected": lambda: own(**OURS["expected"]),
        "forward": lambda: plain(baselines.forward),
        "pulls": lambda: plain(baselines.pulls),
        "training step": lambda: plain(baselines.training),
        "entropy": lambda: own(**OURS["entropy"]),
        "naive": naive,
        "last layer": lambda: own(**OURS["last layer"]),
        "vmap(grad)": vmapped,
        f"rtol={RTOL}": sampled,
        **rivals,
    }
