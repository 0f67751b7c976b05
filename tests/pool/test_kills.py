"""A run killed at any moment, again and again, gives the bits of one left alone."""

import pytest
import torch

from fastgradnorm import PoolScores
from tests.support import warm

pytestmark = pytest.mark.slow

KILLED = """
import os, random, signal, sys, threading
from pathlib import Path
import torch
from torch.utils.data import DataLoader, TensorDataset
from fastgradnorm import GradNormScorer
from fastgradnorm._engine import chunks

chunks._GATHERED = 5
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
path, result, alone = map(Path, sys.argv[1:])
draws, done, kills = random.Random(0), 0, 0

class Rows(TensorDataset):
    # Kills the process that reads it: some time after a sample, and before the last one is out.
    end, seconds = None, 0.0

    def __getitem__(self, index):
        if index == self.end:
            threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        if self.end is not None and index == len(self) - 1:
            signal.pause()
        return super().__getitem__(index)

rows = Rows(torch.randn(403, 6))
loader = DataLoader(rows, 5)

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
    # By itself: a parent that watches the checkpoint may be too late on a busy machine.
    if kills < 10:
        rows.end = min(5 * (done + draws.randint(1, 10)), len(rows) - 1)
        rows.seconds = 0.004 * draws.random()
    else:
        rows.end = None
    _, status = os.waitpid(start(), 0)
    kills += os.WIFSIGNALED(status)
    assert os.WIFSIGNALED(status) or not status
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
