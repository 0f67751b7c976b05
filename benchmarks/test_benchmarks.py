"""The cases of `throughput` under pytest-benchmark: `pytest benchmarks --benchmark-only`.

Compare two commits with `--benchmark-autosave` and `--benchmark-compare`.
"""

import pytest
import torch

from benchmarks import throughput
from benchmarks.cases import CASES

COLUMNS = ("forward only", "training step", "naive", *throughput.OURS)
CLASSES = 10


@pytest.fixture(scope="module", params=CASES)
def setting(request):
    return throughput.Setting(CASES[request.param], CLASSES, CASES[request.param].quick, "cpu")


@pytest.fixture(scope="module")
def exact(setting):
    return setting.exact()


@pytest.mark.parametrize("column", COLUMNS)
def test_case(benchmark, setting, exact, column):
    benchmark.group = f"{setting.case.title}, {CLASSES} classes, {setting.samples} samples"
    benchmark.extra_info["threads"] = torch.get_num_threads()
    if column in throughput.OURS:
        run = setting.stream(*throughput.OURS[column])
        reference = exact[column]
        error = ((run()[: len(reference)].double() - reference) / reference).abs().max()
        assert error <= throughput.TOLERANCE
        benchmark.extra_info["error"] = float(error)
    elif column == "naive":
        run, samples = setting.naive("expected", "all")
        benchmark.extra_info["samples"] = samples
    else:
        run = setting.forward if column == "forward only" else setting.training()
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
