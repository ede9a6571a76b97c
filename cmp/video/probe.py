"""Walk through a video file's packets: how many frames it has and when each is shown, before any of it is believed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
import numpy as np

# What FFmpeg may take a file for. Not what is left: lists by which one file opens others, also over the network
# (concat, hls, dash), and pictures.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,vvc,av1,obu,ivf,flv,live_flv,asf,"
    "asf_o,ogg,yuv4mpegpipe,mjpeg,mjpeg_2000,jpeg_pipe,dv,gif,apng,mxf,nut,rm,gxf,lxf,wtv,dirac,vc1,cavsvideo,h263,h261,swf,nsv"
)
_INDEXED = ("mov,", "matroska,")  # containers with a table of key frames (FFmpeg's names begin so)
_ERR_DETECT = "crccheck+bitstream+buffer"  # or decoders of old formats make damaged parts up without a word
_MAX_PIXELS = 1 << 27  # of a frame; 16k x 8k. A few kilobytes can claim, and fill, any size


@dataclass(frozen=True)
class FileProbe:
    """What one walk through a file's packets tells, without decoding more than its first frame."""

    times_s: np.ndarray  # (N,) float64, rising, 0 first
    pts: np.ndarray | None  # (N,) int64 presentation stamps in stream units, rising; None if not to be relied on
    keys: np.ndarray  # (K,) int64 positions of the key frames, rising; empty if jumping to them is not to be tried
    fps: float
    coded_size_hw: tuple[int, int]
    quarter_turns: int  # counter-clockwise turns by 90 degrees that put a decoded frame upright
    problem: str | None

    @property
    def size_hw(self) -> tuple[int, int]:
        height, width = self.coded_size_hw
        return (width, height) if self.quarter_turns % 2 else (height, width)


def probe_file(path: str | os.PathLike, on_work: Callable[[], None] | None = None) -> FileProbe:
    """Walk through the packets of the best video stream; `on_work` is called every 500.

    Raises:
        ValueError: not a video, no video stream, or no frame that can be decoded (the message names the file).
    """
    stamps: list[int] = []
    key_stamps: list[int] = []
    last_dts = None
    has_pts, has_stamps, goes_back = False, False, False
    first = None
    problem = None
    try:
        with open_container(path) as (container, stream):
            claimed, claimed_s = stream.frames, _claimed_duration(container, stream)
            can_jump = container.format.name.startswith(_INDEXED)
            has_pts = container.format.name != "avi"  # AVI states none: FFmpeg's guesses come out of order
            time_base = float(stream.time_base or 0)
            rate = float(stream.average_rate or 0)
            try:
                for packet in packets(container, stream):
                    if first is None:
                        try:
                            first = next(iter(packet.decode()), None)
                        except av.FFmpegError as error:
                            problem = f"frames at the start cannot be decoded ({reason_of(error)})"
                    if packet.size == 0 or packet.is_discard:  # discarded: outside the edit list, never shown
                        continue
                    if on_work is not None and len(stamps) % 500 == 0:
                        on_work()
                    has_pts &= packet.pts is not None
                    if packet.dts is not None:
                        goes_back |= last_dts is not None and packet.dts < last_dts
                        last_dts = packet.dts
                    if packet.is_keyframe and packet.pts is not None:
                        key_stamps.append(packet.pts)
                    stamp = packet.pts if packet.pts is not None else packet.dts
                    has_stamps |= stamp is not None
                    stamps.append(stamp if stamp is not None else (stamps[-1] + 1 if stamps else 0))
            except av.FFmpegError as error:
                problem = f"breaks off after {len(stamps)} frames ({reason_of(error)})"
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as a video ({reason_of(error)})") from error
    if first is None or not stamps:
        raise ValueError(f"{path}: no frame can be decoded" + (f"; {problem}" if problem else ""))
    if problem is None and claimed > len(stamps):
        problem = f"the container claims {claimed} frames and holds {len(stamps)}"

    pts = np.sort(np.asarray(stamps, np.int64))
    times_s = (pts - pts[0]) * time_base
    # Packets come in the order of decoding: where that goes back, two recordings share the file, and sorting would mix
    # their frames.
    is_in_order = bool((np.diff(pts) > 0).all()) and time_base > 0 and not goes_back
    rising = len(pts) == 1 or (is_in_order and has_stamps)
    if rising and len(pts) > 1:
        fps = (len(pts) - 1) / times_s[-1]
    else:  # there are none, as in raw streams, or they repeat, which tells nothing: space the frames evenly
        fps = rate if rate > 0 else 25.0
        times_s = np.arange(len(pts)) / fps
    if problem is None and goes_back:
        problem = "the time stamps go back: several recordings in one file"
    if problem is None and claimed_s > 1.05 * times_s[-1] + 3 / fps:
        problem = f"the container claims {claimed_s:.1f} s, and its frames end after {times_s[-1]:.1f} s"
    quarter_turns = round(first.rotation / 90) % 4
    trusted = has_pts and rising
    return FileProbe(
        times_s=times_s,
        pts=pts if trusted else None,
        keys=np.searchsorted(pts, np.sort(key_stamps)) if trusted and can_jump else np.empty(0, np.int64),
        fps=rate if rate > 0 and len(pts) == 1 else fps,
        coded_size_hw=(first.height, first.width),
        quarter_turns=quarter_turns,
        problem=problem,
    )


def packets(container, stream) -> Iterator[av.Packet]:
    """All packets of a stream; goes on where FFmpeg says "try again", which it does after damage."""
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
    """Seconds that the container says its video lasts; 0 if it says nothing."""
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


@contextmanager
def open_container(path: str | os.PathLike):
    """Yield (container, best video stream). An absolute path, so that no file name reads as a protocol."""
    path = os.path.abspath(path)
    file = None
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:  # a name that is not text: FFmpeg wants text, so hand it the open file
        file = open(path, "rb")
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
    """One short line of an error; decord appends its C++ stack, FFmpeg the whole path."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
