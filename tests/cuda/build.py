"""Builds the device of `device.cpp`, once for each PyTorch and Python."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch

SOURCE = Path(__file__).parent / "device.cpp"


def compiler():
    """The C++ compiler's path, or None."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def built():
    """The folder with the module `emulated_device`, for the path of a process of its own."""
    key = f"{SOURCE.read_text()} {torch.__version__} {sys.version} {torch.__file__}"
    name = f"fastgradnorm-emulated-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    folder = Path(tempfile.gettempdir()) / name
    target = folder / f"emulated_device{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not target.exists():
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # others may build it, too
            made = Path(scratch) / target.name
            subprocess.run(_command(made), check=True, capture_output=True, text=True)
            os.replace(made, target)
    return folder


def _command(target):
    root = Path(torch.__file__).parent
    libraries = root / "lib"
    includes = [
        root / "include",
        root / "include" / "torch" / "csrc" / "api" / "include",
        sysconfig.get_paths()["include"],
    ]
    return [
        compiler(),
        *("-O0", "-shared", "-fPIC", "-std=c++20"),
        *(f"-I{path}" for path in includes),
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        str(SOURCE),
        *("-o", str(target)),
        *(f"-L{libraries}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{libraries}"),
    ]
