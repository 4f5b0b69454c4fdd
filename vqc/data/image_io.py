"""Image bytes -> what the annotations need to know, and pixels.

Greyscale, 16-bit, palette, transparent, CMYK and EXIF-rotated files all become upright 8-bit RGB.
"""

from __future__ import annotations

import hashlib
import io
import struct
import threading
import warnings
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vqc.data.letterbox import reduction
from vqc.errors import DataError
from vqc.files import read_at_most

if TYPE_CHECKING:
    from PIL.Image import Image

# Only formats that photographs come in: Pillow also knows some that start other programs (EPS).
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
EXIF_ORIENTATION = 0x0112
EXIF_CHANGED, EXIF_DETAILS, EXIF_TAKEN = 0x0132, 0x8769, 0x9003
PICTURE_SUFFIXES = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
THUMBNAIL_PX = 64
STRIP_PX = 64  # rows
STRIPS_FROM_PIXELS = 4_000_000  # 12 megapixels: 18 instead of 53 ms; 1 megapixel: 1.5 instead of 0.7
MOST_PIXELS = 210_000_000  # of a picture: sensors of 200 megapixels exist
MOST_BYTES = 6 * MOST_PIXELS + 2**20  # of a file: the largest picture, of 16 bits and not compressed

# Decoders of hostile bytes raise all of these; each means that the file is broken, not the program.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error, MemoryError)

# To silence a warning, or to set Pillow's limit, changes the whole interpreter; two threads must not do that at once.
_opening = threading.Lock()


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """What a file says about itself.

    Attributes:
        sha256: of the file's bytes, in hex.
        width, height: in pixels as stored, before any rotation.
        orientation: EXIF's code, 1 (upright) to 8.
        thumbnail: uint8 [THUMBNAIL_PX, THUMBNAIL_PX], grey, the whole picture as stored, squeezed into a square.
    """

    sha256: str
    width: int
    height: int
    orientation: int
    thumbnail: NDArray[np.uint8]

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in pixels after the EXIF rotation."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)

    def rotated_in(self, annotated_size: tuple[int, int]) -> bool:
        """Whether annotations for this width and height in pixels see the picture after the EXIF rotation.

        Raises:
            DataError: the picture has neither this size nor, as stored, this one; names no file.
        """
        if annotated_size == self.upright_size:
            return self.orientation != 1
        if annotated_size == (self.width, self.height):
            return False
        (annotated_width, annotated_height), (width, height) = annotated_size, self.upright_size
        raise DataError(f"annotated as {annotated_width} x {annotated_height} px, the picture has {width} x {height}")


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedPicture:
    """A picture's pixels, perhaps fewer than it has.

    Attributes:
        pixels: uint8 [h, w, 3], RGB, contiguous.
        width, height: of the picture itself, in pixels.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int

    @classmethod
    def whole(cls, pixels: NDArray[np.uint8]) -> DecodedPicture:
        """A picture with all of its pixels [h, w, 3]."""
        return cls(pixels=pixels, width=pixels.shape[1], height=pixels.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture itself, in pixels."""
        return self.width, self.height

    @property
    def reduced(self) -> bool:
        """Whether it was decoded at a part of its size."""
        return self.pixels.shape[:2] != (self.height, self.width)


def picture_bytes(path: Path) -> bytes:
    """What a picture's file holds.

    Raises:
        DataError: it cannot be read, or is larger than any photograph; names no file.
    """
    try:
        content = read_at_most(path, MOST_BYTES)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}") from None
    if content is None:
        raise DataError(f"larger than {MOST_BYTES / 2**20:.0f} MB; cut it into tiles")
    return content


def open_picture(data: bytes) -> Image:
    """A picture of which Pillow has read the header: its ``format``, and its ``size`` as stored, however large.

    Raises:
        DataError: not a picture, or its header is broken; names no file.
    """
    from PIL import Image, UnidentifiedImageError

    with _opening, warnings.catch_warnings():
        # Its warnings (tags that say more than the file holds) do not matter, or become errors when pixels are read.
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = None  # Pillow's limit, also when pixels are read, is below a large photograph
        try:
            return Image.open(io.BytesIO(data), formats=FORMATS)  # reads no pixels yet
        except UnidentifiedImageError:
            raise DataError(f"not a picture; expected one of {', '.join(FORMATS)}") from None
        except _BROKEN as error:
            raise DataError(f"a broken file: {error}") from None


def probe_picture(data: bytes) -> Picture:
    """Decode a whole file and say what it is.

    Raises:
        DataError: not a picture, truncated, too large or of a kind without colours; names no file.
    """
    with _open(data) as image:
        width, height = image.size
        return Picture(
            sha256=hashlib.sha256(data).hexdigest(),
            width=width,
            height=height,
            thumbnail=_grey_square(image, THUMBNAIL_PX),
            orientation=_orientation(image),
        )


def grey_square(data: bytes, side_px: int, *, rotate: bool) -> NDArray[np.uint8]:
    """A picture, grey, squeezed into [side_px, side_px]; ``rotate`` and errors as for ``decode_picture``."""
    with _open(data) as image:
        pixels = _grey_square(image, side_px)
        return upright(pixels, _orientation(image) if rotate else 1)


def _grey_square(image: Image, side_px: int) -> NDArray[np.uint8]:
    from PIL.Image import Resampling

    width, height = image.size
    # A JPEG at an eighth of its size or more: all bytes are still read, so a cut-off file is found, and sooner.
    image.draft(None, (max(width // 8, side_px), max(height // 8, side_px)))
    _load(image)
    return np.asarray(_eight_bit(image).convert("L").resize((side_px, side_px), Resampling.BOX))


def decode_picture(data: bytes, *, rotate: bool) -> NDArray[np.uint8]:
    """Pixels ``[height, width, 3]``, RGB, uint8, contiguous.

    16-bit values keep their upper eight bits (65535 becomes 255, whatever the picture's own maximum);
    transparency is dropped.

    Args:
        rotate: whether the EXIF orientation is applied.

    Raises:
        DataError: as ``probe_picture``.
    """
    return decode_to_fit(data, None, rotate=rotate).pixels


def decode_to_fit(picture: bytes | Image, size: tuple[int, int] | None, *, rotate: bool) -> DecodedPicture:
    """As ``decode_picture``, for pixels that are used only to be fitted into ``size`` (height, width): a JPEG much
    larger than that is decoded at a half, a quarter or an eighth of its size.

    Args:
        picture: a file, or what ``open_picture`` gave for it; that is closed.
    """
    with closing(_open(picture)) as image:  # "with image" would keep its pixels, for whoever still holds it
        stored = image.size
        if size is not None and image.format in ("JPEG", "MPO"):
            is_turned = rotate and _orientation(image) >= 5
            factor = reduction(*(stored[::-1] if is_turned else stored), size)
            if factor > 1:
                image.draft(None, (max(1, stored[0] // factor), max(1, stored[1] // factor)))
        _load(image)
        # Not before: for it Pillow loads a PNG, and a broken one then looks whole; and it turns a TIFF as it loads.
        orientation = _orientation(image) if rotate else 1
        width, height = stored[::-1] if orientation >= 5 else stored
        eight_bit = _eight_bit(image)
        pixels = _pixels(eight_bit if eight_bit.mode == "RGB" else eight_bit.convert("RGB"))
    return DecodedPicture(pixels=np.ascontiguousarray(upright(pixels, orientation)), width=width, height=height)


def _pixels(image: Image) -> NDArray[np.uint8]:
    """An RGB picture's pixels. A large one's in strips: Pillow copies the whole twice, through memory that is new."""
    width, height = image.size
    if width * height < STRIPS_FROM_PIXELS:
        return np.asarray(image)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, STRIP_PX):
        bottom = min(top + STRIP_PX, height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return pixels


def taken_at(data: bytes) -> datetime | None:
    """When the photograph was taken, by the camera's clock: EXIF's DateTimeOriginal, else DateTime; None without.

    Raises:
        DataError: not a picture; names no file.
    """
    with _open(data) as image:
        try:
            exif = image.getexif()
            text = exif.get_ifd(EXIF_DETAILS).get(EXIF_TAKEN) or exif.get(EXIF_CHANGED)
            return datetime.strptime(str(text), "%Y:%m:%d %H:%M:%S")
        except _BROKEN:
            return None


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels [height, width, ...] turned and mirrored as EXIF's ``orientation``, 1 to 8, asks; a view."""
    down, right = ((1, 1), (1, -1), (-1, -1), (-1, 1))[(orientation - 1) % 4]
    return (pixels.swapaxes(0, 1) if orientation >= 5 else pixels)[::down, ::right]


def _open(picture: bytes | Image) -> Image:
    image = open_picture(picture) if isinstance(picture, bytes) else picture
    if image.width * image.height > MOST_PIXELS:
        raise DataError(f"more than {MOST_PIXELS // 1_000_000} megapixels; cut it into tiles")
    return image


def _load(image: Image) -> None:
    if image.mode in ("F", "LAB", "HSV"):
        raise DataError(f"pixels of kind '{image.mode}'; expected greyscale or colour of 8 or 16 bits")
    try:
        image.load()
    except _BROKEN as error:
        raise DataError(f"broken or cut off: {error}") from None


def _orientation(image: Image) -> int:
    try:
        code = image.getexif().get(EXIF_ORIENTATION, 1)
    except _BROKEN:  # broken metadata around a good picture: viewers show it as stored
        return 1
    return code if isinstance(code, int) and 1 <= code <= 8 else 1


def _eight_bit(image: Image) -> Image:
    """The picture in a mode that converts to RGB and to grey."""
    from PIL.Image import fromarray

    if image.mode.startswith("I"):  # 16-bit grey; plain "I" holds the same range in 32 bits
        return fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    # By way of RGBA: a palette's transparency has no direct way to RGB.
    return image.convert("RGBA") if image.mode in ("P", "PA", "LA") else image
