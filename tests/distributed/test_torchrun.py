"""Two processes of torchrun give the scores of one, in order, or an error on both."""

import pytest
import torch

from fastgradnorm import GradNormScorer, gradient_sketch, score_pool
from tests.distributed.torchrun_job import CHOICES, chosen
from tests.support import pools
from tests.support.asserts import assert_close_relative
from tests.support.launching import launch

pytestmark = pytest.mark.slow

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
RANKS = [0, 1]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By rank and case, what the job found."""
    folder = tmp_path_factory.mktemp("torchrun")
    code, output = launch(TORCHRUN, "torchrun_job.py", "cases", folder)
    assert code == 0, output
    return [torch.load(folder / f"{rank}.pt") for rank in RANKS]


@pytest.fixture(scope="module")
def chosen_alone(tmp_path_factory):
    return chosen(tmp_path_factory.mktemp("alone"))


def alone(model=pools.mlp, **options):
    return score_pool(model(), pools.inputs().split(pools.SIZE), **options)


@pytest.mark.parametrize("rank", RANKS)
def test_every_rank_has_the_scores_of_one_process(found, rank):
    expected = alone(scheme=pools.SCHEMES)
    for scheme in pools.SCHEMES:
        assert_close_relative(found[rank]["every_scheme"][scheme], expected[scheme], 1e-6, scheme)
    for case in ("workers", "inference_mode", "sampler"):
        assert_close_relative(found[rank][case], expected["expected"], 1e-6, case)


@pytest.mark.parametrize("case", ["iterated", "unbatched", "ragged"])
@pytest.mark.parametrize("rank", RANKS)
def test_every_kind_of_loader(found, rank, case):
    assert_close_relative(found[rank]["again"][case], alone(), 1e-6)


@pytest.mark.parametrize("rank", RANKS)
def test_a_stream_has_every_batch(found, rank):
    batches = found[rank]["again"]["stream"]
    assert [len(batch) for batch in batches] == [len(batch) for batch in pools.ragged()]
    assert_close_relative(torch.cat(batches), alone(), 1e-6)


@pytest.mark.parametrize("rank", RANKS)
def test_a_store_of_sketches_has_all_of_them(found, rank):
    expected = gradient_sketch(pools.mlp(), pools.ragged(), 8)
    assert torch.allclose(found[rank]["sketches"]["rows"], expected, rtol=1e-5, atol=1e-7)
    assert "`path` must be a folder without sketches, for ranks" in found[rank]["sketches"]["again"]


@pytest.mark.parametrize("rank", RANKS)
def test_standard_errors(found, rank):
    expected = GradNormScorer(pools.dense()).score(pools.ragged())
    assert_close_relative(found[rank]["standard_errors"]["values"], expected.values, 1e-6)
    assert_close_relative(found[rank]["standard_errors"]["errors"], expected.standard_error, 1e-5)


@pytest.mark.parametrize("rank", RANKS)
def test_a_rank_without_a_batch(found, rank):
    """It gets all scores, and tells the parameters that others counted."""
    assert_close_relative(found[rank]["one_batch"]["values"], alone(), 1e-6)
    assert found[rank]["one_batch"]["names"] == [name for name, _ in pools.mlp().named_parameters()]


@pytest.mark.parametrize("rank", RANKS)
def test_buffers_are_those_of_the_first_rank(found, rank):
    """Running statistics differ after distributed training; scores must not mix them."""
    expected = alone(lambda: pools.normed(0.0))
    assert_close_relative(found[rank]["first_buffers"], expected, 1e-6)
    assert not torch.allclose(expected, alone(lambda: pools.normed(1.0)), rtol=1e-3)


def test_the_progress_bar_is_of_the_whole_pool_and_on_one_rank(found):
    assert f"{pools.N}/{pools.N}" in found[0]["progress"]
    assert found[1]["progress"] == ""


@pytest.mark.parametrize("rank", RANKS)
def test_a_rank_may_score_alone(found, rank):
    assert_close_relative(found[rank]["alone"], alone()[rank::2], 1e-6)


@pytest.mark.parametrize("rank", RANKS)
def test_wrapped_models_with_unequal_data_are_verified_apart(found, rank):
    values, verified = found[rank]["unequal"]
    assert len(values) == verified == (24, 3)[rank]
    assert_close_relative(values, alone()[: len(values)], 1e-6)


@pytest.mark.parametrize("case", [
    "backwards", "repeats", "chosen", "batches", "share", "workers", "part", "part of a choice",
])  # fmt: skip
@pytest.mark.parametrize("rank", RANKS)
def test_indices_are_those_of_the_dataset(found, rank, case):
    values, indices = found[rank]["orders"][case]
    if case == "share":  # undone: the whole dataset, in order
        assert indices is None
        indices = torch.arange(pools.N)
    assert_close_relative(values, alone()[indices], 1e-6)
    fixed = {"backwards": range(30, 3, -2), "repeats": [5, 4, 3, 2, 7, 7]}
    assert case not in fixed or indices.tolist() == [*fixed[case]]
    assert case != "chosen" or sorted(indices.tolist()) == [*range(3, 29)]
    assert "part" not in case or len(indices.unique()) == 9


@pytest.mark.parametrize("rank", RANKS)
def test_nan_is_told_on_every_rank(found, rank):
    assert found[rank]["nan"]["type"] == "NonFiniteScoreError"
    assert found[rank]["nan"]["indices"] == [3, 31]


def test_the_error_of_one_rank_is_told_on_all(found):
    assert found[1]["one_rank"]["type"] == "OSError"
    assert found[0]["one_rank"]["type"] == "RankFailedError"
    assert "rank 1: OSError: row 26 cannot be read" in found[0]["one_rank"]["text"]


@pytest.mark.parametrize(
    "case, message",
    [
        ("other_model", "Got another one on rank 1: body.0.weight"),
        ("own_share", "Got another first sample on rank 1"),
        ("own_order", "Got another order on rank 1"),
        ("own_length", "Got shares of 4, 2 batches"),
        ("shuffled", "`loader` must not shuffle where several ranks share it"),
        ("no_batch", "`loader` must yield at least one sample"),
        ("own_labelled", "`labelled` must be the same on every rank. Got another one on rank 1"),
        ("own_groups", "`groups` must be the same on every rank. Got another one on rank 1"),
        ("own_k", "`k` must be the same on every rank. Got another one on rank 1"),
    ],
)
@pytest.mark.parametrize("rank", RANKS)
def test_ranks_that_mean_different_things_are_refused(found, rank, case, message):
    assert found[rank][case]["is_value_error"]
    assert message in found[rank][case]["text"]


@pytest.mark.parametrize("case", [*CHOICES, "ragged", "stopped"])
def test_every_rank_chooses_what_one_process_does(found, chosen_alone, case):
    for rank in RANKS:
        assert found[rank]["chosen"][case].tolist() == chosen_alone[case].tolist()


def test_a_killed_rank_ends_the_job(tmp_path):
    code, output = launch(TORCHRUN, "torchrun_job.py", "killed", tmp_path)
    assert code != 0
    assert "SIGKILL" in output
    assert not list(tmp_path.iterdir()), "scores in spite of a killed rank"


def test_distributed_needs_a_process_group():
    with pytest.raises(ValueError, match="`distributed` must be False or None where"):
        score_pool(pools.mlp(), [pools.inputs()], distributed=True)
    with pytest.raises(TypeError, match="`distributed` must be True or False"):
        score_pool(pools.mlp(), [pools.inputs()], distributed="yes")
