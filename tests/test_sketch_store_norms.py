"""Norms beside the sketches of a folder: gone on with to the same bytes, read, handed on."""

import numpy as np
import pytest
import torch
from torch import nn

from fastgradnorm import SketchStore, gradient_sketch, sketch_dots, store_sketches
from tests.support.stopping import Stop, stopped_after
from tests.test_sketch_store import OPTIONS, batches, content


@pytest.fixture
def given():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    return model, torch.randn(400, 6), torch.randint(0, 3, (400,))


@pytest.mark.slow
@pytest.mark.parametrize("by", [None, "module"])
@pytest.mark.parametrize("stops", [(1,), (4, 7)])
def test_they_go_on_to_the_same_bytes(given, tmp_path, stops, by):
    model, options = given[0], {**OPTIONS, "norms": True, "group_by": by}
    store_sketches(model, batches(given), tmp_path / "whole", 32, **options)
    for stop in stops:
        with pytest.raises(Stop):
            stopped = stopped_after(batches(given), stop)
            store_sketches(model, stopped, tmp_path / "part", 32, **options)
    store = store_sketches(model, batches(given, 25), tmp_path / "part", 32, **options)
    assert content(tmp_path / "part") == content(tmp_path / "whole")
    sketches, norms = gradient_sketch(model, batches(given), 32, **options)
    rows, sizes = (
        torch.from_numpy(np.array(store.sketches)),
        torch.from_numpy(np.array(store.norms)),
    )
    if by is not None:
        sketches, norms = (torch.stack([*each.values()], 1) for each in (sketches, norms))
    assert torch.equal(rows, sketches)
    assert torch.equal(sizes, norms)
    assert torch.equal(SketchStore(tmp_path / "part")[3:7], sketches[3:7])
    assert torch.equal(torch.cat(list(store.blocks(33))), sketches.flatten(1))


@pytest.mark.slow
def test_of_the_last_layer(given, tmp_path):
    options = {**OPTIONS, "params": "last_layer", "group_by": "parameter", "norms": True}
    _, norms = gradient_sketch(given[0], batches(given), 8, **options)
    store = store_sketches(given[0], batches(given), tmp_path, 8, **options)
    assert store.groups == ("2.weight", "2.bias")
    assert np.array_equal(store.norms, torch.stack([*norms.values()], 1).numpy())


@pytest.mark.slow
def test_they_are_part_of_what_a_folder_is_of(given, tmp_path):
    plain = store_sketches(given[0], batches(given), tmp_path / "plain", 8, **OPTIONS)
    assert plain.norms is None
    with pytest.raises(ValueError, match=r"same model, options and pool.*sketches"):
        store_sketches(given[0], batches(given), tmp_path / "plain", 8, norms=True, **OPTIONS)
    store = store_sketches(given[0], batches(given), tmp_path / "both", 8, norms=True, **OPTIONS)
    assert store.info["kind"] != plain.info["kind"]  # older versions refuse it
    assert torch.equal(store[:], plain[:])
    assert torch.equal(sketch_dots(store, plain), sketch_dots(plain, store[:]))
    with pytest.raises(TypeError, match="`norms` must be"):
        store_sketches(given[0], batches(given), tmp_path / "other", 8, norms=1, **OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("by", [None, "module"])
def test_handed_to_datasets(given, tmp_path, by):
    pytest.importorskip("datasets")
    options = {**OPTIONS, "group_by": by, "norms": True}
    store = store_sketches(given[0], batches(given), tmp_path, 8, **options)
    found = store.to_hf().with_format("numpy")
    name = "2 norm" if by else "norm"
    assert np.array_equal(found[name][:], store.norms[:, 1] if by else store.norms)
