"""Pictures from their bytes: readable formats, the most pixels, and the meaning of their modes in 8 bits.

Training and evaluation read through here. They part in one point: training sees a picture as a person does, upright and
on white; evaluation takes its pixels as they are stored, as clean-fid does, or the same folder would get another FID.
"""

from __future__ import annotations

import io
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import first_line

SUFFIXES = (".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Formats that are read whatever a file is called. Other formats of Pillow start programs (EPS) or are no pictures.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
# Twice the size of Pillow's warning, where Pillow itself refuses: half a gigabyte in RGB. Cameras stay below.
MOST_PIXELS = 2 * 89_478_485
SIXTEEN_BITS, GREY = "I;16", "L"
UNSCALED = {"I": "32-bit whole numbers (mode I)", "F": "floating-point numbers (mode F)"}
# Modes that can become grey or colours: at once (None), or through the named mode, since Pillow knows no other way.
MODES = {
    **dict.fromkeys(("1", GREY, "P", "RGB", "RGBA", "RGBX", "LA", "PA", "CMYK", "YCbCr", "HSV", SIXTEEN_BITS)),
    "LAB": "RGB",
    "La": "LA",
    "RGBa": "RGBA",
}
WIDTH, HEIGHT, BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 256, 257, 258, 262, 0
WHITE = 255
ORIENTATION = 0x0112
# A PNG without any of these holds no orientation.
PNG_ORIENTATIONS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


class Unreadable(Exception):
    """Bytes that are no picture, or one without a meaning in 8 bits; the text says why."""


@contextmanager
def opened_picture(source: Path | bytes) -> Generator[Image.Image]:
    """The picture in a file or in bytes, with its header read; of an animation the first frame.

    Raises Unreadable for whatever goes wrong inside, for more than MOST_PIXELS, and for modes whose range nothing
    tells.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()) as picture:
            _check(picture)
            yield picture
    except Unreadable:
        raise
    except Image.UnidentifiedImageError as error:
        raise Unreadable("not a picture") from error
    except Image.DecompressionBombError as error:
        raise Unreadable(f"more than {MOST_PIXELS:,} pixels") from error
    except Exception as error:
        # Pillow's decoders raise whatever their parsing runs into: OSError, SyntaxError, ValueError, struct.error, ...
        raise Unreadable(first_line(error)) from error


def mode_of(picture: Image.Image) -> str:
    """Pillow's mode, with one name for all that hold 16-bit grey."""
    # Netpbm's 16 bits, and those of PNG in older Pillows, come as 32.
    wide = picture.mode == "I" and picture.format in ("PNG", "PPM")
    return SIXTEEN_BITS if wide or picture.mode.startswith(SIXTEEN_BITS) else picture.mode


def eight_bit(picture: Image.Image) -> Image.Image:
    """16-bit grey v as 8-bit grey v / 257, rounded to the nearest.

    65535 = 255 · 257, so white stays white, and 8-bit values that were widened come back exactly. Colours of 16 bits a
    channel come from Pillow as their upper 8, which for such values is the same.
    """
    values = np.asarray(picture).astype(np.int32).clip(0, 65535)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def in_eight_bits(picture: Image.Image, mode: str) -> Image.Image:
    """A picture of a mode in MODES, converted to another: L, RGB or RGBA."""
    own = mode_of(picture)
    through = MODES[own]
    narrow = eight_bit(picture) if own == SIXTEEN_BITS else picture if through is None else picture.convert(through)
    return narrow.convert(mode)


def as_stored(path: Path, grey: bool) -> np.ndarray:
    """Pixels (H, W) or (H, W, 3) uint8 of a file, neither turned upright nor laid on white; raises Unreadable."""
    with opened_picture(path) as picture:
        return np.asarray(in_eight_bits(picture, GREY if grey else "RGB"))


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height as a person sees the picture, from its header; raises Unreadable."""
    with opened_picture(data) as picture:
        width, height = _stored_size(picture)
        return (height, width) if _turned(picture, data) else (width, height)


def open_picture(data: bytes) -> Image.Image:
    """The picture upright, in RGB of 8 bits, on white where it is transparent; raises Unreadable."""
    with opened_picture(data) as picture:
        wide, upright = mode_of(picture) == SIXTEEN_BITS, ImageOps.exif_transpose(picture)
        if wide:
            # Turned, it has lost its format, by which mode_of() knows it.
            return _grey_on_white(upright).convert("RGB")
        return on_white(upright)


def on_white(picture: Image.Image) -> Image.Image:
    """A picture of a mode in MODES, in RGB of 8 bits, on white where it is transparent."""
    if {"A", "a"} & set(picture.getbands()) or "transparency" in picture.info:
        clear = in_eight_bits(picture, "RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return in_eight_bits(picture, "RGB")


def _grey_on_white(picture: Image.Image) -> Image.Image:
    """16-bit grey in 8 bits, white where it has the one value that a PNG may call transparent."""
    grey = np.asarray(eight_bit(picture))
    clear = picture.info.get("transparency")
    return Image.fromarray(grey if clear is None else np.where(np.asarray(picture) == clear, np.uint8(WHITE), grey))


def _stored_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height before it is turned upright."""
    # Newer Pillows give the size of a TIFF as it is shown.
    tags = picture.tag_v2 if isinstance(picture, TiffImageFile) else {}
    return tags.get(WIDTH, picture.width), tags.get(HEIGHT, picture.height)


def _turned(picture: Image.Image, data: bytes) -> bool:
    """Whether the picture is shown with its sides exchanged."""
    # Pillow decodes a whole PNG to look for what may follow its pixels.
    if picture.format == "PNG" and not any(mark in data for mark in PNG_ORIENTATIONS):
        return False
    return picture.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)


def _check(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise Unreadable(f"{width}x{height}, more than {MOST_PIXELS:,} pixels")
    mode = mode_of(picture)
    if mode in UNSCALED:
        raise Unreadable(f"{UNSCALED[mode]} have no white of their own: save it with 8 or 16 bits")
    if mode not in MODES:
        raise Unreadable(f"values of mode {mode}: save it in RGB")
    if mode != SIXTEEN_BITS or not isinstance(picture, TiffImageFile):
        return
    if picture.tag_v2.get(BITS_PER_SAMPLE) not in (16, (16,)):
        raise Unreadable("grey of neither 8 nor 16 bits: save it with one of them")
    # Pillow turns such values round where they have 8 bits, and gives those of 16 as they are.
    if picture.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise Unreadable("16-bit grey in which 0 is white: save it with 0 for black")


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
