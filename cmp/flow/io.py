"""Flow files: Middlebury .flo, KITTI 16-bit PNG, the CMP authors' pair of 8-bit pictures, and .npz.

In memory a pixel of unknown motion is NaN, whatever marks it in the file. Files are written whole or not at all.
"""

import io
import os
import struct
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cmp.flow.field import check_flow, known_pixels

MAX_PIXELS = 2**26  # a file that claims more (8192 x 8192) is taken for broken before memory is asked for
BYTE_RANGE_PX = 50.0  # the authors' 8-bit pictures span +-50 px

_FLO_MAGIC = b"PIEH"  # the float 202021.25, little-endian
_FLO_UNKNOWN = np.float32(1666666752.0)  # what the Middlebury set itself writes
_KITTI_ZERO, _KITTI_STEPS_PER_PX = 32768, 64
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
_JPEG_QUALITY = 95

PathLike = str | os.PathLike


def read_flow(path: PathLike | tuple[PathLike, PathLike], *, return_valid: bool = False):
    """Read a flow field; the suffix says how.

    | path | format |
    | --- | --- |
    | `a.flo` | Middlebury: float32; beyond 1e9 px or NaN is unknown |
    | `a.png` | KITTI: 16-bit RGB, (value - 32768) / 64 px, R is x, G is y, B is 0 where unknown |
    | `a.npz` | array "flow" (H, W, 2) floating, and if there "valid" (H, W) bool |
    | `(x.jpg, y.jpg)` | the authors' two grey 8-bit pictures (.jpg, .jpeg or .png): byte / 255 * 100 - 50 px |

    Args:
        path: one path, or the pair (x picture, y picture).
        return_valid: also say which pixels are known.

    Returns:
        (H, W, 2) float32 px, NaN where unknown; with `return_valid` also (H, W) bool, True where known.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not what its suffix says, is cut short or too long, or claims over 2**26 pixels; a pair
            differs in size; the suffix is unknown. The message names the file.

    Source: the sets' own format notes; the 8-bit rule is the CMP authors' (its steps are 0.39 px, and 0 reads as
    +-0.196).
    """
    if isinstance(path, (tuple, list)):
        flow = _read_pair(*_pair_of_paths(path))
    else:
        path = Path(path)
        readers = {".flo": _parse_flo, ".png": parse_kitti_png, ".npz": _parse_npz}
        flow = readers[_single_suffix(path, readers)](path.read_bytes(), str(path))
    valid = known_pixels(flow)
    flow[~valid] = np.nan
    return (flow, valid) if return_valid else flow


def write_flow(
    path: PathLike | tuple[PathLike, PathLike], flow: np.ndarray, *, valid: np.ndarray | None = None
) -> None:
    """Write a flow field in the format its suffix names (see `read_flow`).

    The bytes go to a temporary file in the same folder, which then takes the name: a reader never meets half a file.
    (Of a pair each picture by itself.) Precision: .flo and .npz keep float32 exactly, KITTI rounds to 1/64 px, the pair
    to 100/255 px plus what JPEG at quality 95 loses, and clips at +-50 px as the authors' files do.

    Args:
        path: one path (.flo, .png for KITTI, .npz) or a pair of pictures (.jpg, .jpeg, .png).
        flow: (H, W, 2) floating px, H and W at least 1. Not changed.
        valid: (H, W) bool, False where unknown. Default: NaN and components beyond 1e9 px are unknown.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: shape, dtype or suffix are wrong; a valid pixel is not finite; KITTI is asked for more than it holds
            (-512 to 511.98 px); a pair is asked to hold an unknown pixel.
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
            raise ValueError(f"a pair of 8-bit pictures cannot mark unknown pixels: {paths[0]}, {paths[1]}")
        coded = flow_to_bytes8(flow)
        encoded = [_encode_grey8(coded[..., channel], paths[channel].suffix) for channel in (0, 1)]
        for one, data in zip(paths, encoded):
            _write_whole(one, data)
    else:
        path = Path(path)
        writers: dict[str, Callable] = {".flo": _format_flo, ".png": format_kitti_png, ".npz": _format_npz}
        _write_whole(path, writers[_single_suffix(path, writers)](flow, valid))


def flow_to_bytes8(flow: np.ndarray) -> np.ndarray:
    """(H, W, 2) px to (H, W, 2) uint8 by the authors' rule turned round: the nearest byte, clipped at +-50 px."""
    return np.clip(np.rint((flow + BYTE_RANGE_PX) * (255 / (2 * BYTE_RANGE_PX))), 0, 255).astype(np.uint8)


def bytes8_to_flow(coded: np.ndarray) -> np.ndarray:
    """(..., 2) uint8 to float32 px: byte / 255 * 100 - 50. Source: the CMP authors' data."""
    return coded.astype(np.float32) * np.float32(2 * BYTE_RANGE_PX / 255) - np.float32(BYTE_RANGE_PX)


def decode_grey8(data: bytes, name: str) -> np.ndarray:
    """The bytes of a grey 8-bit JPEG or PNG to (H, W) uint8; ValueError, with `name`, where it is anything else."""
    try:
        # Pillow and not OpenCV: OpenCV fills the missing part of a cut JPEG with grey and says nothing.
        with Image.open(io.BytesIO(data)) as picture:
            mode, (width, height) = picture.mode, picture.size
            if width * height <= MAX_PIXELS and mode == "L":
                return np.array(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: not a whole picture ({error})") from error
    if mode != "L":
        raise ValueError(f"{name}: a flow picture must be 8-bit grey, got mode {mode}")
    raise ValueError(f"{name}: claims {width} x {height} pixels, more than {MAX_PIXELS}")


def parse_kitti_png(data: bytes, name: str) -> np.ndarray:
    """The bytes of a KITTI flow PNG to (H, W, 2) float32 px, NaN where unknown; `name` is for the message."""
    if not data.startswith(_PNG_START) or len(data) < 33:
        raise ValueError(f"{name}: not a PNG file")
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    if (depth, kind) != (16, 2):
        raise ValueError(f"{name}: KITTI flow is 16-bit RGB (colour type 2), got {depth}-bit, colour type {kind}")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: claims {width} x {height} pixels, more than {MAX_PIXELS}")
    # OpenCV returns what it could read of a cut file; the end mark tells.
    coded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data.endswith(_PNG_END) else None
    if coded is None or coded.shape != (height, width, 3) or coded.dtype != np.uint16:
        raise ValueError(f"{name}: broken, cut short or followed by other bytes")
    flow = (coded[..., :0:-1].astype(np.float32) - _KITTI_ZERO) / _KITTI_STEPS_PER_PX  # OpenCV gives valid, y, x
    flow[coded[..., 0] == 0] = np.nan
    return flow


def format_kitti_png(flow: np.ndarray, valid: np.ndarray) -> bytes:
    """(H, W, 2) px and (H, W) bool to the bytes of a KITTI flow PNG; ValueError beyond -512 to 511.98 px."""
    steps = np.rint(np.where(valid[..., None], flow, 0) * _KITTI_STEPS_PER_PX) + _KITTI_ZERO
    if steps.min() < 0 or steps.max() > 65535:
        raise ValueError(f"KITTI PNG holds -512 to 511.98 px, got up to {np.abs(flow[valid]).max():g} px")
    coded = np.zeros((*flow.shape[:2], 3), np.uint16)
    coded[..., :0:-1] = np.where(valid[..., None], steps, 0)
    coded[..., 0] = valid
    return cv2.imencode(".png", coded)[1].tobytes()


def _read_pair(path_x: Path, path_y: Path) -> np.ndarray:
    coded_x, coded_y = (decode_grey8(path.read_bytes(), str(path)) for path in (path_x, path_y))
    if coded_x.shape != coded_y.shape:
        raise ValueError(f"{path_x} is {coded_x.shape} but {path_y} is {coded_y.shape} (height, width)")
    return bytes8_to_flow(np.stack((coded_x, coded_y), axis=2))


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
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            flow = _npz_array(archive, "flow", name, ndim=3)
            valid = _npz_array(archive, "valid", name, ndim=2) if "valid.npy" in archive.namelist() else None
        flow = check_flow(flow)
    except (zipfile.BadZipFile, KeyError, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(f'{name}: not an .npz file with a floating (H, W, 2) array "flow" ({error})') from error
    flow = flow.copy()
    if valid is not None:
        if valid.dtype != np.bool_ or valid.shape != flow.shape[:2]:
            raise ValueError(f'{name}: "valid" must be bool {flow.shape[:2]}, got {valid.dtype} {valid.shape}')
        flow[~valid] = np.nan
    return flow


def _npz_array(archive: zipfile.ZipFile, key: str, name: str, *, ndim: int) -> np.ndarray:
    # numpy allocates what the header claims before it reads, so the header is looked at first.
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version not in headers:
            raise ValueError(f"array format {version} is not supported")
        shape, _, dtype = headers[version](member)
    if len(shape) != ndim or int(np.prod(shape[:2], dtype=object)) > MAX_PIXELS or 0 in shape or dtype.hasobject:
        raise ValueError(f'"{key}" is {dtype} {shape}')
    with archive.open(f"{key}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _format_npz(flow: np.ndarray, valid: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    arrays = {"flow": np.where(valid[..., None], flow, np.float32(np.nan))}
    if not valid.all():
        arrays["valid"] = valid
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _encode_grey8(picture: np.ndarray, suffix: str) -> bytes:
    options = [] if suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    return cv2.imencode(suffix.lower(), np.ascontiguousarray(picture), options)[1].tobytes()


def _single_suffix(path: Path, known: dict) -> str:
    suffix = path.suffix.lower()
    if suffix not in known:
        hint = " (8-bit pictures come as a pair of paths)" if suffix in _PICTURE_SUFFIXES else ""
        raise ValueError(f"{path}: flow files end in {', '.join(known)}{hint}")
    return suffix


def _pair_of_paths(paths) -> tuple[Path, Path]:
    if len(paths) != 2:
        raise ValueError(f"a pair of flow pictures is (path_x, path_y), got {len(paths)} paths")
    path_x, path_y = Path(paths[0]), Path(paths[1])
    for path in (path_x, path_y):
        if path.suffix.lower() not in _PICTURE_SUFFIXES:
            raise ValueError(f"{path}: flow pictures end in {', '.join(_PICTURE_SUFFIXES)}")
    if path_x == path_y:
        raise ValueError(f"{path_x}: x and y need a picture each")
    return path_x, path_y


def _write_whole(path: Path, data: bytes) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder does not exist")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
