"""Codecs that store dense flow as bytes, and measure the error they make on each field.

| codec | keeps | loses |
| --- | --- | --- |
| "half16" (default) | half the pixels along each axis, in steps of 1/16 px | what bilinear doubling cannot restore |
| "png16" | every pixel in steps of 1/64 px; the payload is a KITTI flow PNG | 1/128 px |
| "jpeg8" | the two gray JPEGs of Zhan et al.'s data, bytes over +-50 px | 0.1 px and more, and all beyond 50 px |
| "float16" | every pixel in half precision | under 0.05 % of each component |
| "float32" | everything | nothing |

OpenCV's DIS at its medium preset computes at half resolution and doubles bilinearly, so "half16" restores its fields
almost exactly. A field with sharper edges (ground truth) loses more; the header states how much.
`tools/benchmark/codec.py` measures all codecs.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

try:  # the same bytes, nearly three times as fast
    from isal import isal_zlib as inflate
except ImportError:
    import zlib as inflate  # type: ignore[no-redef]

from cmp.flow.field import DenseFlow, FlowField, check_flow, ratios_xy
from cmp.flow.io import (
    BYTE_RANGE_PX,
    MAX_PIXELS,
    ByteFlow,
    flow_to_bytes8,
    format_kitti_png,
    parse_kitti_png,
)
from cmp.images import decode_gray8

_HALF_STEP_PX = 1 / 16
_FIT_ROUNDS = 3  # each removes over half of the remaining error of a DIS flow and takes 1 ms at 480 x 360
_JPEG_QUALITY = 95  # on top of 8 bits it costs 0.01 px in the mean


class _Codec(NamedTuple):
    bound_px: float  # largest component that fits
    step_px: float | None  # spacing of values; None where it grows with the value
    clips: bool  # what lies beyond the bound is clipped (True) or refused
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes, int, int], FlowField]


def encode_flow(flow: np.ndarray, codec: str = "half16") -> tuple[bytes, dict]:
    """Encode a dense flow field.

    Args:
        flow: (H, W, 2) floating px, H and W at least 1, every value finite (fill unknown pixels first and store their
            mask separately). Not changed.
        codec: a name of `CODECS`.

    Returns:
        The payload, and a header of plain JSON values: "codec", "height", "width", "bound_px" (largest component that
        fits), "step_px" (spacing of stored values; null where it grows with the value), and "mean_error_px" and
        "max_error_px": distances between this flow and what `decode_flow` will return for it. The same flow gives the
        same bytes under the same versions of zlib and OpenCV.

    Raises:
        ValueError: unknown codec, wrong shape or dtype, a value that is not finite, or one beyond the codec's bound
            ("jpeg8" clips instead, as Zhan et al.'s data does; the measured error includes that).
    """
    entry = _codec(codec)
    flow = check_flow(flow)
    height, width = flow.shape[:2]
    if flow.size == 0 or height * width > MAX_PIXELS:
        raise ValueError(f"flow must have 1 to {MAX_PIXELS} pixels, got shape {flow.shape}")
    if not np.isfinite(flow).all():
        raise ValueError("flow must be finite to be stored; fill unknown pixels and store their mask separately")
    largest = float(np.abs(flow).max())
    if largest > entry.bound_px and not entry.clips:
        raise ValueError(f"codec {codec!r} holds up to {entry.bound_px:g} px, got {largest:g} px")
    payload = entry.encode(flow)
    # In float32: float64 would double the encoding time.
    difference = np.asarray(entry.decode(payload, height, width)) - flow
    error = np.hypot(difference[..., 0], difference[..., 1])
    return payload, {
        "codec": codec,
        "height": height,
        "width": width,
        "bound_px": entry.bound_px,
        "step_px": entry.step_px,
        "mean_error_px": float(error.mean(dtype=np.float64)),
        "max_error_px": float(error.max()),
    }


def decode_flow(payload: bytes, header: dict) -> np.ndarray:
    """Decode what `encode_flow` made.

    Args:
        payload: the bytes.
        header: needs "codec", "height" and "width".

    Returns:
        (height, width, 2) float32 px.

    Raises:
        ValueError: as `open_flow`.
    """
    return np.asarray(open_flow(payload, header))


def open_flow(payload: bytes, header: dict) -> FlowField:
    """Open what `encode_flow` made without decoding more than necessary.

    A "half16" payload is inflated here and decoded when a window or the whole field is asked for. The other codecs are
    decoded at once.

    Args:
        payload, header: as `decode_flow`.

    Returns:
        The field; `numpy.asarray` gives all of it, `window` a part of it at any size.

    Raises:
        ValueError: the header lacks an entry or names an unknown codec, or the payload is cut, too long, or not of
            that codec and size.
    """
    missing = [key for key in ("codec", "height", "width") if key not in header]
    if missing:
        raise ValueError(f"flow header lacks {', '.join(missing)}; it has {', '.join(map(str, header)) or 'nothing'}")
    height, width = header["height"], header["width"]
    sizes_fit = all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in (height, width))
    if not sizes_fit or height * width > MAX_PIXELS:
        raise ValueError(
            f"flow header: height and width must be whole, 1 to {MAX_PIXELS} px in all, got {height!r} x {width!r}"
        )
    return _codec(header["codec"]).decode(payload, height, width)


def _encode_half16(flow: np.ndarray) -> bytes:
    height, width = flow.shape[:2]
    small_size, size = _half_size(height, width)[::-1], (width, height)
    # Averaging alone would blur twice. Each round adds what doubling does not restore (gradient descent on the squared
    # error).
    small = cv2.resize(flow, small_size, interpolation=cv2.INTER_AREA)
    for _ in range(_FIT_ROUNDS):
        lost = flow - cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)
        small += cv2.resize(lost, small_size, interpolation=cv2.INTER_AREA)
    steps = np.clip(np.rint(small / _HALF_STEP_PX), -32767, 32767)
    return _pack(steps.astype(np.int16))


class HalfSizeFlow:
    """A `FlowField` of the codec "half16": inflated, but neither summed up nor doubled yet.

    shape: (height, width, 2) of the field. small_shape: shape of the stored field of half the size.
    """

    def __init__(self, payload: bytes, height: int, width: int) -> None:
        self.shape = height, width, 2
        self.small_shape = *_half_size(height, width), 2
        self._planes = _inflate(payload, self.small_shape, np.int16)

    def small(self, rows: slice, columns: slice) -> np.ndarray:
        """Decode a window of the stored field of half the size.

        Args:
            rows, columns: slices with start and stop.

        Returns:
            (rows, columns, 2) float32, px of the whole field.
        """
        steps = _unfold(self._planes, np.int16, rows, columns).reshape(columns.stop - columns.start, -1, 2)
        return cv2.transpose(steps).astype(np.float32) * np.float32(_HALF_STEP_PX)

    def window(self, size_hw: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
        """See `FlowField.window`. Doubling and resizing are one matrix product."""
        from cmp.flow.resample import window_of  # with scipy, which not every reader needs

        def read(rows: slice, columns: slice, factors: np.ndarray) -> np.ndarray:
            # The step is a power of two, so it makes no difference to the rounding which factor comes first.
            return _unfold(self._planes, np.int16, rows, columns) * (factors * np.float32(_HALF_STEP_PX))

        sizes = list(zip(self.small_shape[:2], self.shape[:2]))
        return window_of(read, sizes, size_hw, (rows, columns), ratios_xy(self.shape, size_hw))

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> np.ndarray:
        (height, width, _), (half_height, half_width, _) = self.shape, self.small_shape
        small = self.small(slice(0, half_height), slice(0, half_width))
        flow = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        return flow.astype(dtype or np.float32, copy=False)


def _half_size(height: int, width: int) -> tuple[int, int]:
    return (height + 1) // 2, (width + 1) // 2


def _encode_png16(flow: np.ndarray) -> bytes:
    return format_kitti_png(flow, np.ones(flow.shape[:2], bool))


def _decode_png16(payload: bytes, height: int, width: int) -> DenseFlow:
    flow = parse_kitti_png(payload, "png16 payload")
    if flow.shape[:2] != (height, width):
        raise ValueError(f"png16 payload is {flow.shape[:2]}, its header says {(height, width)}")
    return DenseFlow(flow)


def _encode_jpeg8(flow: np.ndarray) -> bytes:
    coded = flow_to_bytes8(flow)
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    x, y = (cv2.imencode(".jpg", np.ascontiguousarray(coded[..., i]), options)[1].tobytes() for i in (0, 1))
    return struct.pack("<II", len(x), len(y)) + x + y


def _decode_jpeg8(payload: bytes, height: int, width: int) -> ByteFlow:
    if len(payload) < 8 or len(payload) != 8 + sum(struct.unpack("<II", payload[:8])):
        raise ValueError(f"jpeg8 payload of {len(payload)} bytes is cut or too long")
    split = 8 + struct.unpack("<I", payload[:4])[0]
    planes = [
        decode_gray8(part, f"jpeg8 payload, {axis}") for axis, part in (("x", payload[8:split]), ("y", payload[split:]))
    ]
    if any(plane.shape != (height, width) for plane in planes):
        raise ValueError(f"jpeg8 payload is {[plane.shape for plane in planes]}, its header says {(height, width)}")
    return ByteFlow(cv2.merge(planes))


def _encode_float16(flow: np.ndarray) -> bytes:
    return _pack(flow.astype(np.float16).view(np.int16))


def _decode_float16(payload: bytes, height: int, width: int) -> DenseFlow:
    return DenseFlow(_unpack(payload, (height, width, 2), np.int16).view(np.float16))


def _encode_float32(flow: np.ndarray) -> bytes:
    return _pack(np.ascontiguousarray(flow).view(np.int32))


def _decode_float32(payload: bytes, height: int, width: int) -> DenseFlow:
    return DenseFlow(_unpack(payload, (height, width, 2), np.int32).view(np.float32))


def _pack(values: np.ndarray) -> bytes:
    """Compress (H, W, 2) signed integers without loss.

    Each value is predicted as left + up - upper left, and the differences are deflated. Differences wrap around, and
    so do the sums that undo them. Small differences of either sign become small positive numbers, so their high bytes
    are zero; high bytes are stored separately from low bytes. Deflate's run-length mode is seven times faster here than
    its default, and the result 8 % smaller.
    """
    surprise = np.diff(np.diff(values, axis=0, prepend=values.dtype.type(0)), axis=1, prepend=values.dtype.type(0))
    bits = 8 * values.itemsize
    folded = (surprise << 1) ^ (surprise >> (bits - 1))
    low_to_high = np.ascontiguousarray(folded.astype(f"<i{values.itemsize}", copy=False)).view(np.uint8)
    planes = low_to_high.reshape(-1, values.itemsize).T
    deflater = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return deflater.compress(planes.tobytes()) + deflater.flush()


def _unpack(payload: bytes, shape: tuple[int, int, int], dtype: type) -> np.ndarray:
    """Undo `_pack`: (H, W, 2) of the signed integer dtype; ValueError if the bytes are damaged or of another shape."""
    values = _unfold(_inflate(payload, shape, dtype), dtype, slice(0, shape[0]), slice(0, shape[1]))
    return np.ascontiguousarray(values.reshape(shape[1], shape[0], 2).transpose(1, 0, 2))


def _inflate(payload: bytes, shape: tuple[int, int, int], dtype: type) -> np.ndarray:
    """Inflate what `_pack` made: (bytes per value, H, 2 W) uint8, low bytes first."""
    itemsize = np.dtype(dtype).itemsize
    expected = int(np.prod(shape)) * itemsize
    inflater = inflate.decompressobj()
    try:
        data = inflater.decompress(payload, expected + 1)  # a forged payload gets no more memory than its header states
    except (zlib.error, inflate.error) as error:  # type: ignore[misc]
        raise ValueError(f"flow payload is broken ({error})") from error
    if len(data) != expected or not inflater.eof or inflater.unused_data:
        raise ValueError(f"flow payload is cut or of another size: {len(payload)} bytes do not contain {shape}")
    return np.frombuffer(data, np.uint8).reshape(itemsize, shape[0], -1)


def _unfold(planes: np.ndarray, dtype: type, rows: slice, columns: slice) -> np.ndarray:
    """Decode a window of the array whose bytes `_inflate` returned: (columns, rows * 2) of the signed integer dtype.

    It is stored column by column, as `cmp.flow.resample.window_of` needs it. Values below and to the right of the
    window are not touched; those above and to the left are only added up.
    """
    start = [plane[: rows.stop, : 2 * columns.stop] for plane in planes]
    folded = cv2.merge(start).view(f"<u{len(planes)}").reshape(rows.stop, 2 * columns.stop)
    folded = folded.astype(folded.dtype.newbyteorder("="), copy=False)
    sign = folded & folded.dtype.type(1)
    np.negative(sign, out=sign)
    folded >>= folded.dtype.type(1)
    folded ^= sign
    surprise = folded.view(dtype)
    _add_up(surprise)
    by_column = cv2.transpose(surprise[rows].reshape(-1, columns.stop, 2)).reshape(columns.stop, -1)
    _add_up(by_column)
    return by_column[columns]


def _add_up(values: np.ndarray) -> None:
    """Replace each row by the sum of all rows up to it, in place.

    `numpy.cumsum` goes down one column after the other and takes two to four times as long.
    """
    above = values[0]
    for row in values[1:]:
        np.add(row, above, out=row)
        above = row


def _codec(name: str) -> _Codec:
    if name not in _CODECS:
        raise ValueError(f"codec must be one of {', '.join(CODECS)}, got {name!r}")
    return _CODECS[name]


_CODECS = {
    "half16": _Codec(32767 * _HALF_STEP_PX, _HALF_STEP_PX, False, _encode_half16, HalfSizeFlow),
    "png16": _Codec(32767 / 64, 1 / 64, False, _encode_png16, _decode_png16),
    "jpeg8": _Codec(BYTE_RANGE_PX, 2 * BYTE_RANGE_PX / 255, True, _encode_jpeg8, _decode_jpeg8),
    "float16": _Codec(65504.0, None, False, _encode_float16, _decode_float16),
    "float32": _Codec(float(np.finfo(np.float32).max), None, False, _encode_float32, _decode_float32),
}
CODECS = tuple(_CODECS)
