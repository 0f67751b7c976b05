"""Samples in another's place are told also of samples that PyTorch does not take as they are."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.pool.test_places import Wrapped, X, backwards, score


def read_only(x):
    x = x.numpy().copy()
    x.flags.writeable = False
    return x


# Samples that PyTorch does not take as they are, or of which it takes a part.
STRANGE = {
    "numbers backwards in memory": lambda x, i: x.flip(0).numpy()[::-1],
    "bytes the other way round": lambda x, i: x.numpy().astype(">f4"),
    "read-only": lambda x, i: read_only(x),
    "with a text of NumPy's": lambda x, i: {"x": x, "name": np.str_(f"row {i}")},
    "with texts": lambda x, i: {"x": x, "names": np.array(["a", "b"])},
    "with a date": lambda x, i: {"x": x, "day": np.datetime64(f"2020-01-{i % 30 + 1:02}")},
    "with objects": lambda x, i: {"x": x, "parts": np.array([None, i], dtype=object)},
    "with a large integer": lambda x, i: {"x": x, "key": 2**70 + i},
    "with extended precision": lambda x, i: {"x": x, "time": np.longdouble(i)},
    "with a complex number": lambda x, i: {"x": x, "z": np.complex64(i)},
    "with what is sparse": lambda x, i: {"x": x, "bag": torch.eye(3)[i % 3].to_sparse()},
    "with a nested one": lambda x, i: {
        "x": x, "parts": torch.nested.nested_tensor([x[:2], x[2:]], layout=torch.jagged)
    },
}  # fmt: skip
STRANGELY = pytest.mark.parametrize("kind", STRANGE.values(), ids=STRANGE)


def inputs_of(samples):
    if isinstance(samples[0], dict):
        return torch.stack([s["x"] for s in samples])
    return torch.stack([torch.from_numpy(np.array(s, np.float32, order="C")) for s in samples])


@pytest.mark.slow
@STRANGELY
def test_samples_of_any_kind_are_told(kind):
    """Of what cannot be compared the rest is."""
    data = [kind(x, i) for i, x in enumerate(X)]
    with pytest.warns(UserWarning, match="cannot be traced.*collation puts the samples"):
        score(DataLoader(data, 4, collate_fn=lambda samples: inputs_of(samples[::-1])))
    with pytest.warns(UserWarning, match=r"cannot be traced.*it yields dataset\[8\] as number 0"):
        score(Wrapped(DataLoader(data, 4, collate_fn=inputs_of), backwards))
    score(DataLoader(data, 4, collate_fn=inputs_of))  # a warning is an error here
    score(Wrapped(DataLoader(data, 4, collate_fn=inputs_of), list))
