"""Density maps of the 13 molecules of the SHREC challenges, from MRC files."""

import io
import tarfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.label_efficiency.data_files import DataMissing, first_existing

# From the lightest to the heaviest, as SHREC orders them.
MOLECULES = (
    "1s3x", "3qm1", "3gl1", "3h84", "2cg9", "3d2f", "1u6g", "3cf3", "1bxn", "1qvr", "4cr2",
    "5mrc", "4v94",
)  # fmt: skip


def read_densities(root: Path) -> list[Tensor]:
    """One cube `[D, D, D]` a molecule, 10 Å a voxel; from the archive or from a folder."""
    path = first_existing(
        "The density maps", [root / "polnet_mrcs_10A.tar.xz", root / "mrcs_10A"]
    )  # fmt: skip
    files = _archived(path) if path.is_file() else _in_folder(path)
    missing = [name for name in MOLECULES if name not in files]
    if missing:
        raise DataMissing(f"{path} has no density of {', '.join(missing)}.")
    return [_read(files[name]) for name in MOLECULES]


def _in_folder(path: Path) -> dict[str, bytes]:
    return {each.stem: each.read_bytes() for each in path.glob("*.mrc")}


def _archived(path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith(".mrc") else None
            if content is not None:
                found[Path(member.name).stem] = content.read()
    return found


def _read(content: bytes) -> Tensor:
    from mrcfile.mrcinterpreter import MrcInterpreter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # header details that do not matter here
        with MrcInterpreter(io.BytesIO(content), permissive=True) as stored:
            return torch.tensor(stored.data, dtype=torch.float32)
