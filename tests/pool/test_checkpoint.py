"""`checkpoint`: stopped at any moment, the next call goes on and gives the same bits."""

import itertools
import json
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from fastgradnorm import GradNormScorer, score_pool
from fastgradnorm._engine.engine import Engine
from fastgradnorm._pool import checkpoint as checkpoint_module
from fastgradnorm._pool import gather
from tests.support.noting import Noting
from tests.support.stopping import OPTIONS, Stop, assert_same, scorer, stopped_after


class TestResuming:
    @pytest.mark.slow
    @pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
    @pytest.mark.parametrize("extra", [{}, {"subset": 0.6, "seed": 2}, {"num_samples": 3}])
    def test_gives_the_same_bits(self, pool, path, error, extra):
        model, inputs = pool
        if "num_samples" in extra:
            extra = {**extra, "likelihood": "bernoulli"}
        expected = GradNormScorer(model, **OPTIONS, **extra).score(inputs.split(4))
        for stop in (0, 2, 3, 5):
            with pytest.raises(error):
                scorer(model, path, **extra).score(stopped_after(inputs.split(4), stop, error))
        actual = scorer(model, path, **extra).score(inputs.split(4))
        assert_same(actual, expected)
        counted = expected["expected"].provenance["parameters"]
        assert actual["expected"].provenance["parameters"] == counted

    @pytest.mark.slow
    def test_adds_up_the_seconds_and_tells_the_model(self, pool, path):
        model, inputs = pool
        with pytest.raises(Stop):
            scorer(model, path).score(stopped_after(inputs.split(4), 3))
        spent = _entries(path)[-1]["state"]["seconds"]
        told = scorer(model, path).score(inputs.split(4))["entropy"].provenance
        assert told["seconds"] > spent > 0
        assert len(told["model"]) == 64

    @pytest.mark.slow
    def test_finished_returns_at_once(self, pool, path, monkeypatch):
        model, inputs = pool
        expected = scorer(model, path).score(inputs.split(4))
        content = path.read_bytes()
        monkeypatch.setattr("fastgradnorm._pool.gather.score_one", None)
        data = Noting(inputs)
        assert_same(scorer(model, path).score(inputs.split(4)), expected)
        assert path.read_bytes() == content
        # Another way to read the same samples in batches of the same size.
        with pytest.raises(ValueError, match="pool's size"):
            scorer(model, path).score(DataLoader(data, 4))

    @pytest.mark.slow
    def test_score_pool_and_stream(self, pool, path):
        model, inputs = pool
        options = {"scheme": "entropy", "progress": False}
        expected = score_pool(model, inputs.split(4), **options)
        streamed = GradNormScorer(model, checkpoint=path, **options).stream(inputs.split(4))
        first = [next(streamed) for _ in range(3)]
        streamed.close()
        again = list(GradNormScorer(model, checkpoint=path, **options).stream(inputs.split(4)))
        assert torch.equal(torch.cat(again), expected)
        assert torch.equal(torch.cat(first), expected[:12])
        assert torch.equal(score_pool(model, inputs.split(4), checkpoint=path, **options), expected)

    @pytest.mark.slow
    @pytest.mark.parametrize("subset", [None, 10])
    def test_loads_only_what_is_left_of_an_indexable_dataset(self, pool, path, subset):
        model, inputs = pool
        options = {"subset": subset, "verify": False}
        expected = GradNormScorer(model, **OPTIONS, **options).score(DataLoader(Noting(inputs), 4))
        parts = scorer(model, path, **options).stream
        if subset is None:
            streamed = parts(DataLoader(Noting(inputs), 4))
            next(streamed), next(streamed)
            streamed.close()
        else:
            _stop_in_batch(scorer(model, path, **options), DataLoader(Noting(inputs), 4), 2)
        data = Noting(inputs)
        assert_same(scorer(model, path, **options).score(DataLoader(data, 4)), expected)
        places = range(22) if subset is None else expected["entropy"].indices.tolist()
        done = len(_entries(path)) and 8
        assert data.loaded == [*places[:4], *places[done:]]

    def test_keeps_the_planned_chunks(self, pool, path, monkeypatch):
        """Free memory is another at another time; chunks of another size may differ in bits."""
        model, inputs = pool
        with pytest.raises(Stop):
            scorer(model, path).score(stopped_after(inputs.split(11), 1))
        seen, split = [], Engine._split
        monkeypatch.setattr("fastgradnorm._engine.chunks.allowed_bytes", lambda *_: 1)
        monkeypatch.setattr(
            Engine, "_split", lambda self, batch: seen.append(len(batch)) or split(self, batch)
        )
        scorer(model, path, verify=False).score(inputs.split(11))
        assert seen == [4, 4, 4, 2]


def _stop_in_batch(made, loader, count):
    """Stops while it scores, after so many batches."""
    calls, real = itertools.count(), gather.score_one

    def score_one(*args, **kwargs):
        if next(calls) == count:
            raise Stop
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(gather, "score_one", score_one)
        made.score(loader)


def _entries(path):
    lines = path.read_bytes().splitlines()[1:]
    return [json.loads(line.partition(b" ")[2]) for line in lines]


class TestRefusals:
    @pytest.mark.slow
    def test_another_model(self, begun, path):
        model, inputs = begun
        parameter = next(model.parameters())
        old = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[3] += 1e-6
        try:
            with pytest.raises(ValueError, match=r"differs in model \(\w+\.\.\. there"):
                scorer(model, path).score(inputs.split(4))
        finally:
            with torch.no_grad():
                parameter.copy_(old)

    def test_another_version(self, begun, path, monkeypatch):
        model, inputs = begun
        monkeypatch.setattr(torch, "__version__", "9.9")
        with pytest.raises(ValueError, match=r"differs in torch \(2.* there, 9.9 here\)"):
            scorer(model, path).score(inputs.split(4))

    @pytest.mark.slow
    def test_another_pool(self, begun, path):
        model, inputs = begun
        with pytest.raises(ValueError, match="differs in first samples"):
            scorer(model, path).score((inputs + 1).split(4))
        another = inputs.clone()
        another[3, 0] += 1
        with pytest.raises(ValueError, match="differs in first samples"):
            scorer(model, path).score(another.split(5))
        with pytest.raises(ValueError, match=r"whose first 12 samples were scored; here it has 4"):
            scorer(model, path).score([inputs[:4]])

    @pytest.mark.slow
    @pytest.mark.parametrize("finished", [True, False])
    @pytest.mark.parametrize("kind", [list, tuple])
    @pytest.mark.parametrize("change", [-1, 1])
    def test_a_list_that_begins_alike(self, pool, path, finished, kind, change):
        model, inputs = pool
        batches = kind(inputs.split(4))
        longer = kind([*batches, inputs[:2]])
        first, second = (longer, batches) if change < 0 else (batches, longer)
        if finished:
            scorer(model, path).score(first)
        else:
            stream = scorer(model, path, latency=0).stream(first)
            next(stream)
            stream.close()
        with pytest.raises(
            ValueError, match=r"differs in samples in the list \(\d+ there, \d+ here"
        ):
            scorer(model, path).score(second)

    @pytest.mark.slow
    def test_a_list_in_other_batches(self, pool, path):
        model, inputs = pool
        expected = scorer(model, path).score(list(inputs.split(4)))
        assert_same(scorer(model, path).score(list(inputs.split(3))), expected)
        arrays = [x.numpy() for x in inputs.split(5)]
        assert_same(scorer(model, path).score(arrays), expected)
        assert_same(scorer(model, path).score(iter(inputs.split(4))), expected)  # unknown there

    def test_a_file_of_something_else(self, pool, path):
        model, inputs = pool
        for content in (b"\n", b"hello", b"hello\nworld\n", b'{"kind": 1}\n'):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=r"`checkpoint` must be a file that scoring wrote"):
                scorer(model, path).score(inputs.split(4))
            assert path.read_bytes() == content

    @pytest.mark.slow
    def test_a_damaged_file(self, begun, path):
        model, inputs = begun
        content = bytearray(path.read_bytes())
        content[content.index(b"\n") + 100] ^= 1
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"`checkpoint` must be whole.*damaged in line 2.*anew"
        ):
            scorer(model, path).score(inputs.split(4))

    def test_a_folder_that_is_not_there(self, pool, tmp_path):
        model, inputs = pool
        told = "`checkpoint` must be a file that can be written"
        with pytest.raises(FileNotFoundError, match=f"{told}. No such file"):
            scorer(model, tmp_path / "no" / "file").score(inputs.split(4))
        with pytest.raises(IsADirectoryError, match=told):
            scorer(model, tmp_path).score(inputs.split(4))
        with pytest.raises(TypeError, match="`checkpoint` must be a path"):
            scorer(model, 3)


class TestTornWrites:
    @pytest.mark.slow
    def test_every_length_of_the_last_line(self, pool, path):
        """A write that was cut off loses its batch and nothing else."""
        model, inputs = pool
        expected = scorer(model, path).score(inputs.split(11))
        content = path.read_bytes()
        starts = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
        header, last = starts[0], starts[-2]
        for end in {header, header + 1, last - 1, last, last + 5, len(content) - 1}:
            path.write_bytes(content[:end])
            assert_same(scorer(model, path).score(inputs.split(11)), expected)
            assert path.read_bytes().count(b"\n") == content.count(b"\n")

    @pytest.mark.slow
    def test_a_full_disk_costs_no_score(self, pool, path, monkeypatch):
        model, inputs = pool
        expected = GradNormScorer(model, **OPTIONS).score(inputs.split(4))
        writes, real = itertools.count(), os.write

        def write(file, content):
            if next(writes) < 2:
                return real(file, content)
            real(file, content[: len(content) // 2])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoint_module.os, "write", write)
        with pytest.warns(UserWarning, match="cannot be written any more: No space left") as warned:
            actual = scorer(model, path).score(inputs.split(4))
        assert len(warned) == 1
        assert_same(actual, expected)
        monkeypatch.setattr(checkpoint_module.os, "write", real)
        assert_same(scorer(model, path).score(inputs.split(4)), expected)

    @pytest.mark.slow
    def test_two_processes_do_not_share_a_file(self, pool, path):
        model, inputs = pool
        with pytest.raises(Stop):
            scorer(model, path).score(stopped_after(inputs.split(4), 2))
        code = (
            "import fcntl, os, sys\n"
            f"fcntl.lockf(os.open({str(path)!r}, os.O_RDWR), fcntl.LOCK_EX)\n"
            "print('locked', flush=True); sys.stdin.read()"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            other.stdout.readline()
            with pytest.raises(ValueError, match="which another process is writing"):
                scorer(model, path).score(inputs.split(4))
        finally:
            other.communicate()
