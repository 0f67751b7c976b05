"""The cases of `throughput` under pytest-benchmark: `pytest benchmarks --benchmark-only`.

Compare two commits with `--benchmark-autosave` and `--benchmark-compare`. Groups hold a case's
columns; a column's own name is the same in every commit.
"""

import fastgradnorm_kernels as kernels
import pytest
import torch

from benchmarks.cases import CASES
from benchmarks.columns import TOLERANCE, relative_error
from benchmarks.floor import frozen_run
from benchmarks.setting import OURS, Setting

CLASSES = 10
OTHERS = {
    "forward only": lambda setting: setting.forward,
    "training step": Setting.training,
    "frozen pull-backs": frozen_run,
    "naive, one sample": lambda setting: setting.naive(1, scheme="expected"),
}


@pytest.fixture(scope="module", params=CASES)
def setting(request):
    case = CASES[request.param]
    return Setting(case, CLASSES, case.quick)


@pytest.mark.parametrize("score", OURS)
def test_score(benchmark, setting, score):
    benchmark.group = _group(benchmark, setting)
    run = setting.stream(**OURS[score])
    benchmark.extra_info["error"] = error = relative_error(run(), setting.exact(1, **OURS[score]))
    assert error <= TOLERANCE
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("column", OTHERS)
def test_beside(benchmark, setting, column):
    benchmark.group = _group(benchmark, setting)
    benchmark.pedantic(OTHERS[column](setting), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("classes", [10, 1_000, 100_000])
def test_head(benchmark, classes):
    benchmark.group = "last-layer scores of 64 samples from 256 features"
    features, weight = torch.randn(64, 256), torch.randn(classes, 256) / 16
    run = lambda: kernels.linear_head_scores(features, weight)  # noqa: E731
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)


def _group(benchmark, setting):
    benchmark.extra_info |= {"threads": torch.get_num_threads(), "samples": setting.samples}
    return f"{setting.case.title}, {CLASSES} classes, {setting.samples} samples"
