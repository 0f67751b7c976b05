"""Sketches in a folder: whole or gone on with, as those in memory; read, grouped, handed on."""

import errno
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fastgradnorm import NonFiniteScoreError, SketchStore, gradient_sketch, store_sketches
from tests.support.sketched import expected
from tests.support.stopping import Stop, stopped_after

# So little memory that many stretches are written.
OPTIONS = {"loss": "cross_entropy", "progress": False, "max_memory": 2**16}


@pytest.fixture
def given():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    return model, torch.randn(400, 6), torch.randint(0, 3, (400,))


def batches(given, size=40):
    _, x, y = given
    return list(zip(x.split(size), y.split(size), strict=True))


def content(folder):
    return (folder / "gradients.bin").read_bytes()


class TestRunsThatStop:
    @pytest.mark.slow
    @pytest.mark.parametrize("stops", [(1,), (4, 7), (9,)])
    def test_they_go_on_to_the_same_bytes(self, given, tmp_path, stops):
        model = given[0]
        store_sketches(model, batches(given), tmp_path / "whole", 32, **OPTIONS)
        for stop in stops:
            with pytest.raises(Stop):
                stopped = stopped_after(batches(given), stop)
                store_sketches(model, stopped, tmp_path / "part", 32, **OPTIONS)
            with pytest.raises(ValueError, match="Its run was stopped: call `store_sketches` as"):
                SketchStore(tmp_path / "part")
        store = store_sketches(model, batches(given, 25), tmp_path / "part", 32, **OPTIONS)
        assert content(tmp_path / "part") == content(tmp_path / "whole")
        assert torch.equal(store[:], gradient_sketch(model, batches(given), 32, **OPTIONS))
        written = (tmp_path / "part" / "gradients.bin").stat().st_mtime_ns
        again = store_sketches(model, batches(given), tmp_path / "part", 32, **OPTIONS)
        assert torch.equal(again[:], store[:])
        assert (tmp_path / "part" / "gradients.bin").stat().st_mtime_ns == written

    @pytest.mark.slow
    def test_what_was_being_written_is_dropped(self, given, tmp_path):
        model = given[0]
        with pytest.raises(Stop):
            store_sketches(model, stopped_after(batches(given), 8), tmp_path, 32, **OPTIONS)
        with (tmp_path / "gradients").open("ab") as file:
            file.write(b'0123abcd {"read": 40, "colu')
        with (tmp_path / "gradients.bin").open("ab") as file:
            file.write(b"\x7f" * 1001)
        store = store_sketches(model, batches(given), tmp_path, 32, **OPTIONS)
        assert torch.equal(store[:], gradient_sketch(model, batches(given), 32, **OPTIONS))

    @pytest.mark.slow
    @pytest.mark.parametrize("where", [0, 5000, -1])
    def test_rows_that_changed_are_noticed(self, given, tmp_path, where):
        model = given[0]
        with pytest.raises(Stop):
            store_sketches(model, stopped_after(batches(given), 8), tmp_path, 32, **OPTIONS)
        found = bytearray(content(tmp_path))
        found[where] ^= 1
        (tmp_path / "gradients.bin").write_bytes(found)
        with pytest.raises(ValueError, match=r"`path` must be whole.*damaged in line"):
            store_sketches(model, batches(given), tmp_path, 32, **OPTIONS)
        (tmp_path / "gradients.bin").write_bytes(found[:100])
        with pytest.raises(ValueError, match=r"`path` must be whole.*damaged in line"):
            store_sketches(model, batches(given), tmp_path, 32, **OPTIONS)

    @pytest.mark.slow
    def test_another_run_is_refused(self, given, tmp_path):
        model = given[0]
        store_sketches(model, batches(given), tmp_path, 32, **OPTIONS)
        others = {"sketches": (16, {}), "seed": (32, {"seed": 4}), "group_by": (32, {})}
        others["group_by"][1]["group_by"] = "module"
        for what, (dim, more) in others.items():
            with pytest.raises(
                ValueError, match=f"^`path` must be of the same model, options and pool.*{what}"
            ):
                store_sketches(model, batches(given), tmp_path, dim, **OPTIONS, **more)
        assert len(SketchStore(tmp_path)) == 400

    @pytest.mark.slow
    def test_in_memory_with_a_checkpoint(self, given, tmp_path):
        model, path = given[0], tmp_path / "run"
        whole = gradient_sketch(model, batches(given), 16, group_by="module", **OPTIONS)
        options = {"group_by": "module", "checkpoint": path, **OPTIONS}
        with pytest.raises(Stop):
            gradient_sketch(model, stopped_after(batches(given), 8), 16, **options)
        assert (tmp_path / "run.bin").stat().st_size > 0
        found = gradient_sketch(model, batches(given), 16, **options)
        assert all(torch.equal(found[name], whole[name]) for name in whole)

    @pytest.mark.slow
    def test_a_full_disk_stops_it_at_once(self, given, tmp_path, monkeypatch):
        model, write, seen = given[0], os.pwrite, []

        def full(file, content, at):
            if at > 20_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(file, content, at)

        def counted():
            for batch in batches(given):
                seen.append(batch)
                yield batch

        monkeypatch.setattr(os, "pwrite", full)
        with (
            pytest.warns(UserWarning, match="cannot be written any more: No space"),
            pytest.raises(OSError, match=r"`path` must have room for all sketches.*first 1\d\d\."),
        ):
            store_sketches(model, counted(), tmp_path, 32, **OPTIONS)
        assert len(seen) < 10
        monkeypatch.undo()
        store = store_sketches(model, batches(given), tmp_path, 32, **OPTIONS)
        assert torch.equal(store[:], gradient_sketch(model, batches(given), 32, **OPTIONS))


class TestGroups:
    @pytest.mark.slow
    def test_each_is_the_sketch_of_its_gradient(self, given, tmp_path):
        model, x, y = given
        few = {**OPTIONS, "seed": 2}
        few_batches = batches((model, x[:9], y[:9]), 4)
        whole = gradient_sketch(model, few_batches, 8, **few)
        for by, groups in {
            "module": {"0": ["0.weight", "0.bias"], "2": ["2.weight", "2.bias"]},
            "parameter": {name: [name] for name, _ in model.named_parameters()},
            str.upper: {name.upper(): [name] for name, _ in model.named_parameters()},
        }.items():
            found = gradient_sketch(model, few_batches, 8, group_by=by, **few)
            assert list(found) == list(groups)
            for group, names in groups.items():
                exact, sizes = expected(model, (x[:9], y[:9]), 8, 2, names)
                assert ((found[group] - exact).norm(dim=1) < 1e-5 * sizes).all()
            assert torch.allclose(sum(found.values()), whole, atol=1e-6)

    @pytest.mark.slow
    def test_in_a_store(self, given, tmp_path):
        model = given[0]
        store = store_sketches(model, batches(given), tmp_path, 8, group_by="module", **OPTIONS)
        assert store.groups == ("0", "2")
        assert store.shape == np.asarray(store).shape == (400, 2, 8)
        known = gradient_sketch(model, batches(given), 8, group_by="module", **OPTIONS)
        for name in store.groups:
            assert torch.equal(torch.from_numpy(np.array(store.group(name))), known[name])
        rows = torch.cat(list(store.blocks(33)))
        assert torch.equal(rows, torch.cat(list(known.values()), 1))
        with pytest.raises(ValueError, match="`name` must be one of '0', '2'"):
            store.group("1")

    @pytest.mark.slow
    def test_of_the_last_layer(self, given, tmp_path):
        model = given[0]
        options = {**OPTIONS, "params": "last_layer", "group_by": "parameter"}
        found = gradient_sketch(model, batches(given), 8, **options)
        assert list(found) == ["2.weight", "2.bias"]
        store = store_sketches(model, batches(given), tmp_path, 8, **options)
        assert store.groups == ("2.weight", "2.bias")
        assert torch.equal(store[3:7, 1], found["2.bias"][3:7])


class TestReading:
    @pytest.mark.slow
    def test_rows_and_what_is_told(self, given, tmp_path):
        model, x, y = given
        generator = torch.Generator().manual_seed(0)
        loader = DataLoader(TensorDataset(x, y), 30, shuffle=True, generator=generator)
        store = store_sketches(model, loader, tmp_path, 16, **OPTIONS)
        known = gradient_sketch(model, batches(given), 16, **OPTIONS)
        assert torch.allclose(store[:], known[store.indices], atol=1e-6)
        assert torch.equal(store[torch.tensor([3, 1])], store[[3, 1]])
        assert store[5].shape == (16,)
        assert store.info["scheme"] == "loss"
        assert store.info["samples"] == {"scored": 400, "dataset": 400, "repeated": 0}
        assert str(store) == f"SketchStore('{tmp_path}', 400 x 16)"
        opened = SketchStore(tmp_path)
        assert torch.equal(opened.indices, store.indices)

    @pytest.mark.slow
    def test_half_precision_and_double(self, given, tmp_path):
        model, x, y = given
        for dtype, kept in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
            model = model.to(dtype)
            pool = [(x.to(dtype), y)]
            store = store_sketches(model, pool, tmp_path / str(dtype), 8, **OPTIONS)
            assert store[0].dtype == kept
            assert torch.equal(store[:], gradient_sketch(model, pool, 8, **OPTIONS))

    def test_handed_to_datasets(self, given, tmp_path):
        pytest.importorskip("datasets")
        store = store_sketches(given[0], batches(given), tmp_path, 8, **OPTIONS)
        found = store.to_hf().with_format("numpy")
        assert found.column_names == ["index", "sketch"]
        assert np.array_equal(found["sketch"][:], np.asarray(store))
        assert found["index"][399] == 399

    @pytest.mark.slow
    def test_handed_to_faiss(self, given, tmp_path):
        pytest.importorskip("faiss")
        store = store_sketches(given[0], batches(given), tmp_path, 8, **OPTIONS)
        rows = store[:]
        _, numbers = store.to_faiss(unit=True).search(np.asarray(store[:3]), 1)
        assert numbers[:, 0].tolist() == [0, 1, 2]
        products, numbers = store.to_faiss().search(np.asarray(store[:3]), 400)
        exact = (rows[:3] @ rows.T).numpy()
        assert np.allclose(np.take_along_axis(exact, numbers, 1), products, atol=1e-6)


class TestErrors:
    def test_arguments(self, given, tmp_path):
        model = given[0]
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="`path` must be a folder that can be written"):
            store_sketches(model, batches(given), tmp_path / "file", **OPTIONS)
        with pytest.raises(ValueError, match="`checkpoint` must be None for `store_sketches`"):
            store_sketches(model, batches(given), tmp_path, checkpoint="run", **OPTIONS)
        with pytest.raises(ValueError, match="`subset` must be None for `store_sketches`"):
            store_sketches(model, batches(given), tmp_path, subset=3, **OPTIONS)
        with pytest.raises(TypeError, match="Did you mean `progress`"):
            store_sketches(model, batches(given), tmp_path, progres=3)
        with pytest.raises(ValueError, match="at least one sample"):
            store_sketches(model, [], tmp_path / "none", **OPTIONS)
        with pytest.raises(ValueError, match=r"`path` must be a folder.*`store_sketches` makes"):
            SketchStore(tmp_path / "nothing")

    def test_a_store_that_was_cut(self, given, tmp_path):
        store_sketches(given[0], batches(given), tmp_path, 8, **OPTIONS)
        os.truncate(tmp_path / "gradients.bin", 1000)
        with pytest.raises(ValueError, match=r"with 400 sketches.*has 1000 bytes"):
            SketchStore(tmp_path)

    @pytest.mark.slow
    def test_begun_anew(self, given, tmp_path):
        """Without the run's own file: the old `info.json` does not speak for new rows."""
        store_sketches(given[0], batches(given), tmp_path, 8, **OPTIONS)
        (tmp_path / "gradients").unlink()
        with pytest.raises(Stop):
            stopped = stopped_after(batches(given), 8)
            store_sketches(given[0], stopped, tmp_path, 8, seed=1, **OPTIONS)
        with pytest.raises(ValueError, match="Its run was stopped"):
            SketchStore(tmp_path)

    @pytest.mark.slow
    def test_sketches_that_are_no_numbers(self, given, tmp_path):
        model, x, y = given
        x[7] = torch.nan
        options = {**OPTIONS, "verify": False}
        with pytest.raises(NonFiniteScoreError, match=r"1 of 400 sketches.*samples 7") as caught:
            store_sketches(model, batches((model, x, y)), tmp_path, 8, **options)
        assert caught.value.indices == [7]
        assert bool(SketchStore(tmp_path)[8].isfinite().all())
