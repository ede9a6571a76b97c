"""Compact storage of dense flow: a few named ways to turn a field into bytes, each with its error measured.

| codec | keeps | loses |
| --- | --- | --- |
| "half16" (default) | half the pixels along each axis, in steps of 1/16 px | what bilinear doubling cannot give back |
| "png16" | every pixel in steps of 1/64 px; the payload is a KITTI flow PNG | 1/128 px |
| "jpeg8" | the CMP authors' two grey JPEGs, bytes over +-50 px | 0.1 px and more, and all beyond 50 px |
| "float16" | every pixel in half precision | under 0.05 % of each component |
| "float32" | everything | nothing |

OpenCV's DIS at its medium preset works at half resolution and doubles bilinearly, so "half16" gives it back almost
whole; a field with sharper edges (ground truth) loses more, and the header says how much. `tools/benchmark/codec.py`
measures all of them.
"""

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

try:  # the same bytes, nearly three times as fast
    from isal import isal_zlib as inflate
except ImportError:
    import zlib as inflate

from cmp.flow.field import check_flow
from cmp.flow.io import (
    BYTE_RANGE_PX,
    MAX_PIXELS,
    bytes8_to_flow,
    decode_grey8,
    flow_to_bytes8,
    format_kitti_png,
    parse_kitti_png,
)

_HALF_STEP_PX = 1 / 16
_FIT_ROUNDS = 3  # each takes over half of the remaining error of a DIS flow away, and 1 ms at 480 x 360
_JPEG_QUALITY = 95  # on top of 8 bits it costs 0.01 px in the mean


class _Codec(NamedTuple):
    bound_px: float  # largest component that fits
    step_px: float | None  # spacing of values; None where it grows with the value
    clips: bool  # what lies beyond the bound is clipped (True) or refused
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes, int, int], "np.ndarray | HalfSizeFlow"]


def encode_flow(flow: np.ndarray, codec: str = "half16") -> tuple[bytes, dict]:
    """Encode a dense flow field.

    Args:
        flow: (H, W, 2) floating px, H and W at least 1, every value finite (fill unknown pixels first and keep their
            mask apart). Not changed.
        codec: a name of `CODECS`.

    Returns:
        The payload, and a header of plain JSON values: "codec", "height", "width", "bound_px" (largest component that
        fits), "step_px" (spacing of stored values; null where it grows with the value), and "mean_error_px" and
        "max_error_px": distance between the flow that went in and the one that will come out, measured on this very
        field. The same flow gives the same bytes (as long as zlib's and OpenCV's own versions stay).

    Raises:
        ValueError: unknown codec, wrong shape or dtype, a value that is not finite, or one beyond the codec's bound
            ("jpeg8" clips instead, as the authors' data does: the measured error then tells).
    """
    entry = _codec(codec)
    flow = check_flow(flow)
    height, width = flow.shape[:2]
    if flow.size == 0 or height * width > MAX_PIXELS:
        raise ValueError(f"flow must have 1 to {MAX_PIXELS} pixels, got shape {flow.shape}")
    if not np.isfinite(flow).all():
        raise ValueError("flow must be finite to be stored: fill unknown pixels and keep their mask apart")
    largest = float(np.abs(flow).max())
    if largest > entry.bound_px and not entry.clips:
        raise ValueError(f"codec {codec!r} holds up to {entry.bound_px:g} px, got {largest:g} px")
    payload = entry.encode(flow)
    # In float32: half the encoding time went into more digits.
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


def open_flow(payload: bytes, header: dict) -> "np.ndarray | HalfSizeFlow":
    """As `decode_flow`, but "half16" stays small: `cmp.flow.resample` takes windows of it, `numpy.asarray` all.

    Raises:
        ValueError: the header lacks an entry or names no codec, or the payload is cut, too long, or not of that codec
            and size.
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
    # Averaging alone would blur twice. Each round adds what doubling fails to give back (a gradient descent on the
    # squared error).
    small = cv2.resize(flow, small_size, interpolation=cv2.INTER_AREA)
    for _ in range(_FIT_ROUNDS):
        lost = flow - cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)
        small += cv2.resize(lost, small_size, interpolation=cv2.INTER_AREA)
    steps = np.clip(np.rint(small / _HALF_STEP_PX), -32767, 32767)
    return _pack(steps.astype(np.int16))


class HalfSizeFlow:
    """A "half16" field, inflated and no more; `numpy.asarray` decodes it whole.

    shape: (height, width, 2) of the field. small_shape: of the field of half its size that it is doubled from.
    """

    def __init__(self, payload: bytes, height: int, width: int) -> None:
        self.shape = height, width, 2
        self.small_shape = *_half_size(height, width), 2
        self._planes = _inflate(payload, self.small_shape, np.int16)

    def small(self, rows: slice, columns: slice) -> np.ndarray:
        """A window (rows, columns, 2) float32, px of the whole field, of the field before doubling; start and stop."""
        return _unfold(self._planes, np.int16, rows, columns).astype(np.float32) * np.float32(_HALF_STEP_PX)

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> np.ndarray:
        (height, width, _), (half_height, half_width, _) = self.shape, self.small_shape
        small = self.small(slice(0, half_height), slice(0, half_width))
        flow = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        return flow.astype(dtype or np.float32, copy=False)


def _half_size(height: int, width: int) -> tuple[int, int]:
    return (height + 1) // 2, (width + 1) // 2


def _encode_png16(flow: np.ndarray) -> bytes:
    return format_kitti_png(flow, np.ones(flow.shape[:2], bool))


def _decode_png16(payload: bytes, height: int, width: int) -> np.ndarray:
    flow = parse_kitti_png(payload, "png16 payload")
    if flow.shape[:2] != (height, width):
        raise ValueError(f"png16 payload is {flow.shape[:2]}, its header says {(height, width)}")
    return flow


def _encode_jpeg8(flow: np.ndarray) -> bytes:
    coded = flow_to_bytes8(flow)
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    x, y = (cv2.imencode(".jpg", np.ascontiguousarray(coded[..., i]), options)[1].tobytes() for i in (0, 1))
    return struct.pack("<II", len(x), len(y)) + x + y


def _decode_jpeg8(payload: bytes, height: int, width: int) -> np.ndarray:
    if len(payload) < 8 or len(payload) != 8 + sum(struct.unpack("<II", payload[:8])):
        raise ValueError(f"jpeg8 payload of {len(payload)} bytes is cut or too long")
    split = 8 + struct.unpack("<I", payload[:4])[0]
    planes = [
        decode_grey8(part, f"jpeg8 payload, {axis}") for axis, part in (("x", payload[8:split]), ("y", payload[split:]))
    ]
    if any(plane.shape != (height, width) for plane in planes):
        raise ValueError(f"jpeg8 payload is {[plane.shape for plane in planes]}, its header says {(height, width)}")
    return bytes8_to_flow(np.stack(planes, axis=2))


def _encode_float16(flow: np.ndarray) -> bytes:
    return _pack(flow.astype(np.float16).view(np.int16))


def _decode_float16(payload: bytes, height: int, width: int) -> np.ndarray:
    return _unpack(payload, (height, width, 2), np.int16).view(np.float16).astype(np.float32)


def _encode_float32(flow: np.ndarray) -> bytes:
    return _pack(np.ascontiguousarray(flow).view(np.int32))


def _decode_float32(payload: bytes, height: int, width: int) -> np.ndarray:
    return _unpack(payload, (height, width, 2), np.int32).view(np.float32)


def _pack(values: np.ndarray) -> bytes:
    """(H, W, 2) signed integers to bytes, exactly: what left + up - upper left fails to foresee, deflated.

    Differences wrap around, sums wrap back. Small ones of either sign become small positives, so their high bytes are
    zero; those lie apart from the low bytes. Looking for runs only makes deflate seven times faster and the result 8 %
    smaller than its default.
    """
    surprise = np.diff(np.diff(values, axis=0, prepend=values.dtype.type(0)), axis=1, prepend=values.dtype.type(0))
    bits = 8 * values.itemsize
    folded = (surprise << 1) ^ (surprise >> (bits - 1))
    low_to_high = np.ascontiguousarray(folded.astype(f"<i{values.itemsize}", copy=False)).view(np.uint8)
    planes = low_to_high.reshape(-1, values.itemsize).T
    deflater = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return deflater.compress(planes.tobytes()) + deflater.flush()


def _unpack(payload: bytes, shape: tuple[int, int, int], dtype: type) -> np.ndarray:
    """The reverse of `_pack`: (H, W, 2) of the signed integer dtype; ValueError where the bytes are not that."""
    return _unfold(_inflate(payload, shape, dtype), dtype, slice(0, shape[0]), slice(0, shape[1]))


def _inflate(payload: bytes, shape: tuple[int, int, int], dtype: type) -> np.ndarray:
    """The bytes of `_pack`, low ones first: (bytes a value, H, 2 W) uint8."""
    itemsize = np.dtype(dtype).itemsize
    expected = int(np.prod(shape)) * itemsize
    inflater = inflate.decompressobj()
    try:
        data = inflater.decompress(payload, expected + 1)  # a false payload cannot ask for more memory than its header
    except (zlib.error, inflate.error) as error:
        raise ValueError(f"flow payload is broken ({error})") from error
    if len(data) != expected or not inflater.eof or inflater.unused_data:
        raise ValueError(f"flow payload is cut or of another size: {len(payload)} bytes do not hold {shape}")
    return np.frombuffer(data, np.uint8).reshape(itemsize, shape[0], -1)


def _unfold(planes: np.ndarray, dtype: type, rows: slice, columns: slice) -> np.ndarray:
    """A window of the array that `_inflate` gives the bytes of, as the signed integer dtype: (rows, columns, 2).

    What lies below and to the right of it is not touched, what lies above and to the left only added up.
    """
    start = [plane[: rows.stop, : 2 * columns.stop] for plane in planes]
    folded = cv2.merge(start).view(f"<u{len(planes)}").reshape(rows.stop, columns.stop, 2)
    folded = folded.astype(folded.dtype.newbyteorder("="), copy=False)
    sign = folded & folded.dtype.type(1)
    np.negative(sign, out=sign)
    folded >>= folded.dtype.type(1)
    folded ^= sign
    surprise = folded.view(dtype)
    surprise[rows.start] += surprise[: rows.start].sum(axis=0, dtype=dtype)
    return surprise[rows].cumsum(axis=1, dtype=dtype)[:, columns].cumsum(axis=0, dtype=dtype)


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
