"""One planted fault."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.planting import replaced

ROOT = Path(__file__).parents[2]

_SCORES = ("_schemes/", "_engine/", "_model/", "_operations/")
# Sketches, products with directions, replays of long pools, and what is kept or told of a model
# from call to call.
_OTHERS = ("_engine/sketched", "_engine/directed", "_engine/forward", "_engine/linear_taps")
_OTHERS += ("_engine/vectors",)
_OTHERS += ("_engine/trace", "_engine/lighter", "_operations/tensor_sketch")
_OTHERS += ("_model/sameness", "_model/changes")


def makes_scores(file: str) -> bool:
    """Whether scores of small pools are made by it, so that verification may see its faults."""
    return file.startswith(_SCORES) and not file.startswith(_OTHERS)


@dataclass(frozen=True)
class Fault:
    """One edit, of the kind that a tired developer makes.

    Attributes:
        file: Below `src/fastgradnorm`; or below the repository, beginning with `kernels/`.
        kind: What sort of edit.
        old: Text that stands there in exactly one place.
        new: What takes its place.
        told: What a user would see.
        unseen: Why verification cannot see it, where that is so in principle.
    """

    file: str
    kind: str
    old: str
    new: str
    told: str
    unseen: str = ""

    @property
    def path(self) -> Path:
        """Below the repository."""
        whole = self.file.startswith("kernels/")
        return Path(self.file if whole else f"src/fastgradnorm/{self.file}")

    @property
    def name(self) -> str:
        """Tells it from the others, also after lines have moved."""
        return f"{self.file}: {self.told}"

    def planted(self, root: Path = ROOT) -> str:
        """The file's text with this fault."""
        return replaced((root / self.path).read_text(), self.old, self.new)
