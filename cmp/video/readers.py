"""Read frames of a video in rising order: PyAV, decord and folders of frames behind one protocol.

Frames are streamed in bounded batches and come upright (rotation metadata applied) as RGB. A video that breaks off
gives what can be read; the reader's `problem` then says what is wrong. Decoders are not believed: the container is
walked once, packet by packet, and that walk tells how many frames there are and when each is shown.

PyAV is the first choice. Decord, as fast on one thread, can hang for ever in native code on broken files, decodes on
without bound while its caller is busy, and gives garbage without a word where parameters change on the way (several
recordings joined without re-encoding). It is the second opinion where PyAV crashes or hangs; for that, jobs over many
videos run readers in child processes that can be killed (`data_prep.executors`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import av
import cv2
import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
BACKENDS = ("auto", "decord", "pyav", "frames")
_BATCH_BYTES = 16 << 20  # frames asked of decord at a time; one frame is always allowed
# What FFmpeg may take a file for. Not what is left: lists by which one file opens others, also over the network
# (concat, hls, dash), and pictures.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,vvc,av1,obu,ivf,flv,live_flv,asf,"
    "asf_o,ogg,yuv4mpegpipe,mjpeg,mjpeg_2000,jpeg_pipe,dv,gif,apng,mxf,nut,rm,gxf,lxf,wtv,dirac,vc1,cavsvideo,h263,h261,swf,nsv"
)
_INDEXED = ("mov,", "matroska,")  # containers with a table of key frames (FFmpeg's names begin so)
_WORTH_A_JUMP = 48  # frames that need not be decoded
_MAX_PIXELS = 1 << 27  # of a frame; 16k x 8k. A few kilobytes can claim, and fill, any size
_DECORD_BYTES = 256 << 20  # decord is trusted with files whose frames, all together, stay below this


class Frame(NamedTuple):
    """One decoded frame: its position from 0, seconds since the first frame, and (H, W, 3) uint8 RGB, upright."""

    index: int
    time_s: float
    image: np.ndarray


class VideoReader(Protocol):
    """What every reader offers. Use it as a context manager, or call `close`."""

    backend: str  # who delivers the frames
    num_frames: int  # frames the file holds as far as can be told without decoding them; fewer may be readable
    fps: float  # frames per second, averaged over the file
    size_hw: tuple[int, int]  # upright height and width, px
    times_s: np.ndarray  # (num_frames,) float64, seconds since the first frame, rising
    problem: str | None  # what is wrong with the file, so far as met; complete once `read` has ended

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Yield the frames at these strictly rising positions; ends early, with `problem` set, where the file breaks.

        Raises ValueError if the positions do not rise, or lie outside [0, num_frames). Call it once per reader.
        """

    def close(self) -> None: ...

    def __enter__(self) -> VideoReader: ...

    def __exit__(self, *exc: object) -> None: ...


def open_video(
    path: str | os.PathLike,
    backend: str = "auto",
    *,
    folder_fps: float = 25.0,
    on_work: Callable[[], None] | None = None,
) -> VideoReader:
    """Open a video file or a folder of frames.

    Args:
        path: a video file, or a folder that holds .jpg/.jpeg/.png frames.
        backend: "auto" is "frames" for a folder and "pyav" for a file. "decord" refuses what it is known to read badly:
            files stored rotated, files whose time stamps it sees otherwise than the container states, and files whose
            frames would fill more than 256 MiB (seen: 4 GB on 9,000 frames of 640 x 360; a call of its `seek`, which
            would stop that, makes frames come out wrong).
        folder_fps: frames per second assumed for a folder of frames, which states none.
        on_work: called now and then by what can take long without giving a frame: the walk through a file's packets,
            and decoding frames between those asked for (but not by decord).

    Raises:
        ValueError: an unknown backend, or the file cannot be read as a video (the message names it): also pipes,
            devices and sockets, which are never opened, since they need not have an end.
        FileNotFoundError: nothing is there.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such video")
    if path.is_dir() != (backend == "frames") and backend != "auto":
        raise ValueError(f"{path}: backend {backend!r} cannot read a {'folder' if path.is_dir() else 'file'}")
    if path.is_dir():
        return FramesReader(path, fps=folder_fps)
    if not path.is_file():
        raise ValueError(f"{path}: is a pipe, a device or a socket, not a file")
    probe = probe_file(path, on_work)
    return DecordReader(path, probe) if backend == "decord" else PyavReader(path, probe, on_work)


def natural_key(name: str) -> tuple:
    """Sort key that puts frame10 after frame9."""
    return tuple((0, int(part), part) if part.isdigit() else (1, 0, part) for part in re.split(r"([0-9]+)", name))


def list_frames(folder: str | os.PathLike) -> list[str]:
    """Names of the image files directly in a folder, in natural order; hidden files are left out."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if is_frame_name(entry.name) and entry.is_file()]
    return sorted(names, key=natural_key)


def is_frame_name(name: str) -> bool:
    """Whether a file of this name counts as one frame of a folder."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


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
    has_pts, goes_back = False, False
    first = None
    problem = None
    try:
        with _open_container(path) as (container, stream):
            claimed, claimed_s = stream.frames, _claimed_duration(container, stream)
            can_jump = container.format.name.startswith(_INDEXED)
            has_pts = container.format.name != "avi"  # AVI states none: FFmpeg's guesses come out of order
            time_base = float(stream.time_base or 0)
            rate = float(stream.average_rate or 0)
            try:
                for packet in _packets(container, stream):
                    if first is None:
                        try:
                            first = next(iter(packet.decode()), None)
                        except av.FFmpegError as error:
                            problem = f"frames at the start cannot be decoded ({_reason(error)})"
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
                    stamps.append(stamp if stamp is not None else (stamps[-1] + 1 if stamps else 0))
            except av.FFmpegError as error:
                problem = f"breaks off after {len(stamps)} frames ({_reason(error)})"
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as a video ({_reason(error)})") from error
    if first is None or not stamps:
        raise ValueError(f"{path}: no frame can be decoded" + (f"; {problem}" if problem else ""))
    if problem is None and claimed > len(stamps):
        problem = f"the container claims {claimed} frames and holds {len(stamps)}"

    pts = np.sort(np.asarray(stamps, np.int64))
    times_s = (pts - pts[0]) * time_base
    # Packets come in the order of decoding: where that goes back, two recordings share the file, and sorting would mix
    # their frames.
    rising = len(pts) == 1 or (bool((np.diff(pts) > 0).all()) and time_base > 0 and not goes_back)
    if rising and len(pts) > 1:
        fps = (len(pts) - 1) / times_s[-1]
    else:  # stamps that repeat tell nothing: space the frames evenly
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


def _packets(container, stream) -> Iterator[av.Packet]:
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


class _Reader:
    """The part all readers share: closing, and the check of the positions asked for."""

    def close(self) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _checked(self, indices: Iterable[int]) -> list[int]:
        wanted = [int(i) for i in indices]
        if any(b <= a for a, b in zip(wanted, wanted[1:])):
            raise ValueError("frame positions must rise strictly")
        if wanted and (wanted[0] < 0 or wanted[-1] >= self.num_frames):
            raise ValueError(f"frame positions must lie in [0, {self.num_frames}), got {wanted[0]} .. {wanted[-1]}")
        return wanted

    def _note(self, problem: str) -> None:
        if self.problem is None:
            self.problem = problem


class PyavReader(_Reader):
    """FFmpeg through PyAV, one thread: decodes straight through and converts only the frames asked for.

    Where the next frame asked for lies far ahead, it jumps over what lies between: to the last key frame but one before
    it, so that a whole group of pictures is decoded before the one that counts, and nothing can refer to what was
    jumped over. That gives the same frames or is not done: a frame is placed by its time stamp, not by where the jump
    should have led; the first frame that a jump would bring is decoded both ways, and if they differ no jump is made.
    Decoding always begins with the first packet, which may say who encoded the file and so how to decode the rest.
    """

    backend = "pyav"

    def __init__(self, path: str | os.PathLike, probe: FileProbe, on_work: Callable[[], None] | None = None) -> None:
        self._path, self._probe, self._on_work = path, probe, on_work
        self.num_frames, self.fps, self.size_hw = len(probe.times_s), probe.fps, probe.size_hw
        self.times_s, self.problem = probe.times_s, probe.problem
        self._position_of = {} if probe.pts is None else dict(zip(probe.pts.tolist(), range(len(probe.pts))))
        self._jumps: bool | None = None  # whether jumps give the same frames; None: not tried yet

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        wanted = self._checked(indices)
        return self._read(wanted)

    def _read(self, wanted: list[int]) -> Iterator[Frame]:
        given = 0
        try:
            with _open_container(self._path) as (container, stream):
                stream.thread_type = "NONE"
                frames, index, decoded = self._decoded(container, stream), -1, None
                for target in wanted:
                    if index < 0:
                        index, decoded = next(frames, (self.num_frames, None))
                    start = self._jump(index, target)
                    by_jump = None
                    if start is not None and self._jumps:
                        container.seek(int(self._probe.pts[start]), stream=stream)
                        frames = self._decoded(container, stream, index, start)
                    elif start is not None:
                        by_jump = self._image_by_jump(start, target)
                        self._jumps = False  # until the same image has come straight
                    while index < target:
                        index, decoded = next(frames, (self.num_frames, None))
                    if decoded is None:
                        break
                    if index > target:
                        self._note(f"frame {target} cannot be decoded")
                        continue
                    if (decoded.height, decoded.width) != self._probe.coded_size_hw:
                        self._note(f"the frame size changes at frame {index}")
                        return
                    image = self._upright(decoded)
                    if by_jump is not None:
                        self._jumps = np.array_equal(by_jump, image)
                    given += 1
                    yield Frame(index, float(self.times_s[index]), image)
        except (av.FFmpegError, OSError) as error:
            self._note(f"reading broke off after {given} of {len(wanted)} frames ({_reason(error)})")
        if given < len(wanted):
            self._note(f"reading ended after {given} of {len(wanted)} frames")

    def _upright(self, decoded: av.VideoFrame) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(decoded.to_ndarray(format="rgb24"), self._probe.quarter_turns))

    def _jump(self, index: int, target: int) -> int | None:
        """The key frame to jump to on the way from a frame to a later one; None if decoding on is as good."""
        before = int(np.searchsorted(self._probe.keys, target, side="right")) - 2
        if before < 0 or self._jumps is False or self._probe.keys[before] < index + _WORTH_A_JUMP:
            return None
        return int(self._probe.keys[before])

    def _image_by_jump(self, start: int, target: int) -> np.ndarray | None:
        try:
            with _open_container(self._path) as (container, stream):
                stream.thread_type = "NONE"
                next(self._decoded(container, stream), None)
                container.seek(int(self._probe.pts[start]), stream=stream)
                for index, decoded in self._decoded(container, stream, -1, start):
                    if index >= target:
                        return self._upright(decoded) if index == target and self._jumps is None else None
        except (av.FFmpegError, OSError):
            pass
        return None

    def _decoded(
        self, container, stream, last: int = -1, start: int | None = None
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Every frame after `last` that decodes, with its position; damaged packets are stepped over.

        start: the key frame that was jumped to. If decoding begins behind it, this goes back to the beginning.
        """
        landed = start is None
        for packet in _packets(container, stream):
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                self._note(f"damaged after frame {last} ({_reason(error)})")
                continue
            for frame in frames:
                # The stamp tells the position even where frames before it were lost; else count, but not after a jump.
                index = self._position_of.get(frame.pts, last + 1 if start is None else -1)
                if not landed and index > start:
                    self._jumps = False
                    container.seek(int(self._probe.pts[0]), stream=stream)
                    yield from self._decoded(container, stream, last)
                    return
                landed |= index >= 0
                if last < index < self.num_frames:
                    last = index
                    if self._on_work is not None and index % 32 == 0:
                        self._on_work()
                    yield index, frame


class DecordReader(_Reader):
    """decord, one thread, batches of rising positions; for what it refuses see `open_video`."""

    backend = "decord"

    def __init__(self, path: str | os.PathLike, probe: FileProbe) -> None:
        import decord  # a slow import with native code: only where it is used

        decord.logging.set_level(decord.logging.QUIET)
        if probe.quarter_turns:
            raise ValueError(f"{path}: is stored rotated, which decord undoes for some containers only")
        if len(probe.times_s) * 3 * probe.size_hw[0] * probe.size_hw[1] > _DECORD_BYTES:
            raise ValueError(f"{path}: is too long for decord, whose memory grows with it")
        try:
            self._reader = decord.VideoReader(os.path.abspath(path), ctx=decord.cpu(0), num_threads=1)
            count = len(self._reader)
            starts = np.asarray(self._reader.get_frame_timestamp(range(count)), np.float64).reshape(-1, 2)[:, 0]
        except Exception as error:  # decord's own classes derive from Exception alone
            raise ValueError(f"{path}: decord cannot open it ({_reason(error)})") from error
        # Its seeks go by these stamps, and its count takes in frames that never come: if it disagrees with the
        # container, its frames cannot be placed.
        if count != len(probe.times_s) or np.abs(starts - probe.times_s).max() > 0.5 / probe.fps:
            raise ValueError(f"{path}: decord's time table does not agree with the container's")
        self.num_frames, self.fps, self.size_hw = count, probe.fps, probe.size_hw
        self.times_s, self.problem = probe.times_s, probe.problem

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        wanted = self._checked(indices)
        return self._read(wanted)

    def _read(self, wanted: list[int]) -> Iterator[Frame]:
        height, width = self.size_hw
        if wanted and wanted[0] > 0:  # the first packet may say how to decode the rest, and decord would jump over it
            try:
                self._reader.get_batch([0])
            except Exception as error:  # decord's own classes derive from Exception alone
                self._note(f"decord cannot read the first frame ({_reason(error)})")
                return
        batch_size = max(1, min(16, _BATCH_BYTES // (3 * height * width)))
        for start in range(0, len(wanted), batch_size):
            batch = wanted[start : start + batch_size]
            try:
                images = self._reader.get_batch(batch).asnumpy()
            except Exception as error:  # decord's own classes derive from Exception alone
                self._note(f"decord stopped after {start} of {len(wanted)} frames ({_reason(error)})")
                return
            if images.shape != (len(batch), height, width, 3):
                self._note(f"decord gives frames of shape {images.shape[1:]} instead of {(height, width, 3)}")
                return
            for index, image in zip(batch, images):
                yield Frame(index, float(self.times_s[index]), image)

    def close(self) -> None:
        self._reader = None


class FramesReader(_Reader):
    """A folder of image files in natural order; the first frame's size holds for all."""

    backend = "frames"

    def __init__(self, folder: str | os.PathLike, *, fps: float = 25.0) -> None:
        if fps <= 0:
            raise ValueError(f"fps must be above 0, got {fps}")
        self._folder = Path(folder)
        self._names = list_frames(folder)
        if not self._names:
            raise ValueError(f"{folder}: holds no .jpg or .png frames")
        self.num_frames, self.fps, self.problem = len(self._names), float(fps), None
        self.times_s = np.arange(self.num_frames) / self.fps
        image = self._load(0)
        if image is None:
            raise ValueError(f"{self._folder / self._names[0]}: cannot be decoded as an image")
        self.size_hw = image.shape[:2]

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        wanted = self._checked(indices)
        return self._read(wanted)

    def _read(self, wanted: list[int]) -> Iterator[Frame]:
        for index in wanted:
            image = self._load(index)
            if image is None or image.shape[:2] != self.size_hw:
                what = "cannot be decoded" if image is None else f"is {image.shape[:2]} instead of {self.size_hw}"
                self._note(f"{self._names[index]} {what}")
                continue
            yield Frame(index, float(self.times_s[index]), image)

    def _load(self, index: int) -> np.ndarray | None:
        # imdecode and not imread: imread cannot open every file name, and prints where it fails.
        data = np.fromfile(self._folder / self._names[index], np.uint8)
        try:
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        except cv2.error:
            image = None
        return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@contextmanager
def _open_container(path: str | os.PathLike):
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
            stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
            yield container, stream
    finally:
        if file is not None:
            file.close()


def _reason(error: BaseException) -> str:
    """One short line of an error; decord appends its C++ stack, FFmpeg the whole path."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
