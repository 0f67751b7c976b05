"""A folder of images as a dataset. Pillow is imported with this file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from fastgradnorm.cli._failures import BadInputError

SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"]
)


class ImageFolder(Dataset[Tensor]):
    """Images as tensors.

    Args:
        root: Folder that `names` are relative to.
        names: Of the files.
        transform: Image to tensor.
    """

    def __init__(
        self, root: Path, names: Sequence[str], transform: Callable[[Image.Image], Tensor]
    ) -> None:
        self.root, self.names, self.transform = root, tuple(names), transform

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.picture(index))

    def picture(self, index: int) -> Image.Image:
        """The image itself, in RGB."""
        return read_image(self.root / self.names[index])


def read_image(path: Path) -> Image.Image:
    """An image in RGB.

    Raises:
        BadInputError: If the file is no image, damaged, or cannot be read.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise BadInputError(f"{path} is no file.")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        kind = "is empty" if path.stat().st_size == 0 else "is no image, whatever its name says"
        raise BadInputError(f"{path} {kind}.") from error
    except Image.DecompressionBombError as error:
        raise BadInputError(f"{path} is too large: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInputError(f"{path} cannot be read: {reason}.") from error


def open_folder(
    root: Path, transform: Callable[[Image.Image], Tensor] | None, size: int | None, skip_bad: bool
) -> tuple[ImageFolder, list[str]]:
    """All images below a folder, by name, and what was left out and why.

    Every file is opened first, so that a bad one shows before hours are spent, and not after.

    Raises:
        BadInputError: If there is no image, or a bad one that is not to be skipped.
    """
    names = sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.is_dir()
    )
    if not names:
        raise BadInputError(
            f"`POOL` must hold images ({', '.join(SUFFIXES)}). Found none below {root}."
        )
    bad: dict[str, str] = {}
    sizes: dict[tuple[int, int], str] = {}
    for name in names:
        try:
            if skip_bad:
                sizes.setdefault(read_image(root / name).size, name)
            else:
                sizes.setdefault(_size(root / name), name)
        except BadInputError as error:
            bad[name] = str(error)
    if bad and not skip_bad:
        shown = " ".join(list(bad.values())[:5])
        raise BadInputError(
            f"{len(bad)} of {len(names)} files cannot be used. {shown} Mend or remove them, or "
            "leave them out with --skip-bad."
        )
    good = [name for name in names if name not in bad]
    if not good:
        raise BadInputError(f"None of the {len(names)} images below {root} can be read.")
    if transform is None and size is None and len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise BadInputError(
            f"Images differ in size: {first} is {one[0]}x{one[1]}, {second} {other[0]}x{other[1]}. "
            "Give --image-size, or let the model's function return (model, transform)."
        )
    return ImageFolder(root, good, transform or _Plain(size)), list(bad.values())


def _size(path: Path) -> tuple[int, int]:
    """Width and height, from the head of the file."""
    if not path.is_file():
        return read_image(path).size  # for its message
    try:
        with Image.open(path) as image:
            size: tuple[int, int] = image.size
            image.verify()
            return size
    except Exception:
        return read_image(path).size  # for its message, or where only the check was at fault


class _Plain:
    """RGB in [0, 1], `[3, H, W]`, in the given size if there is one."""

    def __init__(self, size: int | None) -> None:
        self.size = size

    def __call__(self, image: Any) -> Tensor:
        if self.size is not None:
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)
