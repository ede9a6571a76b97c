"""Read image files by one set of rules, for everything in this project that reads images.

The result is (H, W, 3) uint8 RGB:

| in the file | comes out as |
| --- | --- |
| 8-bit color (RGB, CMYK, YCbCr) | RGB; color profiles are not applied |
| gray, 1 bit | three equal channels; 1 bit becomes 0 or 255 |
| palette | the colors of the palette |
| transparency (alpha channel, palette entry, color key) | composed over white |
| 16-bit gray | scaled: 0 is black, and white is the largest value of the smallest range of 8, 10, 12, 14 or 16 bits that all values fit in; nothing is shifted or stretched otherwise |
| 16-bit color | the high byte of each value |
| other integers, floats | floats all within 0..1 are scaled by 255; all others so that the smallest finite value is black and the largest is white. NaN and -infinity are black, +infinity is white |
| EXIF orientation 2 to 8 | turned upright, as viewers show it, unless the caller asks for the stored pixels. Any other value, and unreadable EXIF data, is ignored |
| several images (GIF, TIFF, WebP, MPO) | the first |

A file is refused, with its name and the reason, if it is not an ordinary file, not in one of `FORMATS` (by its content;
its suffix does not matter), larger than the bound on bytes, has more pixels than the bound on pixels, or is broken or
cut short. The bounds are checked before the file is read or decoded. File names may contain any bytes.

A JPEG is also refused if libjpeg warns about it ("premature end of data segment", "bad Huffman code", ...), because its
missing pixels would be filled in: gray, shifted or with wrong colors. Some files get a warning although all their pixels
are there. They are read if the warning ends when the file is cleaned up: bytes between two segments of the header are
removed, padding before a marker in the data is removed (zeros, or at least four equal bytes), and these header values
are corrected: the JFIF version, the unused parameters of a baseline scan, and broken ICC profiles. Whatever follows the
end mark is ignored. Other bytes before a marker are refused: they can be the rest of damaged data.

`read_label` reads label images: it returns the stored numbers, and the rules above do not apply.

Legend: H W image pixels, upright unless said otherwise.
"""  # noqa: E501 (a table)

from __future__ import annotations

import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")  # Pillow's names; its rarer decoders are not used
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
MAX_PIXELS = 1 << 26  # 67 megapixels: twice an 8K frame
MAX_BYTES = 1 << 28  # 256 MiB: such an image uncompressed
_ORIENTATION_TAG = 0x0112
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
# Where the seven passes of an interlaced PNG begin, and their steps: x, y, step in x, step in y.
_PNG_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
_JPEG_START, _JPEG_MARKER = b"\xff\xd8\xff", re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that state a size
_JPEG_PADDING = re.compile(rb"(?:(?<!\xff)\x00+|([^\xff])\1{3,})\Z", re.DOTALL)  # a zero after 0xFF belongs to the data
_JPEG_RESTART = re.compile(rb"(\xff[\xd0-\xd7])")
_TRUNCATED = "the file is broken: image file is truncated (its end is missing)"
_BITS = (8, 10, 12, 14, 16)
_BLOCK_VALUES = 1 << 20  # scaled at a time, so that float64 intermediates stay small
# EXIF orientation: (swap rows and columns first, then reverse the rows, reverse the columns)
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_INVERSE = {6: 8, 8: 6}  # the other orientations are their own inverses


class Levels(NamedTuple):
    """The values of a 16-bit, integer or floating image that become black (0) and white (255)."""

    black: float
    white: float


class ImageHeader(NamedTuple):
    """What the header of an image file states."""

    size_hw: tuple[int, int]  # px, upright
    is_deep: bool  # more than 8 bits per value, so that `Levels` matter
    is_animated: bool  # whether there is more than one image; False unless look_for_more


def read_image(
    path: str | os.PathLike,
    *,
    upright: bool = True,
    levels: Levels | None = None,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    formats: Sequence[str] = FORMATS,
) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB by the rules of this module.

    Args:
        path: the file.
        upright: False gives the stored pixels, whatever the EXIF orientation.
        levels: the values that become black and white in a 16-bit or floating image, such as those of the whole
            sequence it belongs to (`read_levels`); None uses the image's own.
        max_pixels, max_bytes: bounds on H times W and on the file; more is refused before anything is decoded.
        formats: the formats accepted, of `FORMATS`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is refused; the message starts with the path.
    """
    data = _read_bytes(path, max_bytes)
    return decode_image(data, os.fsdecode(path), upright=upright, levels=levels, max_pixels=max_pixels, formats=formats)


def decode_image(
    data: bytes,
    name: str,
    *,
    upright: bool = True,
    levels: Levels | None = None,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] = FORMATS,
) -> np.ndarray:
    """As `read_image`, from the bytes of a file. The message of a ValueError starts with `name`."""
    header = _jpeg_header(data) if "JPEG" in formats else None
    is_plain = header is not None and header.is_plain and header.size_hw[0] * header.size_hw[1] <= max_pixels
    may_turn = upright and header is not None and header.has_metadata
    if is_plain and not may_turn:  # the kind that stores contain, and training waits for it
        try:
            return _decode_jpeg(data, "RGB")
        except _Refusal as error:
            raise ValueError(f"{name} cannot be read as an image: {error}") from error
    with _opened(io.BytesIO(data), name, max_pixels, formats) as image:
        if is_plain:
            orientation, pixels = _orientation(image), _decode_jpeg(data, "RGB")
        else:
            _check_whole(data)
            orientation = _load(image, upright)
            pixels = to_rgb_array(image, levels)
    return np.ascontiguousarray(turn(pixels, orientation))


def decode_gray8(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an 8-bit gray JPEG or PNG to (H, W) uint8, the stored values; they are not turned.

    Raises:
        ValueError: the file is refused as an image would be, or is not 8-bit gray; the message starts with `name`.
    """
    with _opened(io.BytesIO(data), name, max_pixels, ("JPEG", "PNG"), what="an 8-bit gray image") as image:
        if image.mode != "L":
            raise _Refusal(f"its pixels must be 8-bit gray, got mode {image.mode}")
        if image.format == "JPEG":
            return _decode_jpeg(data, "GRAY")[..., 0]
        _check_whole(data)
        return np.array(image)


def read_label(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """Read a label image as (H, W) uint8: the numbers stored in it, never converted.

    Of a gray file these are its values (also of 2 or 4 bits), of a file with a palette the indices. An EXIF orientation
    is applied, as it is to images.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is refused as an image would be, or its pixels are not one byte, gray or a palette index.
    """
    data = _read_bytes(path, max_bytes)
    with _opened(io.BytesIO(data), os.fsdecode(path), max_pixels, what="a label image") as image:
        if image.mode not in ("L", "P"):
            raise _Refusal(f"it has pixels of mode {image.mode!r}, and a label is one byte, gray or a palette index")
        _check_whole(data)
        packing = image.tile[0][3] if image.tile else ""
        packing = packing[0] if isinstance(packing, tuple) else packing
        orientation = _load(image, upright=True)
        values = np.array(image)
    step = {"L;2": 85, "L;4": 17}.get(packing, 1)  # Pillow stretches gray values of 2 and 4 bits to 0..255
    return np.ascontiguousarray(turn(values // np.uint8(step), orientation))


def read_levels(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Levels | None:
    """Find the values of one image that become black and white; None if it has 8 bits. Errors as `read_image`."""
    data = _read_bytes(path, max_bytes)
    with _opened(io.BytesIO(data), os.fsdecode(path), max_pixels) as image:
        if not _is_deep(image):
            return None
        return levels_of(np.asarray(image))


def read_header(
    path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES, look_for_more: bool = False
) -> ImageHeader:
    """Read size and kind of an image file from its header, without decoding it; errors as `read_image`."""
    with _open_file(path, max_bytes) as file, _opened(file, os.fsdecode(path), max_pixels) as image:
        width, height = image.size
        # A PNG may state its orientation after its pixels, which would have to be decoded to find it.
        known = image.format != "PNG" or "exif" in image.info
        if known and image.format != "TIFF":  # Pillow states the size of a TIFF upright
            height, width = turned_size((height, width), _orientation(image))
        return ImageHeader((height, width), _is_deep(image), look_for_more and getattr(image, "is_animated", False))


def to_rgb_array(image: Image.Image, levels: Levels | None = None) -> np.ndarray:
    """Convert a Pillow image of any mode to (H, W, 3) uint8 RGB by the rules of this module; it is not turned."""
    if _is_deep(image):
        values = np.asarray(image)
        gray = _scaled(values, levels_of(values) if levels is None else levels)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def levels_of(values: np.ndarray) -> Levels:
    """Find the values that become black and white in an array of integers or floats; see the table of this module."""
    if values.dtype.kind in "iub":
        least, most = int(values.min(initial=0)), int(values.max(initial=0))
        fitting = [bits for bits in _BITS if most < 1 << bits]
        return Levels(0, (1 << fitting[0]) - 1) if least >= 0 and fitting else Levels(int(values.min()), most)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Levels(0.0, 1.0)
    low, high = float(finite.min()), float(finite.max())
    return Levels(0.0, 1.0) if low >= 0 and high <= 1 else Levels(low, high)


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels (H, W, ...) upright by an EXIF orientation (1 to 8): a view, (W, H, ...) for 5 to 8."""
    swap, reverse_rows, reverse_columns = _TURNS[orientation]
    pixels = pixels.swapaxes(0, 1) if swap else pixels
    return pixels[:: -1 if reverse_rows else 1, :: -1 if reverse_columns else 1]


def turned_size(size_hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    """The (H, W) of the result of `turn` for stored pixels of this size."""
    return (size_hw[1], size_hw[0]) if _TURNS[orientation][0] else size_hw


def orientation_of(swap: bool, reverse_rows: bool, reverse_columns: bool) -> int:
    """The EXIF orientation that swaps rows and columns first, then reverses rows, or columns, or both."""
    return next(key for key, turns in _TURNS.items() if turns == (swap, reverse_rows, reverse_columns))


def _scaled(values: np.ndarray, levels: Levels) -> np.ndarray:
    """Scale integers or floats (H, W) to (H, W) uint8, rounded."""
    span = float(levels.white) - float(levels.black)
    gray = np.empty(values.shape, np.uint8)
    rows = max(1, _BLOCK_VALUES // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        block = values[start : start + rows].astype(np.float64)
        block = np.nan_to_num(block, nan=levels.black, posinf=levels.white, neginf=levels.black)
        # A constant image has no span: it is black.
        block = (block / 2 - levels.black / 2) / (span / 2) if 0 < span < np.inf else np.zeros_like(block)
        gray[start : start + rows] = np.rint(255 * block.clip(0, 1))
    return gray


def _is_deep(image: Image.Image) -> bool:
    return image.mode[0] in "IF"


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
        return int(value) if value in _TURNS else 1
    except Exception:  # EXIF data is often broken in many ways, and the pixels do not depend on it
        return 1


def _decode_jpeg(data: bytes, colorspace: str) -> np.ndarray:
    """Decode a JPEG to (H, W, channels) uint8 in a color space of simplejpeg; refuse it where libjpeg reports damage.

    The pixels are those of Pillow and OpenCV, which both ignore libjpeg's warnings.
    """
    if _jpeg_header(data) is None:
        raise _Refusal(_TRUNCATED)
    if not _has_all_scans(data):
        raise _Refusal("the file is broken: scans of a progressive JPEG are missing (image file is truncated)")
    try:
        return simplejpeg.decode_jpeg(data, colorspace)
    except ValueError as error:
        cleaned = _cleaned_jpeg(data)
        if cleaned != data:
            try:
                return simplejpeg.decode_jpeg(cleaned, colorspace)
            except ValueError:
                pass  # the first reason is about the file as it is
        reason = str(error).removeprefix("Corrupt JPEG data: ").removeprefix("Warning: ")
        raise _Refusal(
            f"the file is broken: libjpeg reports {reason!r}; get the file again, or leave it out"
        ) from error


def _load(image: Image.Image, upright: bool) -> int:
    """Decode the image. Returns the orientation that must still be applied to the pixels."""
    if image.format == "TIFF":  # Pillow turns it upright while it decodes
        stored = _orientation(image)
        image.load()
        left = _orientation(image)
        done = stored if left == 1 else 1
        return left if upright else _INVERSE.get(done, done)
    image.load()
    return _orientation(image) if upright else 1


def _open_file(path: str | os.PathLike, max_bytes: int) -> BinaryIO:
    """Open an ordinary file of at most max_bytes for reading; pipes and devices are refused, as opening can block."""
    name = os.fsdecode(path)
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{name} cannot be read as an image: it is not an ordinary file")
        if about.st_size > max_bytes:
            raise ValueError(
                f"{name} cannot be read as an image: at most {max_bytes / 2**20:.3g} MiB are taken, "
                f"got {about.st_size / 2**20:.3g} MiB"
            )
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"no such image: {name}") from error
    except OSError as error:
        raise ValueError(f"{name} cannot be read as an image: {error.strerror or error}") from error


def _read_bytes(path: str | os.PathLike, max_bytes: int) -> bytes:
    with _open_file(path, max_bytes) as file:
        try:
            return file.read(max_bytes)
        except OSError as error:
            raise ValueError(f"{os.fsdecode(path)} cannot be read as an image: {error.strerror or error}") from error


@contextmanager
def _opened(
    file: BinaryIO, name: str, max_pixels: int, formats: Sequence[str] = FORMATS, *, what: str = "an image"
) -> Iterator[Image.Image]:
    """Open a Pillow image and check its header. Errors inside the block become a ValueError that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on odd metadata, and on sizes, which are checked here
            with Image.open(file, formats=formats) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise _Refusal(_too_many(max_pixels, f"{height} x {width} (height x width)"))
                yield image
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many types on broken files
        if isinstance(error, _Refusal):
            reason = str(error)
        elif isinstance(error, Image.DecompressionBombError):
            reason = _too_many(max_pixels, str(error))
        elif isinstance(error, Image.UnidentifiedImageError):
            reason = f"not an image in one of the formats {', '.join(formats)}"
            file.seek(0)
            header = _jpeg_header(file.read(MAX_BYTES))
            if header is not None and header.bits != 8:
                reason = f"its values have {header.bits} bits, and a JPEG is read with 8: save it with 8, or as a PNG"
        else:
            reason = f"the file is broken: {str(error) or type(error).__name__}"
        raise ValueError(f"{name} cannot be read as {what}: {reason}") from error


class _Refusal(ValueError):
    """What is wrong with an image, without its name."""


def _too_many(max_pixels: int, given: str) -> str:
    return f"image must have at most {max_pixels} pixels, got {given}: make it smaller"


class _JpegHeader(NamedTuple):
    size_hw: tuple[int, int]
    is_plain: bool  # 8 bits, gray or three colors, Huffman-coded
    bits: int  # per value
    num_channels: int
    has_metadata: bool  # EXIF or XMP, which may state an orientation


class _JpegSegment(NamedTuple):
    marker: int
    start: int  # of its two marker bytes
    end: int  # of its content


def _jpeg_segments(data: bytes) -> Iterator[_JpegSegment]:
    """Walk through the segments of a JPEG after its first marker, to the end mark of its first image or of the data."""
    position = 2
    while found := _JPEG_MARKER.search(data, position):
        marker, end = found[1][0], found.end()
        if marker not in (0x01, 0xD8, 0xD9):  # all others are followed by a length and content
            end += max(2, int.from_bytes(data[end : end + 2], "big"))
        yield _JpegSegment(marker, found.start(), end)
        if marker == 0xD9:
            return
        position = end


def _jpeg_header(data: bytes) -> _JpegHeader | None:
    """Read what the segments of a JPEG state; None if it is not one, or if the end mark or the size is missing."""
    if not data.startswith(_JPEG_START):
        return None
    size_hw, is_plain, bits, num_channels, has_metadata = None, False, 8, 0, False
    for marker, start, _ in _jpeg_segments(data):
        if marker == 0xD9:
            return None if size_hw is None else _JpegHeader(size_hw, is_plain, bits, num_channels, has_metadata)
        has_metadata |= marker == 0xE1
        if marker in _JPEG_FRAMES and size_hw is None:
            content = data[start + 4 : start + 10]
            size_hw = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
            bits, num_channels = int.from_bytes(content[:1], "big"), int.from_bytes(content[5:], "big")
            is_plain = marker <= 0xC2 and bits == 8 and num_channels in (1, 3)
    return None


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans of a progressive JPEG state all bits of all coefficients; True for other JPEGs.

    libjpeg shows a coarser image without a warning where the last scans are missing.
    """
    missing: dict[int, list[int]] = {}  # per component and coefficient, the lowest bit that was not stated, plus 1
    for marker, start, end in _jpeg_segments(data):
        content = data[start + 4 : end]
        if marker in _JPEG_FRAMES and marker != 0xC2:
            return True
        if marker == 0xC2:
            missing = {component: [14] * 64 for component in content[6::3]}
        elif marker == 0xDA and content:
            count = content[0]
            if len(content) < 4 + 2 * count:
                return False  # the scan's header is cut
            first, last, bits = content[1 + 2 * count : 4 + 2 * count]
            for component in content[1 : 1 + 2 * count : 2]:
                for number in range(first, min(last, 63) + 1):
                    missing.setdefault(component, [14] * 64)[number] = bits & 15
    return not any(map(any, missing.values()))


def _cleaned_jpeg(data: bytes) -> bytes:
    """Copy a JPEG without the oddities that libjpeg warns about and that cost no pixels; see the top of this module."""
    kept, position, in_scan, is_baseline = [data[:2]], 2, False, False
    for marker, start, end in _jpeg_segments(data):
        if in_scan:  # data between restart markers; before other markers there is none outside of a scan
            kept += [_JPEG_PADDING.sub(b"", part) for part in _JPEG_RESTART.split(data[position:start])]
        segment = data[start:end]
        in_scan |= marker == 0xDA
        is_baseline |= marker in (0xC0, 0xC1)
        if marker == 0xE0 and segment[4:9] == b"JFIF\0":
            segment = segment[:9] + b"\1" + segment[10:]
        elif marker == 0xDA and is_baseline:
            segment = segment[:-3] + b"\x00\x3f\x00"
        if not (marker == 0xE2 and segment[4:15] == b"ICC_PROFILE"):
            kept.append(segment)
        position = end
    return b"".join(kept)


def _check_whole(data: bytes) -> None:
    """Refuse a file whose end is missing, and a JPEG that libjpeg reports as damaged: Pillow does not always notice."""
    if data.startswith(_PNG_START):
        if _PNG_END not in data:
            raise _Refusal(_TRUNCATED)
        _check_png_rows(data)
    if data.startswith(_JPEG_START):
        header = _jpeg_header(data)
        _decode_jpeg(data, "CMYK" if header is not None and header.num_channels == 4 else "GRAY")


def _check_png_rows(data: bytes) -> None:
    """Refuse a PNG whose compressed data ends before its last row: Pillow leaves such rows black."""
    width, height, bits, color, *_, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    pixel_bits = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(color, 0)
    passes = _PNG_PASSES if interlaced else ((0, 0, 1, 1),)
    left = 0  # bytes, with one for each row's filter
    for x, y, step_x, step_y in passes:
        columns, rows = len(range(x, width, step_x)), len(range(y, height, step_y))
        left += rows * (1 + (columns * pixel_bits + 7) // 8) if columns else 0
    unpacked, position = zlib.decompressobj(), len(_PNG_START)
    while left > 0 and position + 8 <= len(data) and not unpacked.eof:
        length, kind = struct.unpack_from(">I4s", data, position)
        packed = data[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
        while packed and left > 0:
            try:
                left -= len(unpacked.decompress(packed, _BLOCK_VALUES))
            except zlib.error:  # Pillow names what is wrong
                return
            packed = unpacked.unconsumed_tail
        position += 12 + length
    if left > 0:
        raise _Refusal("the file is broken: its rows are not all there (image file is truncated)")
