"""Models of the transformers library are built from configurations; nothing is downloaded."""

import os

import pytest
from fastgradnorm_kernels import proof

os.environ["HF_HUB_OFFLINE"] = "1"  # before the first import of transformers


@pytest.fixture
def unproved():
    """Every private path of PyTorch proves itself anew in a test, and after it."""
    for is_proved in proof.PATHS.values():
        is_proved.cache_clear()
    yield
    for is_proved in proof.PATHS.values():
        is_proved.cache_clear()
