"""A folder of images as a dataset. Pillow is imported with this file."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from fastgradnorm.cli._failures import BadInputError
from fastgradnorm.cli._samples import OneShape

SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"]
)
# Pictures too, which nobody here reads: told, for who has them means them.
_OTHERS = (
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".dcm", ".nii", ".svs", ".ndpi",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".exr", ".hdr",
)  # fmt: skip


# Grey of more than eight bits. Pillow's own conversion cuts off what is above 255.
_GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N")
_UNBOUNDED = ("I", "F")  # numbers of 32 bits
_ORIENTATION = 0x0112  # the Exif tag
_SIDEWAYS = range(5, 9)  # its values that swap width and height


class ImageFolder(Dataset[Tensor]):
    """Images as tensors.

    Args:
        root: Folder that the files are relative to.
        places: The file of each image, and which of its frames it is; None: all there is, or the
            first.
        transform: Image to tensor.

    Attributes:
        names: Of the images: the file, and with `#` the frame, counted from 1.
    """

    def __init__(
        self,
        root: Path,
        places: Sequence[tuple[str, int | None]],
        transform: Callable[[Image.Image], Tensor],
    ) -> None:
        self.root, self.places, self.transform = root, tuple(places), transform
        self._fits = OneShape()
        self.names = tuple(
            name if frame is None else f"{name}#{frame + 1}" for name, frame in self.places
        )

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        image = self._image(index)
        try:
            made = self.transform(image)
        except BadInputError as error:
            raise BadInputError(f"{self.names[index]} {error}") from error
        except Exception as error:
            raise BadInputError(
                f"The transform failed on {self.names[index]}, an image of mode {image.mode}: "
                f"{type(error).__name__}: {error}. It is given each image as the file has it; "
                "`image.convert('RGB')` in it makes all of one mode."
            ) from error
        return cast("Tensor", self._fits(made, self.names[index]))

    def picture(self, index: int) -> Image.Image:
        """The image itself, in RGB."""
        return _in_rgb(self._image(index))

    def _image(self, index: int) -> Image.Image:
        name, frame = self.places[index]
        return read_image(self.root / name, frame or 0)


def read_image(path: Path, frame: int = 0) -> Image.Image:
    """An image as the file has it, the right way up, with the colours that a palette stands for.

    Raises:
        BadInputError: If the file is no image, damaged, or cannot be read.
    """
    with _opened(path) as image:
        image.seek(frame)
        image.load()
        found = ImageOps.exif_transpose(image)
        if found.mode in ("P", "PA"):
            found = found.convert()
        found.format = image.format
        return found


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise BadInputError(f"{path} is no file.")
    try:
        with Image.open(path) as image:
            yield image
    except UnidentifiedImageError as error:
        kind = "is empty" if path.stat().st_size == 0 else "is no image, whatever its name says"
        raise BadInputError(f"{path} {kind}.") from error
    except Image.DecompressionBombError as error:
        raise BadInputError(f"{path} is too large: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, BadInputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInputError(f"{path} cannot be read: {reason}.") from error


def open_folder(
    root: Path,
    transform: Callable[[Image.Image], Tensor] | None,
    size: int | None,
    skip_bad: bool,
    every_frame: bool = False,
) -> tuple[ImageFolder, list[str]]:
    """All images below a folder, by name, and what was left out and why.

    Every file is opened first, so that a bad one shows before hours are spent, and not after.

    Args:
        root: The folder.
        transform: Image to tensor, or None: RGB in [0, 1].
        size: Without a transform, images are resized to squares of it.
        skip_bad: Leave out files that cannot be read, and say so.
        every_frame: Of files that hold several images, take each; else the first.

    Raises:
        BadInputError: If there is no image, or a bad one that is not to be skipped.
    """
    found = (p for p in root.rglob("*") if not p.name.startswith("._"))  # macOS' own, no images
    there = [p for p in found if p.suffix and not p.is_dir()]
    names = sorted(str(p.relative_to(root)) for p in there if p.suffix.lower() in SUFFIXES)
    others = Counter(p.suffix.lower() for p in there if p.suffix.lower() in _OTHERS)
    if not names:
        raise BadInputError(
            f"`POOL` must hold images ({', '.join(sorted(SUFFIXES))}). Found none below {root}"
            f"{''.join(f', but {told}' for told in _unread(others)) or '.'}"
        )
    looked = _look(root, names, skip_bad, every_frame, plain=transform is None)
    if looked.bad and not skip_bad:
        shown = " ".join(list(looked.bad.values())[:5])
        raise BadInputError(
            f"{len(looked.bad)} of {len(names)} files cannot be used. {shown} Mend or remove them, "
            "or leave them out with --skip-bad."
        )
    if not looked.places:
        raise BadInputError(f"None of the {len(names)} images below {root} can be read.")
    if transform is None and size is None and len(looked.sizes) > 1:
        (one, first), (other, second) = list(looked.sizes.items())[:2]
        raise BadInputError(
            f"Images differ in size: {first} is {one[0]}x{one[1]}, {second} {other[0]}x{other[1]}. "
            "Give --image-size, or let the model's function return (model, transform)."
        )
    left_out = [*looked.bad.values(), *_unread(others)]
    if looked.several and not every_frame:
        some = ", ".join(f"{name} holds {count}" for name, count in looked.several[:3])
        left_out.append(
            f"all but the first image of {len(looked.several)} files that hold several ({some}). "
            "--every-frame scores each."
        )
    return ImageFolder(root, looked.places, transform or _Plain(size)), left_out


class _Looked(NamedTuple):
    """What is in the files.

    Attributes:
        places: Of each image, its file and frame.
        sizes: Width and height, with the first file of that size.
        several: Files of several images, and how many.
        bad: What is wrong with which file.
    """

    places: list[tuple[str, int | None]]
    sizes: dict[tuple[int, int], str]
    several: list[tuple[str, int]]
    bad: dict[str, str]


def _look(
    root: Path, names: Sequence[str], whole: bool, every_frame: bool, *, plain: bool
) -> _Looked:
    """Opens every file; `whole` reads them to their end."""
    looked = _Looked([], {}, [], {})
    for name in names:
        path = root / name
        try:
            with _opened(path) as image:
                count, mode = int(getattr(image, "n_frames", 1)), image.mode
            if count > 1:
                looked.several.append((name, count))
            each = every_frame and count > 1
            for frame in range(count) if each else [0]:
                head = not (whole or each or (plain and mode in _UNBOUNDED))
                size = _size(path) if head else _checked(path, frame, plain)
                looked.sizes.setdefault(size, name)
            looked.places.extend((name, f) for f in (range(count) if each else [None]))
        except BadInputError as error:
            looked.bad[name] = str(error)
    return looked


def _unread(others: Mapping[str, int]) -> list[str]:
    if not others:
        return []
    told = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    return [f"{told}, which are not read here: make PNG or JPEG of them."]


def _checked(path: Path, frame: int, plain: bool) -> tuple[int, int]:
    """Width and height of an image that can be read, and without a transform used."""
    image = read_image(path, frame)
    if plain:
        try:
            _in_unit_range(image)
        except BadInputError as error:
            raise BadInputError(f"{path} {error}") from error
    return image.size


def _size(path: Path) -> tuple[int, int]:
    """Width and height of an image the right way up, from the head of the file."""
    try:
        with Image.open(path) as image:
            size: tuple[int, int] = image.size
            if image.getexif().get(_ORIENTATION) in _SIDEWAYS:
                return read_image(path).size  # some readers have turned it already, some have not
            image.verify()
            return size
    except Exception:
        return read_image(path).size  # for its message, or where only the check was at fault


class _Plain:
    """RGB in [0, 1], `[3, H, W]`, in the given size if there is one."""

    def __init__(self, size: int | None) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = _in_unit_range(image)
        if self.size is None:
            return pixels
        if image.mode in _GREY_16 or image.mode == "I":
            grey = Image.fromarray(pixels[0].numpy())  # of floats
            return _rows(np.array(self._resized(grey)))
        return _rows(np.array(self._resized(image.convert("RGB")), dtype=np.float32) / 255)

    def _resized(self, image: Image.Image) -> Image.Image:
        assert self.size is not None
        return image.resize((self.size, self.size), Image.Resampling.BILINEAR)


def _in_unit_range(image: Image.Image) -> Tensor:
    """The pixels as RGB in [0, 1], `[3, H, W]`.

    Raises:
        BadInputError: If nothing tells which number is white.
    """
    # Pillow gives the 16 bits of these formats as 32.
    if image.mode in _GREY_16 or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _rows(np.array(image).astype(np.float32) / 65535)
    if image.mode in _UNBOUNDED:
        raise BadInputError(
            f"holds numbers of 32 bits (mode {image.mode}), of which none is known to be white. "
            "Let the model's function return (model, transform)."
        )
    return _rows(np.array(image.convert("RGB"), dtype=np.float32) / 255)


def _rows(pixels: np.ndarray) -> Tensor:
    """Grey `[H, W]` or RGB `[H, W, 3]` as `[3, H, W]`."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, -1)
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def _in_rgb(image: Image.Image) -> Image.Image:
    """For the eye: of numbers without a known range, from the least to the largest."""
    if image.mode not in (*_GREY_16, *_UNBOUNDED):
        return image.convert("RGB")
    numbers = np.array(image).astype(np.float64)
    low, high = (0, 65535) if image.mode in _GREY_16 else (numbers.min(), numbers.max())
    scaled = (numbers - low) * (255 / max(high - low, 1e-300))
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
