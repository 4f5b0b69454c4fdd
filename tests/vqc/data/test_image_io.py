"""Pictures of every kind become upright RGB; broken ones become one sentence."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests import images
from vqc.data.image_io import decode_picture, decode_to_fit, open_picture, probe_picture
from vqc.data.letterbox import fit_image
from vqc.errors import DataError

EXACT = ("rgb", "rgba", "bmp")
ROWS_PER_STRIP, STRIP_OFFSETS = 278, 273  # of TIFF
GREYS = ("grey", "grey16", "grey16-tiff", "grey-alpha", "bilevel")


@pytest.mark.parametrize("kind", images.KINDS)
def test_every_kind_becomes_rgb_bytes(tmp_path: Path, kind: str) -> None:
    data = images.save_picture(tmp_path, kind).read_bytes()
    pixels = decode_picture(data, rotate=True)
    assert (pixels.shape, pixels.dtype) == ((48, 64, 3), np.uint8)
    assert pixels.flags.c_contiguous
    assert pixels.std() > 20
    picture = probe_picture(data)
    assert (picture.width, picture.height, picture.orientation) == (64, 48, 1)


@pytest.mark.parametrize("kind", EXACT)
def test_lossless_colour_is_kept(tmp_path: Path, kind: str) -> None:
    pixels = decode_picture(images.save_picture(tmp_path, kind).read_bytes(), rotate=True)
    np.testing.assert_array_equal(pixels, images.rgb(0))


@pytest.mark.parametrize("kind", ["jpeg", "cmyk", "palette", "webp"])
def test_lossy_colour_is_close(tmp_path: Path, kind: str) -> None:
    pixels = decode_picture(images.save_picture(tmp_path, kind).read_bytes(), rotate=True)
    assert np.abs(pixels.astype(int) - images.rgb(0)).mean() < 20  # a palette of 216 colours is the coarsest


@pytest.mark.parametrize("kind", GREYS)
def test_grey_has_three_equal_channels(tmp_path: Path, kind: str) -> None:
    pixels = decode_picture(images.save_picture(tmp_path, kind).read_bytes(), rotate=True)
    assert (pixels == pixels[:, :, :1]).all()


@pytest.mark.parametrize("kind", ["grey16", "grey16-tiff"])
def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path, kind: str) -> None:
    pixels = decode_picture(images.save_picture(tmp_path, kind).read_bytes(), rotate=True)
    np.testing.assert_array_equal(pixels[:, :, 0], images.rgb(0)[:, :, 0])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_agrees_with_pillow(tmp_path: Path, orientation: int, name: str) -> None:
    data = images.save_rotated(tmp_path / name, orientation).read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture))
    decoded = decode_to_fit(data, (8, 8), rotate=True)
    np.testing.assert_array_equal(decoded.pixels, upright)
    assert decoded.size == probe_picture(data).upright_size == (upright.shape[1], upright.shape[0])
    if name == "a.png":  # Pillow turns a TIFF in any case
        np.testing.assert_array_equal(decode_picture(data, rotate=False), images.rgb(0))


def test_unknown_orientation_is_upright(tmp_path: Path) -> None:
    data = images.save_rotated(tmp_path / "a.png", 99).read_bytes()
    assert probe_picture(data).orientation == 1


@pytest.mark.parametrize("kind", ["rgb", "jpeg", "grey16", "grey16-tiff", "bmp", "webp", "cmyk"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_a_cut_off_file_is_found(tmp_path: Path, kind: str, kept: float) -> None:
    data = images.save_picture(tmp_path, kind, size=(320, 240)).read_bytes()
    data = data[: int(len(data) * kept)]
    with pytest.raises(DataError):
        probe_picture(data)
    with pytest.raises(DataError):
        decode_picture(data, rotate=True)


@pytest.mark.parametrize(
    "data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_what_is_no_picture_is_told(data: bytes) -> None:
    with pytest.raises(DataError):
        probe_picture(data)


def test_a_bomb_is_refused_by_its_header() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match="megapixels"):
        probe_picture(data)


def test_a_photograph_of_200_megapixels_is_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    Image.new("1", (16_384, 12_288)).save(path, compression="group4")
    assert probe_picture(path.read_bytes()).width == 16_384


@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("depth", [8, 16])
def test_a_tiff_in_strips_is_read(tmp_path: Path, rows: int, depth: int) -> None:
    pixels = np.arange(200 * 300, dtype=np.uint16).reshape(200, 300)
    grey = pixels if depth == 16 else (pixels >> 8).astype(np.uint8)
    path = tmp_path / "strips.tif"
    Image.fromarray(grey).save(path, compression="tiff_lzw", tiffinfo={ROWS_PER_STRIP: rows})
    with Image.open(path) as written:
        assert len(written.tag_v2[STRIP_OFFSETS]) == -(-200 // rows)
    assert np.array_equal(decode_picture(path.read_bytes(), rotate=True), np.stack([pixels >> 8] * 3, axis=2))


def test_a_large_photograph_is_welcome(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (10_000, 9_100)).save(path)  # above the size at which Pillow warns
    assert probe_picture(path.read_bytes()).width == 10_000


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_large_photograph_has_pillows_pixels(tmp_path: Path, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2011, 2003), dtype=np.uint8)  # no whole number of strips
    photograph = Image.fromarray(pixels).convert(mode)
    photograph.save(tmp_path / "a.png", compress_level=0)
    found = decode_picture((tmp_path / "a.png").read_bytes(), rotate=True)
    assert np.array_equal(found, np.asarray(photograph.convert("RGB")))


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(("kind", "reduced"), [("jpeg", (201, 276)), ("cmyk", (201, 276)), ("rgb", (803, 1101))])
def test_a_jpeg_that_is_fitted_is_decoded_at_a_part_of_its_size(
    tmp_path: Path, kind: str, reduced: tuple[int, int], orientation: int
) -> None:
    path = images.save_picture(tmp_path, kind, size=(1101, 803))
    exif, file = Image.Exif(), io.BytesIO()
    exif[images.ORIENTATION] = orientation
    with Image.open(path) as picture:
        picture.save(file, picture.format, exif=exif)
    data = file.getvalue()
    small, whole = decode_to_fit(data, (128, 128), rotate=True), decode_picture(data, rotate=True)
    assert small.size == (whole.shape[1], whole.shape[0])
    assert small.pixels.shape[:2] == (reduced if orientation < 5 else reduced[::-1])
    assert small.reduced == (kind != "rgb")
    fitted, expected = fit_image(small.pixels, (128, 128), original=small.size), fit_image(whole, (128, 128))
    assert np.abs(fitted.astype(int) - expected).mean() < 1.5


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_cut_off_file_is_found_at_a_part_of_its_size_too(tmp_path: Path, kept: float) -> None:
    data = images.save_picture(tmp_path, "jpeg", size=(1101, 803)).read_bytes()
    with pytest.raises(DataError):
        decode_to_fit(data[: int(kept * len(data))], (128, 128), rotate=True)


def test_a_picture_that_was_opened_is_decoded_once_and_its_pixels_given_back(tmp_path: Path) -> None:
    data = images.save_picture(tmp_path, "rgb", size=(64, 48)).read_bytes()
    picture = open_picture(data)
    assert (picture.format, picture.size) == ("PNG", (64, 48))
    assert np.array_equal(decode_to_fit(picture, None, rotate=True).pixels, decode_picture(data, rotate=True))
    with pytest.raises(ValueError, match="closed image"):
        picture.load()


@pytest.mark.parametrize("size", [(5120, 7), (7, 5120), (1281, 1)])
def test_a_thin_jpeg_is_fitted_too(tmp_path: Path, size: tuple[int, int]) -> None:
    decoded = decode_to_fit(images.save_picture(tmp_path, "jpeg", size=size).read_bytes(), (320, 320), rotate=True)
    assert decoded.size == size
    assert fit_image(decoded.pixels, (320, 320), original=size).shape == (320, 320, 3)


@pytest.mark.parametrize("rotate", [True, False])
def test_a_damaged_png_is_found(tmp_path: Path, rotate: bool) -> None:
    data = bytearray(images.save_picture(tmp_path, size=(300, 200)).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    with pytest.raises(DataError):
        decode_picture(bytes(data), rotate=rotate)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(path)
    with pytest.raises(DataError, match="8 or 16 bits"):
        decode_picture(path.read_bytes(), rotate=True)
