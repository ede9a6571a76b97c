"""Walk through the packets of a video file to find how many frames it really has and when each is shown."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import av
import numpy as np

from cmp.images import orientation_of, turned_size
from cmp.video.gif import fix_gif

# The formats that FFmpeg may detect. Excluded are still images, and lists by which one file opens others, also over the
# network (concat, hls, dash).
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,vvc,av1,obu,ivf,flv,live_flv,asf,"
    "asf_o,ogg,yuv4mpegpipe,mjpeg,mjpeg_2000,jpeg_pipe,dv,gif,apng,mxf,nut,rm,gxf,lxf,wtv,dirac,vc1,cavsvideo,h263,h261,swf,nsv"
)
_INDEXED = ("mov,", "matroska,")  # containers with a table of key frames (FFmpeg's names begin so)
_ERR_DETECT = "crccheck+bitstream+buffer"  # without it, decoders of old formats silently invent damaged parts
_MAX_PIXELS = 1 << 27  # of a frame; 16k x 8k. A file of a few kilobytes can have frames of any size
MAX_FRAMES = 1 << 22  # of a file: 38 hours at 30 frames/s. A frame takes about 40 bytes here, and maybe 10 in the file


@dataclass(frozen=True)
class FileProbe:
    """What one walk through a file's packets finds, with only the first frame decoded."""

    times_s: np.ndarray  # (N,) float64, rising, 0 first
    pts: np.ndarray | None  # (N,) int64 presentation stamps in stream units, rising; None if they are not reliable
    keys: np.ndarray  # (K,) int64 positions of the key frames, rising; empty if jumps to them must not be tried
    fps: float
    coded_size_hw: tuple[int, int]
    orientation: int  # how a decoded frame is turned or mirrored to be shown, numbered as in EXIF: see `images.turn`
    problem: str | None  # what is wrong with the file; None if nothing was found

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of an upright frame, px."""
        return turned_size(self.coded_size_hw, self.orientation)


def probe_file(path: str | os.PathLike, on_work: Callable[[], None] | None = None) -> FileProbe:
    """Walk through the packets of the best video stream.

    Args:
        path: the file.
        on_work: called every 500 packets.

    Raises:
        ValueError: not a video, no video stream, no frame that can be decoded, or more than `MAX_FRAMES` frames (the
            message names the file).
    """
    walk = _walk(path, on_work)
    if walk.first is None or not walk.stamps:
        raise ValueError(f"{path}: no frame can be decoded" + (f"; {walk.problem}" if walk.problem else ""))
    problem = walk.problem
    if problem is None and walk.claimed > len(walk.stamps):
        problem = f"the container claims {walk.claimed} frames and contains {len(walk.stamps)}"

    first_orientation = orientation_of_frame(walk.first)
    pts = np.array(walk.stamps, np.int64)
    walk.stamps = array("q")  # frees them
    pts.sort()
    times_s = (pts - pts[0]) * walk.time_base
    # Packets come in decoding order. If it goes back, the file contains two recordings, and sorting would mix their
    # frames.
    is_in_order = bool((np.diff(pts) > 0).all()) and walk.time_base > 0 and not walk.goes_back
    rising = len(pts) == 1 or (is_in_order and walk.has_stamps)
    if rising and len(pts) > 1:
        fps = (len(pts) - 1) / times_s[-1]
    else:  # stamps are missing, as in raw streams, or repeat: space the frames evenly
        fps = walk.rate if walk.rate > 0 else 25.0
        times_s = np.arange(len(pts)) / fps
    if problem is None and walk.goes_back:
        problem = "the time stamps go back: several recordings in one file"
    if problem is None and walk.claimed_s > 1.05 * times_s[-1] + 3 / fps:
        problem = f"the container claims {walk.claimed_s:.1f} s, and its frames end after {times_s[-1]:.1f} s"
    trusted = walk.has_pts and rising
    return FileProbe(
        times_s=times_s,
        pts=pts if trusted else None,
        keys=np.searchsorted(pts, np.sort(np.array(walk.key_stamps if trusted and walk.can_jump else [], np.int64))),
        fps=walk.rate if walk.rate > 0 and len(pts) == 1 else fps,
        coded_size_hw=(walk.first.height, walk.first.width),
        orientation=first_orientation,
        problem=problem,
    )


@dataclass
class _Walk:
    """What the packets and the header of a video stream state, before it is checked.

    stamps: of all packets, in decoding order; key_stamps: of the key frames. Both in stream units.
    first: the first frame that can be decoded, or None.
    has_pts: every packet has a presentation stamp; has_stamps: at least one packet has a stamp of any kind.
    goes_back: the decoding stamps do not rise.
    claimed, claimed_s: frames and length, s, that the container claims; 0 if it claims none.
    rate: frames per second by the header; 0 if it states none.
    problem: why reading ended early, or None.
    """

    can_jump: bool
    has_pts: bool
    claimed: int
    claimed_s: float
    time_base: float
    rate: float
    stamps: array = field(default_factory=lambda: array("q"))  # Python integers would take five times the memory
    key_stamps: array = field(default_factory=lambda: array("q"))
    first: av.VideoFrame | None = None
    has_stamps: bool = False
    goes_back: bool = False
    problem: str | None = None


def _walk(path: str | os.PathLike, on_work: Callable[[], None] | None) -> _Walk:
    """Read all packets of the best video stream, and decode its first frame; raises ValueError as `probe_file`."""
    try:
        with open_container(path) as (container, stream):
            walk = _Walk(
                can_jump=container.format.name.startswith(_INDEXED),
                has_pts=container.format.name != "avi",  # AVI states none: FFmpeg's guesses come out of order
                claimed=stream.frames,
                claimed_s=_claimed_duration(container, stream),
                time_base=float(stream.time_base or 0),
                rate=float(stream.average_rate or 0),
            )
            _check_count(walk.claimed, path)
            try:
                _read_packets(walk, packets(container, stream), path, on_work)
            except av.FFmpegError as error:
                walk.problem = f"breaks off after {len(walk.stamps)} frames ({reason_of(error)})"
            walk.problem = walk.problem or fix_gif(path).problem
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as a video ({reason_of(error)})") from error
    return walk


def _read_packets(
    walk: _Walk, found: Iterator[av.Packet], path: str | os.PathLike, on_work: Callable[[], None] | None
) -> None:
    last_dts = None
    for packet in found:
        if walk.first is None:
            try:
                walk.first = next(iter(packet.decode()), None)
            except av.FFmpegError as error:
                walk.problem = f"frames at the start cannot be decoded ({reason_of(error)})"
        if packet.size == 0 or packet.is_discard:  # discarded: outside the edit list, never shown
            continue
        if on_work is not None and len(walk.stamps) % 500 == 0:
            on_work()
        walk.has_pts &= packet.pts is not None
        if packet.dts is not None:
            walk.goes_back |= last_dts is not None and packet.dts < last_dts
            last_dts = packet.dts
        if packet.is_keyframe and packet.pts is not None:
            walk.key_stamps.append(packet.pts)
        _check_count(len(walk.stamps) + 1, path)
        stamp = packet.pts if packet.pts is not None else packet.dts
        walk.has_stamps |= stamp is not None
        walk.stamps.append(stamp if stamp is not None else (walk.stamps[-1] + 1 if walk.stamps else 0))


def orientation_of_frame(frame: av.VideoFrame) -> int:
    """Read the orientation in which a decoded frame is to be shown from its display matrix, as in EXIF (1 to 8).

    All eight rotations and reflections are as ffmpeg's autorotation shows them; other angles become the nearest of
    them. Without a matrix, or with one that maps the frame to a line, the orientation is 1.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1
    # Nine numbers in rows a b u, c d v, x y w: the point (x, y) is shown at (a x + c y, b x + d y), but for a shift.
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32, 9).tolist()
    if a * d == b * c:
        return 1
    if abs(a) * abs(d) >= abs(b) * abs(c):
        return orientation_of(False, reverse_rows=d < 0, reverse_columns=a < 0)
    return orientation_of(True, reverse_rows=b < 0, reverse_columns=c < 0)


def _check_count(count: int, path: str | os.PathLike) -> None:
    if count > MAX_FRAMES:
        raise ValueError(f"{path}: has more than {MAX_FRAMES} frames, and no more are read; cut it into shorter files")


def packets(container, stream) -> Iterator[av.Packet]:
    """Yield all packets of a stream. After damage FFmpeg raises "try again"; this continues up to 1,000 times."""
    repeated = 0
    while True:
        try:
            for packet in container.demux(stream):
                repeated = 0
                yield packet
            return
        except av.BlockingIOError:
            repeated += 1
            if repeated == 1000:  # without a packet in between
                raise


def _claimed_duration(container, stream) -> float:
    """The duration of the video in seconds, as the container states it; 0 if it states none."""
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


@contextmanager
def open_container(path: str | os.PathLike):
    """Open a video file: a context manager that gives (container, best video stream).

    Raises ValueError if the file has no video stream, or no decoder knows it; av.FFmpegError or OSError if it cannot be
    opened.
    """
    path = os.path.abspath(path)  # so that no file name is taken for a protocol
    file = fix_gif(path).file
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:  # FFmpeg takes only text as a name, so it gets the open file
        file = file or open(path, "rb")
    try:
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        with av.open(file or path, metadata_errors="replace", container_options=options) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise ValueError(f"{path}: has no video stream")
            if stream.codec_context is None:
                raise ValueError(f"{path}: no decoder for its video stream")
            stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS), "err_detect": _ERR_DETECT}
            yield container, stream
    finally:
        if file is not None:
            file.close()


def reason_of(error: BaseException) -> str:
    """The first line of an error, shortened; decord appends its C++ stack, FFmpeg the whole path."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
