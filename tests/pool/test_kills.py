"""A run killed at any moment, again and again, gives the bits of one left alone."""

import pytest
import torch

from fastgradnorm import PoolScores
from tests.support import warm

pytestmark = pytest.mark.slow

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from torch.utils.data import DataLoader, TensorDataset
from fastgradnorm import GradNormScorer
from fastgradnorm._engine import chunks

chunks._GATHERED = 5
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
loader = DataLoader(TensorDataset(torch.randn(403, 6)), 5)
path, result, alone = map(Path, sys.argv[1:])
draws, done, kills = random.Random(0), 0, 0

def start():
    child = os.fork()
    if child:
        return child
    scorer = GradNormScorer(model, checkpoint=path, verify=False, progress=False)
    scorer.score(loader).save(result)
    os._exit(0)

def lines():
    return path.read_bytes().count(b"\\n") if path.exists() else 0

# In this process: what PyTorch loads at its first pass need not be loaded by each child.
GradNormScorer(model, verify=False, progress=False).score(loader).save(alone)
while not result.exists():
    child, target = start(), done + draws.randint(1, 10)
    ended = 0
    while kills < 10 and lines() < target and not ended:
        ended, _ = os.waitpid(child, os.WNOHANG)
    time.sleep(0.004 * draws.random())
    if kills < 10 and not ended:
        os.kill(child, signal.SIGKILL)
    if not ended:
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status)
    assert lines() >= done, "a batch that was done is lost"
    done = lines()
print(kills)
"""


def test_killed_ten_times_at_random_moments_the_result_is_bit_equal(tmp_path):
    """Real processes, really killed."""
    path, result, alone = (tmp_path / name for name in ("scores.jsonl", "result.npz", "alone.npz"))
    done = warm.run(KILLED, path, result, alone)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 10
    actual, expected = PoolScores.load(result), PoolScores.load(alone)
    assert len(actual) == 403
    assert torch.equal(actual.values, expected.values)
