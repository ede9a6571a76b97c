"""Read frames of a video in rising order: PyAV, decord, torchcodec and folders of frames behind one protocol.

Frames are streamed in bounded batches as RGB, rotated and mirrored as players show them (by the display matrix of a
file, by the EXIF orientation of an image). Of a video that breaks off the readable frames are returned, and the
reader's `problem` states what is wrong. What a container claims is not trusted: its packets are read once, and from
them follows how many frames there are and when each is shown.

Files are read by PyAV. Decord is used only on request: its FFmpeg is years older (docs/robustness.md), it can hang
forever in native code on broken files, keeps decoding without bound while its caller is busy, and silently returns
garbage where parameters change within a file (several recordings joined without re-encoding). Torchcodec, too, is used
only on request: it is an optional package, and it does not report frames that the decoder invented. Any decoder may
crash, so jobs over many videos run readers in child processes that can be killed (`data_prep.executors`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import av
import numpy as np

from cmp.images import turn
from cmp.video.frames import FramesReader
from cmp.video.probe import FileProbe, open_container, packets, probe_file, reason_of
from cmp.video.reader import Frame, Reader, VideoReader

FILE_BACKENDS = ("auto", "decord", "pyav", "torchcodec", "torchcodec-cuda")  # what can be asked for files
BACKENDS = (*FILE_BACKENDS, "frames")
_BATCH_BYTES = 16 << 20  # of the frames in one request to decord or torchcodec; one frame is always allowed
_WORTH_A_JUMP = 48  # a jump must save the decoding of this many frames
_DECORD_BYTES = 256 << 20  # of the frames that decord passes before the file is opened anew


def open_video(
    path: str | os.PathLike,
    backend: str = "auto",
    *,
    folder_fps: float = 25.0,
    on_work: Callable[[], None] | None = None,
) -> VideoReader:
    """Open a video file or a folder of frames.

    Args:
        path: a video file, or a folder of frames: image files, see `cmp.images`.
        backend: "auto" is "frames" for a folder and "pyav" for a file. "decord" and "torchcodec" (on the CPU;
            "torchcodec-cuda" decodes on the GPU) refuse files that they are known to read badly: files whose frames
            they count or time differently than the container states. "decord" also refuses files that are to be shown
            rotated by 90 degrees (it returns garbage); "torchcodec" files that are broken off or damaged as far as
            their packets show it.
        folder_fps: frames per second assumed for a folder of frames, which states none.
        on_work: called now and then during steps that can take long without yielding a frame: the walk through a
            file's packets, and decoding frames between the requested ones (not with decord).

    Raises:
        ValueError: an unknown backend, or one that is not installed; or the file cannot be read as a video (the message
            names it). Pipes, devices and sockets are refused without opening them, since they need not have an end.
        FileNotFoundError: the path does not exist.
    """
    check_backend(backend)
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
    if backend == "decord":
        return DecordReader(path, probe)
    if backend.startswith("torchcodec"):
        return TorchcodecReader(path, probe, on_work, device="cuda" if backend.endswith("cuda") else "cpu")
    return PyavReader(path, probe, on_work)


def check_backend(backend: str) -> None:
    """Raise ValueError if the backend is unknown, or if it is torchcodec and cannot be used here."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if not backend.startswith("torchcodec"):
        return
    try:
        import torchcodec.decoders  # noqa: F401  # an optional package, slow to import: only where it is used
    except ModuleNotFoundError as error:
        raise ValueError(
            f"reader {backend}: the package torchcodec is not installed; pip install 'cmp-motion[torchcodec]'"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:  # it loads FFmpeg when it is imported
        raise ValueError(
            f"reader {backend}: torchcodec cannot be loaded; it needs FFmpeg's shared libraries (for example `apt "
            f"install ffmpeg`) and the release that belongs to the installed torch ({reason_of(error)})"
        ) from error
    if backend.endswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise ValueError(f"reader {backend}: needs a CUDA GPU, and torch finds none here; use torchcodec")


class PyavReader(Reader):
    """FFmpeg through PyAV, one thread: decodes all frames in order and converts only the requested ones.

    If the next requested frame is far ahead, it jumps to the last key frame but one before it. A whole group of
    pictures (GOP) is then decoded before the one with the frame, so the frame cannot depend on anything that was
    skipped. A jump never changes the result: a frame's position follows from its time stamp, not from the target of
    the jump. The first frame after a jump is decoded both ways; if the two differ, no jump is made in this file.
    Decoding always begins with the first packet, which may name the encoder, and with it how to decode the rest.
    """

    backend = "pyav"

    def __init__(self, path: str | os.PathLike, probe: FileProbe, on_work: Callable[[], None] | None = None) -> None:
        self._path, self._probe, self._on_work = path, probe, on_work
        self.num_frames, self.fps, self.size_hw = len(probe.times_s), probe.fps, probe.size_hw
        self.times_s, self.problem = probe.times_s, probe.problem
        self._pts = np.empty(0, np.int64) if probe.pts is None else probe.pts
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
                        container.seek(self._stamp(start), stream=stream)
                        frames = self._decoded(container, stream, index, start)
                    elif start is not None:
                        by_jump = self._image_by_jump(start, target)
                        self._jumps = False  # until decoding in order has given the same image
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
        return np.ascontiguousarray(turn(decoded.to_ndarray(format="rgb24"), self._probe.orientation))

    def _stamp(self, index: int) -> int:
        """The time stamp to seek to for a frame; only files whose stamps are reliable have frames to jump to."""
        assert self._probe.pts is not None
        return int(self._probe.pts[index])

    def _position(self, pts: int | None, otherwise: int) -> int:
        """The position of the frame with this stamp; `otherwise` where no frame has it."""
        position = len(self._pts) if pts is None else int(np.searchsorted(self._pts, pts))
        return position if position < len(self._pts) and self._pts[position] == pts else otherwise

    def _jump(self, index: int, target: int) -> int | None:
        """The key frame to jump to on the way from a frame to a later one; None if decoding in order is as fast."""
        before = int(np.searchsorted(self._probe.keys, target, side="right")) - 2
        if before < 0 or self._jumps is False or self._probe.keys[before] < index + _WORTH_A_JUMP:
            return None
        return int(self._probe.keys[before])

    def _image_by_jump(self, start: int, target: int) -> np.ndarray | None:
        try:
            with open_container(self._path) as (container, stream):
                stream.thread_type = "NONE"
                next(self._decoded(container, stream), None)
                container.seek(self._stamp(start), stream=stream)
                for index, decoded in self._decoded(container, stream, -1, start):
                    if index >= target:
                        return self._upright(decoded) if index == target and self._jumps is None else None
        except (av.FFmpegError, OSError):
            pass
        return None

    def _decoded(
        self, container, stream, last: int = -1, start: int | None = None
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield every frame after `last` that can be decoded, with its position; damaged frames are skipped.

        Frames are computed from earlier ones, so damage passes on: after it, no frame is yielded up to the next key
        frame.

        start: the key frame that was jumped to. If decoding begins after it, this goes back to the beginning.
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
                    self._note(f"damaged after frame {last} (the decoder invented a part of a frame)")
                damaged = frame.is_corrupt or (damaged and not frame.key_frame)
                # The stamp gives the position even if earlier frames were lost. Without it count, but not after a jump.
                index = self._position(frame.pts, last + 1 if start is None else -1)
                if not landed and start is not None and index > start:
                    self._jumps = False
                    container.seek(self._stamp(0), stream=stream)
                    yield from self._decoded(container, stream, last)
                    return
                landed |= index >= 0
                if last < index < self.num_frames:
                    last = index
                    if self._on_work is not None and index % 32 == 0:
                        self._on_work()
                    if not damaged:
                        yield index, frame


class DecordReader(Reader):
    """decord, one thread, batches of rising positions; for what it refuses see `open_video`.

    A long file is read in ranges of frames, and opened anew for each, so that no state of decord grows with its length.
    """

    backend = "decord"

    def __init__(self, path: str | os.PathLike, probe: FileProbe) -> None:
        import decord  # a slow import with native code: only where it is used

        decord.logging.set_level(decord.logging.QUIET)
        self._open = lambda: decord.VideoReader(os.path.abspath(path), ctx=decord.cpu(0), num_threads=1)
        try:
            self._reader = self._open()
            count = len(self._reader)
            starts = np.asarray(self._reader.get_frame_timestamp(range(count)), np.float64).reshape(-1, 2)[:, 0]
        except Exception as error:  # decord's own classes derive from Exception alone
            raise ValueError(f"{path}: decord cannot open it ({reason_of(error)})") from error
        # It seeks by these stamps, and it counts frames that cannot be decoded. If it disagrees with the container, the
        # positions of its frames are unknown.
        if count != len(probe.times_s) or np.abs(starts - probe.times_s).max() > 0.5 / probe.fps:
            raise ValueError(f"{path}: decord's time table does not agree with the container's")
        self.num_frames, self.fps, self.size_hw = count, probe.fps, probe.size_hw
        self.times_s, self.problem = probe.times_s, probe.problem
        self._turn = 1
        if probe.orientation > 4:
            raise ValueError(f"{path}: is to be shown turned by a quarter, which decord cannot; use the reader pyav")
        if probe.orientation > 1:  # it turns the frames of some containers and not of others, and never mirrors them
            try:
                given = self._reader.get_batch([0]).asnumpy()[0]
            except Exception as error:  # decord's own classes derive from Exception alone
                raise ValueError(f"{path}: decord cannot read its first frame ({reason_of(error)})") from error
            self._turn = _turn_left(path, probe, given, "decord")

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        wanted = self._checked(indices)
        return self._read(wanted)

    def _read(self, wanted: list[int]) -> Iterator[Frame]:
        height, width = self.size_hw
        frames_in_range = max(1, _DECORD_BYTES // (3 * height * width))
        batch_size = max(1, min(16, _BATCH_BYTES // (3 * height * width)))
        range_start = 0  # the first frame that was read since the file was opened
        for start in range(0, len(wanted), batch_size):
            batch = wanted[start : start + batch_size]
            try:
                is_new = start == 0 or batch[-1] - range_start >= frames_in_range
                if is_new:
                    range_start = batch[0]
                if is_new and start > 0:
                    self._reader = self._open()
                if is_new and batch[0] > 0:  # the first packet may state how to decode the rest, and would be skipped
                    self._reader.get_batch([0])
                images = self._reader.get_batch(batch).asnumpy()
            except Exception as error:  # decord's own classes derive from Exception alone
                self._note(f"decord stopped after {start} of {len(wanted)} frames ({reason_of(error)})")
                return
            if images.shape != (len(batch), height, width, 3):
                self._note(f"decord gives frames of shape {images.shape[1:]} instead of {(height, width, 3)}")
                return
            for index, image in zip(batch, images):
                yield Frame(index, float(self.times_s[index]), np.ascontiguousarray(turn(image, self._turn)))

    def close(self) -> None:
        self._reader = None


def _turn_left(path: str | os.PathLike, probe: FileProbe, given: np.ndarray, backend: str) -> int:
    """How a reader's frames are still to be turned to be shown, numbered as in EXIF; its first frame tells what it did.

    Raises ValueError if that cannot be told, for example because the frame looks the same when turned.
    """
    try:
        with open_container(path) as (container, stream):
            frames = (frame for packet in packets(container, stream) for frame in packet.decode())
            stored = next(frames).to_ndarray(format="rgb24")
    except (av.FFmpegError, OSError, StopIteration) as error:
        raise ValueError(f"{path}: its first frame cannot be read ({reason_of(error)})") from error
    errors = {}
    for done in range(1, 9):
        turned = turn(stored, done)
        if turned.shape == given.shape:
            errors[done] = float(np.abs(turned.astype(np.int16) - given).mean())
    best, second, *_ = [*sorted(errors, key=lambda done: errors[done]), 0, 0]
    if not errors or errors[best] > 2 or errors[second] < 2 * errors[best] + 0.1:
        raise ValueError(f"{path}: how far {backend} turns its frames cannot be told; use the reader pyav")
    grid = np.arange(6).reshape(2, 3)
    wanted = turn(grid, probe.orientation)
    return next(k for k in range(1, 9) if np.array_equal(turn(turn(grid, best), k), wanted))


class TorchcodecReader(Reader):
    """torchcodec, one thread, or the GPU's decoder: batches of rising positions; `open_video` states what it refuses.

    It does not report frames that the decoder invented in damaged parts. A frame whose time stamp is not the one that
    the container states for its position ends the reading.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        probe: FileProbe,
        on_work: Callable[[], None] | None = None,
        *,
        device: str = "cpu",
    ) -> None:
        from torchcodec.decoders import VideoDecoder

        self.backend = "torchcodec" if device == "cpu" else f"torchcodec-{device}"
        self._on_work, self._file = on_work, None
        if probe.problem is not None:
            raise ValueError(f"{path}: {probe.problem}; torchcodec does not report damage, use the reader pyav")
        source: object = os.path.abspath(path)  # so that no file name is taken for a protocol
        try:
            str(source).encode("utf-8")
        except UnicodeEncodeError:  # FFmpeg takes only text as a name
            source = self._file = open(path, "rb")
        try:
            with open_container(path) as (_, stream):
                number = stream.index
            decoder = VideoDecoder(source, stream_index=number, dimension_order="NHWC", device=device)
            count = len(decoder)
            size_hw = (decoder.metadata.height, decoder.metadata.width)
            first = self._frames(decoder, [0])
        except Exception as error:  # torch's operators raise RuntimeError, and others for odd metadata
            self.close()
            raise ValueError(f"{path}: torchcodec cannot open it ({reason_of(error)})") from error
        self._decoder, self._start_s = decoder, first[1][0]
        try:
            if count != len(probe.times_s):
                raise ValueError(f"{path}: torchcodec counts {count} frames, the container {len(probe.times_s)}")
            if size_hw not in (probe.coded_size_hw, probe.size_hw):
                raise ValueError(f"{path}: torchcodec finds frames of {size_hw}, the container {probe.coded_size_hw}")
            self._turn = 1 if probe.orientation == 1 else _turn_left(path, probe, first[0][0], self.backend)
        except ValueError:
            self.close()
            raise
        self.num_frames, self.fps, self.size_hw = count, probe.fps, probe.size_hw
        self.times_s, self.problem = probe.times_s, None

    @staticmethod
    def _frames(decoder, positions: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Frames (N, H, W, 3) uint8 and their time stamps (N,) s, as the decoder gives them."""
        found = decoder.get_frames_at(indices=positions)
        return found.data.cpu().numpy(), found.pts_seconds.numpy()

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        wanted = self._checked(indices)
        return self._read(wanted)

    def _read(self, wanted: list[int]) -> Iterator[Frame]:
        height, width = self.size_hw
        batch_size = max(1, min(16, _BATCH_BYTES // (3 * height * width)))
        for start in range(0, len(wanted), batch_size):
            batch = wanted[start : start + batch_size]
            try:
                images, stamps_s = self._frames(self._decoder, batch)
            except Exception as error:  # torch's operators raise RuntimeError, and others
                self._note(f"torchcodec stopped after {start} of {len(wanted)} frames ({reason_of(error)})")
                return
            for index, image, stamp_s in zip(batch, images, stamps_s):
                image = np.ascontiguousarray(turn(image, self._turn))
                if image.shape != (height, width, 3):
                    self._note(f"the frame size changes at frame {index}")
                    return
                near = self.times_s[max(0, index - 1) : index + 2] - (stamp_s - self._start_s)
                if int(np.abs(near).argmin()) != min(1, index):
                    self._note(f"torchcodec's time of frame {index} is not the container's")
                    return
                yield Frame(index, float(self.times_s[index]), image)
            if self._on_work is not None:
                self._on_work()

    def close(self) -> None:
        self._decoder = None
        if self._file is not None:
            self._file.close()
