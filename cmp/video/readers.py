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
from pathlib import Path
from typing import NamedTuple, Protocol

import av
import cv2
import numpy as np

from cmp.video.probe import FileProbe, open_container, packets, probe_file, reason_of

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
BACKENDS = ("auto", "decord", "pyav", "frames")
_BATCH_BYTES = 16 << 20  # frames asked of decord at a time; one frame is always allowed
_WORTH_A_JUMP = 48  # frames that need not be decoded
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
            with open_container(self._path) as (container, stream):
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
            self._note(f"reading broke off after {given} of {len(wanted)} frames ({reason_of(error)})")
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
            with open_container(self._path) as (container, stream):
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
        """Every frame after `last` that decodes, with its position; what is damaged is stepped over.

        Damage goes from frame to frame, as they are made of those before: up to the next key frame none is given.

        start: the key frame that was jumped to. If decoding begins behind it, this goes back to the beginning.
        """
        landed, damaged = start is None, False
        for packet in packets(container, stream):
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                self._note(f"damaged after frame {last} ({reason_of(error)})")
                damaged = True
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self._note(f"damaged after frame {last} (the decoder made up a part of a frame)")
                damaged = frame.is_corrupt or (damaged and not frame.key_frame)
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
                    if not damaged:
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
            raise ValueError(f"{path}: decord cannot open it ({reason_of(error)})") from error
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
                self._note(f"decord cannot read the first frame ({reason_of(error)})")
                return
        batch_size = max(1, min(16, _BATCH_BYTES // (3 * height * width)))
        for start in range(0, len(wanted), batch_size):
            batch = wanted[start : start + batch_size]
            try:
                images = self._reader.get_batch(batch).asnumpy()
            except Exception as error:  # decord's own classes derive from Exception alone
                self._note(f"decord stopped after {start} of {len(wanted)} frames ({reason_of(error)})")
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
