"""Read and write flow files: Middlebury .flo, KITTI 16-bit PNG, Zhan et al.'s pair of 8-bit images, and .npz.

In memory a pixel of unknown motion is NaN, whatever marks it in the file. Files are written whole or not at all.
"""

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from cmp.files import write_file
from cmp.flow.bounded import MAX_DEFLATE_RATIO, read_npz, read_plain_file
from cmp.flow.field import check_flow, known_pixels, ratios_xy
from cmp.images import decode_gray8

MAX_PIXELS = 2**26  # a file that claims more (8192 x 8192) is taken for broken before memory is asked for
MAX_FILE_BYTES = 17 * MAX_PIXELS + 2**16  # of a flow file: MAX_PIXELS pixels of two float64 and a bool
BYTE_RANGE_PX = 50.0  # Zhan et al.'s 8-bit images span +-50 px

_FLO_MAGIC = b"PIEH"  # the float 202021.25, little-endian
_FLO_UNKNOWN = np.float32(1666666752.0)  # the value in the files of the Middlebury set
_KITTI_ZERO, _KITTI_STEPS_PER_PX = 32768, 64
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_JPEG_QUALITY = 95

PathLike = str | os.PathLike


def read_flow(path: PathLike | tuple[PathLike, PathLike], *, return_valid: bool = False):
    """Read a flow field in the format that the suffix of its file names.

    | path | format |
    | --- | --- |
    | `a.flo` | Middlebury: float32; beyond 1e9 px or NaN is unknown |
    | `a.png` | KITTI: 16-bit RGB, (value - 32768) / 64 px, R is x, G is y, B is 0 where unknown |
    | `a.npz` | array "flow" (H, W, 2) floating, and optionally "valid" (H, W) bool |
    | `(x.jpg, y.jpg)` | Zhan et al.'s two gray 8-bit images (.jpg, .jpeg or .png): byte / 255 * 100 - 50 px |

    Args:
        path: one path, or the pair (x image, y image).
        return_valid: also return which pixels are known.

    Returns:
        (H, W, 2) float32 px, NaN where unknown; with `return_valid` also (H, W) bool, True where known.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the content does not match the suffix, is cut short or too long, or claims more than 2**26 pixels or
            more than its bytes can contain (checked before memory is allocated); the file has over 1.06 GiB, or is a
            pipe or a device; the images of a pair differ in size; the suffix is unknown. The message names the file.

    Source: the format notes of each data set; the 8-bit rule is Zhan et al.'s (its steps are 0.39 px, and 0 is read as
    +-0.196).
    """
    if isinstance(path, (tuple, list)):
        flow = np.asarray(open_flow_pair(path))
        return (flow, np.ones(flow.shape[:2], bool)) if return_valid else flow  # every byte is a number
    else:
        path = Path(path)
        readers = {".flo": _parse_flo, ".png": parse_kitti_png, ".npz": _parse_npz}
        read = readers[_single_suffix(path, readers)]
        flow = read(read_plain_file(path, MAX_FILE_BYTES), str(path))
    valid = known_pixels(flow)
    flow[~valid] = np.nan
    return (flow, valid) if return_valid else flow


def write_flow(
    path: PathLike | tuple[PathLike, PathLike], flow: np.ndarray, *, valid: np.ndarray | None = None
) -> None:
    """Write a flow field in the format that the suffix names (see `read_flow`).

    The file gets its name when it is complete (`cmp.files`), so no reader finds half a file. Of a pair each image is
    written separately. Precision: .flo and .npz keep float32 exactly, and KITTI rounds to 1/64 px. The pair rounds to
    100/255 px, loses more by JPEG at quality 95, and is clipped at +-50 px as Zhan et al.'s files are.

    Args:
        path: one path (.flo, .png for KITTI, .npz) or a pair of images (.jpg, .jpeg, .png).
        flow: (H, W, 2) floating px, H and W at least 1. Not changed.
        valid: (H, W) bool, False where unknown. Default: NaN and components beyond 1e9 px are unknown.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: shape, dtype or suffix are wrong; a valid pixel is not finite; a component is outside KITTI's range
            (-512 to 511.98 px); or a pixel is unknown, which a pair cannot store.
    """
    flow = check_flow(flow)
    if flow.size == 0:
        raise ValueError(f"a flow file needs at least one pixel, got shape {flow.shape}")
    known = known_pixels(flow)
    if valid is None:
        valid = known
    else:
        valid = np.asarray(valid)
        if valid.shape != flow.shape[:2] or valid.dtype != np.bool_:
            raise ValueError(f"valid must be bool {flow.shape[:2]}, got {valid.dtype} {valid.shape}")
        if (valid & ~known).any():
            raise ValueError("flow is not finite (or beyond 1e9 px) at a pixel that valid says is known")
    if isinstance(path, (tuple, list)):
        paths = _pair_of_paths(path)
        if not valid.all():
            raise ValueError(f"a pair of 8-bit images cannot mark unknown pixels: {paths[0]}, {paths[1]}")
        coded = flow_to_bytes8(flow)
        encoded = [_encode_gray8(coded[..., channel], paths[channel].suffix) for channel in (0, 1)]
        for one, data in zip(paths, encoded):
            write_file(one, data)
    else:
        path = Path(path)
        writers: dict[str, Callable] = {".flo": _format_flo, ".png": format_kitti_png, ".npz": _format_npz}
        write_file(path, writers[_single_suffix(path, writers)](flow, valid))


def flow_to_bytes8(flow: np.ndarray) -> np.ndarray:
    """Code (H, W, 2) px as (H, W, 2) uint8, the inverse of `bytes8_to_flow`: the nearest byte, clipped at +-50 px."""
    return np.clip(np.rint((flow + BYTE_RANGE_PX) * (255 / (2 * BYTE_RANGE_PX))), 0, 255).astype(np.uint8)


def bytes8_to_flow(coded: np.ndarray) -> np.ndarray:
    """Decode uint8 of any shape as float32 px: byte / 255 * 100 - 50. Source: Zhan et al.'s data."""
    return coded.astype(np.float32) * np.float32(2 * BYTE_RANGE_PX / 255) - np.float32(BYTE_RANGE_PX)


def parse_kitti_png(data: bytes, name: str) -> np.ndarray:
    """Decode a KITTI flow PNG to (H, W, 2) float32 px, NaN where unknown.

    Raises:
        ValueError: it is not such a file, is broken, or claims too many pixels; the message starts with `name`.
    """
    if not data.startswith(_PNG_START) or len(data) < 33:
        raise ValueError(f"{name}: not a PNG file")
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    if (depth, kind) != (16, 2):
        raise ValueError(f"{name}: KITTI flow is 16-bit RGB (color type 2), got {depth}-bit, color type {kind}")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: claims {width} x {height} pixels, more than {MAX_PIXELS}")
    if height * (6 * width + 1) > MAX_DEFLATE_RATIO * len(data):
        raise ValueError(f"{name}: claims {width} x {height} pixels, more than its {len(data)} bytes can hold")
    # OpenCV returns the readable part of a cut file without an error; the end mark shows whether it is whole.
    coded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data.endswith(_PNG_END) else None
    if coded is None or coded.shape != (height, width, 3) or coded.dtype != np.uint16:
        raise ValueError(f"{name}: broken, cut short or followed by other bytes")
    flow = (coded[..., :0:-1].astype(np.float32) - _KITTI_ZERO) / _KITTI_STEPS_PER_PX  # OpenCV gives valid, y, x
    flow[coded[..., 0] == 0] = np.nan
    return flow


def format_kitti_png(flow: np.ndarray, valid: np.ndarray) -> bytes:
    """Encode (H, W, 2) px and (H, W) bool as a KITTI flow PNG; ValueError beyond -512 to 511.98 px."""
    steps = np.rint(np.where(valid[..., None], flow, 0) * _KITTI_STEPS_PER_PX) + _KITTI_ZERO
    if steps.min() < 0 or steps.max() > 65535:
        raise ValueError(f"KITTI PNG takes -512 to 511.98 px, got up to {np.abs(flow[valid]).max():g} px")
    coded = np.zeros((*flow.shape[:2], 3), np.uint16)
    coded[..., :0:-1] = np.where(valid[..., None], steps, 0)
    coded[..., 0] = valid
    return cv2.imencode(".png", coded)[1].tobytes()


class ByteFlow:
    """A `cmp.flow.FlowField` of Zhan et al.'s bytes, decoded where it is asked for.

    Args:
        coded: (H, W, 2) uint8, see `bytes8_to_flow`. It is not copied.
    """

    def __init__(self, coded: np.ndarray) -> None:
        self._coded = coded
        self.shape: tuple[int, int, int] = coded.shape

    def window(self, size_hw: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
        """See `FlowField.window`."""
        from cmp.flow.resample import by_column, window_of  # with scipy, which not every reader needs

        def read(rows: slice, columns: slice, factors: np.ndarray) -> np.ndarray:
            return bytes8_to_flow(by_column(self._coded[rows, columns])) * factors

        sizes = [(side,) for side in self.shape[:2]]
        return window_of(read, sizes, size_hw, (rows, columns), ratios_xy(self.shape, size_hw))

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> np.ndarray:
        return bytes8_to_flow(self._coded).astype(dtype or np.float32, copy=False)


def open_flow_pair(paths: tuple[PathLike, PathLike]) -> ByteFlow:
    """Open flow stored as two gray 8-bit images without converting it to px yet; errors as `read_flow`."""
    path_x, path_y = _pair_of_paths(paths)
    coded_x, coded_y = (
        decode_gray8(read_plain_file(path, MAX_FILE_BYTES), os.fsdecode(path)) for path in (path_x, path_y)
    )
    if coded_x.shape != coded_y.shape:
        raise ValueError(f"{path_x} is {coded_x.shape} but {path_y} is {coded_y.shape} (height, width)")
    return ByteFlow(cv2.merge((coded_x, coded_y)))


def _parse_flo(data: bytes, name: str) -> np.ndarray:
    if len(data) < 12 or data[:4] != _FLO_MAGIC:
        raise ValueError(f"{name}: not a .flo file (it must start with the float 202021.25)")
    width, height = struct.unpack("<ii", data[4:12])
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"{name}: claims {width} x {height} pixels, expected 1 to {MAX_PIXELS} in all")
    if len(data) != 12 + 8 * width * height:
        raise ValueError(f"{name}: {width} x {height} pixels take {12 + 8 * width * height} bytes, got {len(data)}")
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)


def _format_flo(flow: np.ndarray, valid: np.ndarray) -> bytes:
    height, width = valid.shape
    marked = np.where(valid[..., None], flow, _FLO_UNKNOWN).astype("<f4")
    return _FLO_MAGIC + struct.pack("<ii", width, height) + marked.tobytes()


def _parse_npz(data: bytes, name: str) -> np.ndarray:
    arrays = read_npz(data, name, max_bytes=MAX_FILE_BYTES, keys=("flow", "valid"), check=_check_npz)
    try:
        flow, valid = check_flow(arrays["flow"]), arrays.get("valid")
    except (KeyError, ValueError) as error:
        raise ValueError(f'{name}: not an .npz file with a floating (H, W, 2) array "flow" ({error})') from error
    flow = flow.copy()
    if valid is not None:
        if valid.dtype != np.bool_ or valid.shape != flow.shape[:2]:
            raise ValueError(f'{name}: "valid" must be bool {flow.shape[:2]}, got {valid.dtype} {valid.shape}')
        flow[~valid] = np.nan
    return flow


def _check_npz(key: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    wanted = {"flow": (3, "f"), "valid": (2, "b")}[key]
    if (len(shape), dtype.kind) != wanted or 0 in shape or int(np.prod(shape[:2], dtype=object)) > MAX_PIXELS:
        raise ValueError(
            f'"{key}" is {dtype} {shape}, expected {"bool (H, W)" if key == "valid" else "floating (H, W, 2)"}'
        )


def _format_npz(flow: np.ndarray, valid: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    arrays = {"flow": np.where(valid[..., None], flow, np.float32(np.nan))}
    if not valid.all():
        arrays["valid"] = valid
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _encode_gray8(image: np.ndarray, suffix: str) -> bytes:
    options = [] if suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    return cv2.imencode(suffix.lower(), np.ascontiguousarray(image), options)[1].tobytes()


def _single_suffix(path: Path, known: dict) -> str:
    suffix = path.suffix.lower()
    if suffix not in known:
        hint = " (8-bit images come as a pair of paths)" if suffix in _IMAGE_SUFFIXES else ""
        raise ValueError(f"{path}: flow files end in {', '.join(known)}{hint}")
    return suffix


def _pair_of_paths(paths) -> tuple[Path, Path]:
    if len(paths) != 2:
        raise ValueError(f"a pair of flow images is (path_x, path_y), got {len(paths)} paths")
    path_x, path_y = Path(paths[0]), Path(paths[1])
    for path in (path_x, path_y):
        if path.suffix.lower() not in _IMAGE_SUFFIXES:
            raise ValueError(f"{path}: flow images end in {', '.join(_IMAGE_SUFFIXES)}")
    if path_x == path_y:
        raise ValueError(f"{path_x}: x and y need two different images")
    return path_x, path_y
