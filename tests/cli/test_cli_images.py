"""Images as they are: their range, the right way up, each of a file, as a transform gets them."""

import csv
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastgradnorm.cli._failures import BadInputError
from fastgradnorm.cli._images import open_folder, read_image
from tests.support import oracle
from tests.support.asserts import assert_close_relative

SIDE = 12
ORIENTATIONS = range(1, 9)


def colours(height=SIDE, width=SIDE, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def deep(seed=0):
    return np.random.default_rng(seed).integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)


def as_tensor(pixels):
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)


def only(folder, transform=None, size=None, **options):
    """The one image of a folder, as the model gets it."""
    images, left_out = open_folder(folder, transform, size, False, **options)
    assert not left_out
    assert len(images) == 1
    return images[0]


def write_pgm(path, pixels):
    head = f"P5\n{pixels.shape[1]} {pixels.shape[0]}\n65535\n".encode()
    path.write_bytes(head + pixels.astype(">u2").tobytes())


def write_big_endian(path, pixels):
    Image.frombytes("I;16B", pixels.shape[::-1], pixels.astype(">u2").tobytes()).save(path)


DEEP = {
    "grey.png": lambda path, pixels: Image.fromarray(pixels).save(path),
    "grey.tif": lambda path, pixels: Image.fromarray(pixels).save(path),
    "packed.tif": lambda path, pixels: Image.fromarray(pixels).save(path, compression="tiff_lzw"),
    "big.tiff": write_big_endian,
    "grey.pgm": write_pgm,
}


class TestSixteenBits:
    @pytest.mark.parametrize("name", DEEP)
    def test_grey_keeps_its_range(self, name, tmp_path):
        DEEP[name](tmp_path / name, deep())
        found = only(tmp_path)
        expected = torch.from_numpy(deep().astype(np.float32) / 65535).expand(3, SIDE, SIDE)
        assert torch.allclose(found, expected, atol=1e-6)
        assert found.dtype == torch.float32

    @pytest.mark.parametrize("name", DEEP)
    def test_resized(self, name, tmp_path):
        DEEP[name](tmp_path / name, deep())
        found = only(tmp_path, size=5)
        byte = Image.fromarray((deep() / 257).round().astype(np.uint8))
        expected = np.array(byte.resize((5, 5), Image.Resampling.BILINEAR)) / 255
        assert found.shape == (3, 5, 5)
        assert np.abs(found.numpy() - expected).max() < 0.01

    @pytest.mark.parametrize("name", DEEP)
    def test_a_transform_gets_all_bits(self, name, tmp_path):
        DEEP[name](tmp_path / name, deep())
        found = only(tmp_path, lambda image: torch.from_numpy(np.array(image).astype(np.int64)))
        assert torch.equal(found, torch.from_numpy(deep().astype(np.int64)))

    @pytest.mark.parametrize("name", DEEP)
    def test_pictures_of_the_report_are_not_white(self, name, tmp_path):
        DEEP[name](tmp_path / name, deep())
        images, _ = open_folder(tmp_path, None, None, False)
        shown = images.picture(0)
        assert shown.mode == "RGB"
        assert np.abs(np.array(shown)[..., 0] - deep() / 257.0).max() < 2

    @pytest.mark.parametrize("kind", [np.int32, np.float32])
    def test_numbers_without_a_known_white_are_refused_before_anything_is_scored(
        self, kind, tmp_path
    ):
        Image.fromarray(deep().astype(kind)).save(tmp_path / "wide.tif")
        with pytest.raises(BadInputError, match=r"wide.tif holds numbers of 32 bits.*transform"):
            open_folder(tmp_path, None, None, False)
        found = only(tmp_path, lambda image: torch.from_numpy(np.array(image).copy()))
        assert torch.equal(found, torch.from_numpy(deep().astype(kind)))


class TestOrientation:
    def turned(self, path, value, **options):
        """Writes pixels as a camera held otherwise does; returns them as they are meant."""
        pixels = Image.fromarray(np.kron(colours(3, 4), np.ones((4, 4, 1), np.uint8)))
        exif = Image.Exif()
        exif[0x0112] = value
        pixels.save(path, exif=exif, **options)
        ways = {
            2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180],
            4: [Image.Transpose.FLIP_TOP_BOTTOM], 5: [Image.Transpose.TRANSPOSE],
            6: [Image.Transpose.ROTATE_270], 7: [Image.Transpose.TRANSVERSE],
            8: [Image.Transpose.ROTATE_90],
        }  # fmt: skip
        for way in ways.get(value, []):
            pixels = pixels.transpose(way)
        return np.array(pixels)

    @pytest.mark.parametrize("value", ORIENTATIONS)
    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
    def test_is_honoured(self, value, suffix, tmp_path):
        options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
        meant = self.turned(tmp_path / f"photo.{suffix}", value, **options.get(suffix, {}))
        for found in (only(tmp_path), only(tmp_path, lambda image: as_tensor(np.array(image)))):
            assert found.shape == (3, *meant.shape[:2])
            assert (found - as_tensor(meant)).abs().max() < 0.05

    @pytest.mark.parametrize("skip_bad", [False, True])
    def test_sizes_are_those_of_upright_images(self, skip_bad, tmp_path):
        self.turned(tmp_path / "a.jpg", 6)
        Image.fromarray(colours(16, 12)).save(tmp_path / "b.png")
        images, _ = open_folder(tmp_path, None, None, skip_bad)
        assert images[0].shape == images[1].shape == (3, 16, 12)
        self.turned(tmp_path / "c.jpg", 1)
        with pytest.raises(BadInputError, match="differ in size"):
            open_folder(tmp_path, None, None, skip_bad)


def write_frames(path, count=3, side=SIDE):
    first, *rest = [Image.fromarray(colours(side, side, seed)) for seed in range(count)]
    lossless = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}
    options = lossless.get(path.suffix, {})
    kind = "MPO" if path.suffix == ".jpg" else None
    first.save(path, kind, save_all=True, append_images=rest, **options)


SEVERAL = ["stack.tif", "moving.gif", "moving.webp", "moving.png", "stereo.jpg"]


class TestFrames:
    @pytest.mark.parametrize("name", SEVERAL)
    def test_files_of_several_images_are_told(self, name, tmp_path):
        write_frames(tmp_path / name)
        images, left_out = open_folder(tmp_path, None, None, False)
        assert images.names == (name,)
        (told,) = left_out
        assert re.search(rf"1 files that hold several \({re.escape(name)} holds 3\)", told)
        assert "--every-frame" in told

    @pytest.mark.parametrize("name", SEVERAL)
    def test_or_give_a_row_each(self, name, tmp_path):
        write_frames(tmp_path / name)
        Image.fromarray(colours(seed=9)).save(tmp_path / "alone.bmp")
        images, left_out = open_folder(tmp_path, None, None, False, every_frame=True)
        assert not left_out
        assert images.names == tuple(sorted(["alone.bmp", *(f"{name}#{i}" for i in (1, 2, 3))]))
        start = images.names.index(f"{name}#1")
        slack = 0.05 if name.endswith("jpg") else 1e-6
        for seed in range(3):
            error = (images[start + seed] - as_tensor(colours(seed=seed))).abs()
            assert error.max() < slack

    def test_frames_of_several_sizes_are_told(self, tmp_path):
        frames = [Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))]
        frames[0].save(tmp_path / "stack.tif", save_all=True, append_images=frames[1:])
        with pytest.raises(BadInputError, match="differ in size"):
            open_folder(tmp_path, None, None, False, every_frame=True)

    @pytest.mark.slow
    def test_on_the_command_line(self, run, folder, model):
        write_frames(folder / "pool" / "stack.tif", 4)
        ran = run("score", "their_model:make", "pool")
        assert ran.code == 0
        assert "left out: all but the first image of 1 files" in ran.err
        ran = run("score", "their_model:make", "pool", "--every-frame")
        assert (ran.code, ran.err.count("left out")) == (0, 0)
        with (folder / "scores.csv").open() as file:
            rows = {row["id"]: float(row["score"]) for row in csv.DictReader(file)}
        assert len(rows) == 14
        frames = torch.stack([as_tensor(colours(seed=seed)) for seed in range(4)])
        found = torch.tensor([rows[f"stack.tif#{i}"] for i in (1, 2, 3, 4)])
        assert_close_relative(found, oracle.scores(model, oracle.ones(frames)), 1e-5)


class TestTransform:
    @pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "CMYK", "YCbCr", "LA"])
    def test_is_given_the_image_as_it_is(self, mode, tmp_path):
        image = Image.fromarray(colours()).convert(mode)
        image.save(tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png"))
        seen = []
        only(tmp_path, lambda given: seen.append(given) or torch.zeros(1))
        assert seen[0].mode == mode
        assert np.array_equal(np.array(seen[0]), np.array(image))

    def test_is_given_the_colours_of_a_palette(self, tmp_path):
        image = Image.fromarray(colours()).quantize(16)
        image.save(tmp_path / "a.png")
        found = only(tmp_path, lambda given: as_tensor(np.array(given)))
        assert torch.equal(found, as_tensor(np.array(image.convert("RGB"))))

    @pytest.mark.parametrize("mode", ["L", "1", "LA", "CMYK", "RGBA"])
    def test_that_fails_is_told_with_the_file_and_its_mode(self, mode, tmp_path):
        Image.new(mode, (4, 4)).save(tmp_path / "odd.tif")

        def transform(image):
            return nn.functional.conv2d(as_tensor(np.array(image)), torch.ones(1, 3, 1, 1))

        images, _ = open_folder(tmp_path, transform, None, False)
        with pytest.raises(BadInputError, match=rf"odd.tif, an image of mode {mode}: .*'RGB'"):
            images[0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "LA", "RGB"])
def test_without_a_transform_all_become_rgb(mode, tmp_path):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(colours()).convert(mode).save(path)
    with Image.open(path) as image:
        expected = as_tensor(np.array(image.convert("RGB")))
    assert torch.equal(only(tmp_path), expected)
    assert read_image(path).mode == ("RGB" if mode == "P" else mode)
