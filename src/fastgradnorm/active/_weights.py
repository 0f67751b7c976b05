"""Weights kept from cycle to cycle beside a run file, for runs with a warm start."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastgradnorm.atomic import replacing


class Weights:
    """Files of the last two cycles: a kill may come before the later one's record is written.

    Args:
        run_file: Of the run.
        settings: Of the run.
    """

    def __init__(self, run_file: Path, settings: Mapping[str, Any]) -> None:
        key = zlib.crc32(json.dumps(settings, sort_keys=True).encode())
        self.folder = run_file.with_name(run_file.name + ".weights")
        self.key = f"{key:08x}"

    def _file(self, cycle: int) -> Path:
        return self.folder / f"{self.key}-{cycle}.pt"

    def save(self, cycle: int, model: nn.Module) -> None:
        """Writes the weights of a cycle, whole or not at all, and forgets the last but one's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._file(cycle)) as partial:
            torch.save(model.state_dict(), partial)
        self._file(cycle - 2).unlink(missing_ok=True)

    def load(self, cycle: int, model: nn.Module) -> None:
        """Puts the weights of a cycle into the model.

        Raises:
            FileNotFoundError: If they were not kept.
        """
        file = self._file(cycle)
        if not file.exists():
            raise FileNotFoundError(
                f"`run_file` must have the weights of cycle {cycle} beside it, in {file}, to go on "
                "with a warm start. Delete the run file to begin anew."
            )
        model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
