"""Two processes of accelerate, with prepared models and loaders, give the scores of one."""

import pytest
import torch

from fastgradnorm import score_pool
from tests.support import pools
from tests.support.asserts import assert_close_relative
from tests.support.launching import launch

pytestmark = pytest.mark.slow

# `--multi_gpu` starts several processes on a CPU too, where the script asks for it.
LAUNCHER = [
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--main_process_port", "0"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accelerate")
    # An empty home: settings that someone keeps for accelerate are not the test's.
    code, output = launch(LAUNCHER, "accelerate_job.py", folder, HF_HOME=str(folder / "home"))
    assert code == 0, output
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("rank", [0, 1])
def test_prepared_loaders_give_the_scores_of_one_process(found, rank):
    expected = score_pool(pools.mlp(), pools.loader(), scheme=pools.SCHEMES)
    for scheme in pools.SCHEMES:
        assert_close_relative(found[rank]["shard"][scheme], expected[scheme], 1e-6, scheme)
    for case in ("dispatched", "iterated", "split"):
        assert_close_relative(found[rank][case], expected["expected"], 1e-6, case)


def test_the_loaders_did_pad(found):
    assert sum(each["padded"] for each in found) > pools.N
