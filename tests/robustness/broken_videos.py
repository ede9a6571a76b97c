"""Make videos that are broken, lie about themselves or are merely odd, the same for the same seed.

    python tests/robustness/broken_videos.py OUT_DIR --count 300 --seed 0

`KINDS` lists every way to break one. `EXPECT` states what must become of a kind, where that is known. The command
writes them to a folder, for trying another reader on them; test_broken_videos.py tries the preparation job.
"""

from __future__ import annotations

import argparse
import io
import os
import socket
import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np

HEIGHT, WIDTH, FRAMES = 48, 64, 12
# suffix: FFmpeg's names of container, codec and pixel format
CONTAINERS = {
    ".mp4": ("mp4", "libx264", "yuv420p"),
    ".mkv": ("matroska", "libx264", "yuv420p"),
    ".avi": ("avi", "mjpeg", "yuvj420p"),
    ".divx": ("avi", "mpeg4", "yuv420p"),
    ".webm": ("webm", "libvpx-vp9", "yuv420p"),
    ".ts": ("mpegts", "libx264", "yuv420p"),
    ".mpg": ("mpeg", "mpeg1video", "yuv420p"),
    ".mov": ("mov", "prores", "yuv422p10le"),
    ".flv": ("flv", "flv1", "yuv420p"),
    ".wmv": ("asf", "wmv2", "yuv420p"),
    ".y4m": ("yuv4mpegpipe", "wrapped_avframe", "yuv420p"),
    ".mjpeg": ("mjpeg", "mjpeg", "yuvj420p"),
}


def moving_frames(seed: int, count: int = FRAMES, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> list[np.ndarray]:
    """A texture that slides 2 px per frame; the top left corner is white and does not move."""
    height, width = size_hw
    noise = np.random.default_rng(seed).integers(30, 200, (max(2, height // 6), max(2, width // 6 + count // 3), 3))
    ground = cv2.resize(noise.astype(np.uint8), (width + 2 * count, height), interpolation=cv2.INTER_CUBIC)
    frames = [ground[:, 2 * number : 2 * number + width].copy() for number in range(count)]
    for frame in frames:
        frame[: height // 4, : width // 4] = 255
    return frames


def encode(
    suffix: str,
    frames: Iterable[np.ndarray],
    *,
    codec: str | None = None,
    pixels: str | None = None,
    stamps: Iterable[int] | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """A video file in memory, 25 frames/s, or with the presentation times `stamps`, ms."""
    container_name, default_codec, default_pixels = CONTAINERS[suffix]
    frames = list(frames)
    buffer = io.BytesIO()
    exact = {"fflags": "+bitexact"}  # no random numbers in Matroska
    with av.open(buffer, "w", format=container_name, container_options=exact) as container:
        stream = container.add_stream(codec or default_codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels or default_pixels
        stream.options = options or {}
        stream.codec_context.thread_count = 1
        if stamps is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for image, stamp in zip(frames, stamps or range(len(frames))):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 25) if stamps is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


@cache
def _base(suffix: str, seed: int = 0) -> bytes:
    return encode(suffix, moving_frames(seed))


def _pick(rng: np.random.Generator, *suffixes: str) -> str:
    names = suffixes or tuple(CONTAINERS)
    return names[rng.integers(len(names))]


def _flipped(data: bytes, rng: np.random.Generator, start: int, end: int, count: int) -> bytes:
    changed = bytearray(data)
    for position in rng.integers(start, max(start + 1, min(end, len(data))), count):
        changed[position] ^= 1 << rng.integers(8)
    return bytes(changed)


# Each function below: (rng) -> (suffix, content). Content is bytes, or a function that makes the file at a path.


def cut(rng):
    suffix = _pick(rng)
    return suffix, _base(suffix)[: rng.integers(1, len(_base(suffix)))]


def cut_with_header_in_front(rng):
    data = encode(".mp4", moving_frames(1), options=None)
    fragmented = _fragmented(data)
    return ".mp4", fragmented[: rng.integers(len(fragmented) // 8, len(fragmented))]


def flipped_header(rng):
    suffix = _pick(rng)
    return suffix, _flipped(_base(suffix), rng, 0, 600, rng.integers(1, 12))


def flipped_end(rng):  # where MP4 and AVI keep their tables
    suffix = _pick(rng, ".mp4", ".mov", ".avi")
    data = _base(suffix)
    return suffix, _flipped(data, rng, len(data) - 700, len(data), rng.integers(1, 12))


def flipped_body(rng):
    suffix = _pick(rng)
    data = _base(suffix)
    return suffix, _flipped(data, rng, 600, len(data) - 700, rng.integers(1, 40))


def flipped_all_over(rng):
    suffix = _pick(rng)
    return suffix, _flipped(_base(suffix), rng, 0, 1 << 40, len(_base(suffix)) // 50)


def swapped_headers(rng):
    one, other = _pick(rng), _pick(rng)
    at = int(rng.integers(16, 2000))
    return one, _base(one)[:at] + _base(other)[at:]


def wrong_suffix(rng):
    one, other = _pick(rng, ".mp4", ".mkv", ".ts", ".webm"), _pick(rng, ".avi", ".flv", ".wmv", ".mkv", ".mp4")
    return one, _base(other)


def empty(rng):
    return _pick(rng), b""


def text(rng):
    return _pick(rng), b"".join(b"line %d of a text\n" % number for number in range(int(rng.integers(1, 500))))


def random_bytes(rng):
    suffix = _pick(rng)
    return suffix, _base(suffix)[:16] + rng.bytes(int(rng.integers(100, 50_000)))


def page_of_a_website(rng):  # what a failed download leaves
    return _pick(rng), b"<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>"


def playlist(rng):  # text by which FFmpeg would open other files, or other hosts
    lines = [b"ffconcat version 1.0\nfile good_00.mp4\n", b"#EXTM3U\n#EXTINF:1,\ngood_00.mp4\n#EXT-X-ENDLIST\n"]
    lines += [b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://203.0.113.7/a.ts\n#EXT-X-ENDLIST\n"]
    return ".mp4", lines[rng.integers(len(lines))]


def huge_box(rng):
    data = bytearray(_base(".mp4"))
    name = [b"mdat", b"moov", b"trak", b"stbl", b"stsz", b"stts", b"stco", b"stsd"][rng.integers(8)]
    at = data.index(name) - 4
    data[at : at + 4] = struct.pack(">I", int(rng.choice([0xFFFFFFFF, 0x7FFFFFFF, 1, 0])))
    return ".mp4", bytes(data)


def huge_count(rng):  # tables that claim millions of entries
    data = bytearray(_base(".mp4"))
    name = [b"stsz", b"stts", b"stco", b"stsc", b"ctts"][rng.integers(5)]
    at = data.find(name) + (12 if name == b"stsz" else 8)
    data[at : at + 4] = struct.pack(">I", int(rng.choice([0xFFFFFFFF, 0x7FFFFFFF, 100_000_000])))
    return ".mp4", bytes(data)


def huge_frame(rng):  # 65535 x 65535 and the like
    choice = rng.integers(3)
    if choice == 0:
        data = bytearray(_base(".avi"))
        at = data.index(b"strf") + 12
        data[at : at + 8] = struct.pack("<ii", 65535, 65535)
        return ".avi", bytes(data)
    if choice == 1:
        size = int(rng.choice([65535, 1_000_000, 30_000]))
        return ".y4m", b"YUV4MPEG2 W%d H%d F25:1 Ip A1:1 C420\nFRAME\n" % (size, size) + bytes(100_000)
    data = bytearray(_base(".mp4"))
    at = data.index(b"avc1") + 28
    data[at : at + 4] = struct.pack(">HH", 65535, 65535)
    return ".mp4", bytes(data)


def long_claim(rng):  # a length of years
    data = bytearray(_base(".mp4"))
    for name, offset in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
        at = data.index(name) + offset
        data[at : at + 4] = struct.pack(">I", 0xFFFFFFF0)
    return ".mp4", bytes(data)


def long_frames(rng):  # every frame lasts hours
    data = bytearray(_base(".mp4"))
    at = data.index(b"stts") + 16
    data[at : at + 4] = struct.pack(">I", int(rng.integers(1 << 26, 1 << 31)))
    return ".mp4", bytes(data)


def long_header_line(rng):
    return ".y4m", b"YUV4MPEG2 W64 H48 F25:1 X" + b"Y" * 300_000 + b"\nFRAME\n" + bytes(4608)


def sparse(rng):  # a terabyte that takes no space
    suffix = _pick(rng)

    def make(path: Path) -> None:
        with open(path, "wb") as file:
            file.write(_base(suffix)[: int(rng.integers(0, 4000))])
            try:
                file.truncate(1 << 40)
            except OSError:  # the file system has a limit
                file.truncate(1 << 33)

    return suffix, make


def pipe(rng):
    return _pick(rng), os.mkfifo


def device(rng):
    return _pick(rng), lambda path: path.symlink_to(["/dev/zero", "/dev/urandom", "/dev/tty"][rng.integers(3)])


def unix_socket(rng):
    def make(path: Path) -> None:
        here = os.getcwd()
        os.chdir(path.parent)  # the address of a socket is at most about a hundred bytes
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)
        finally:
            os.chdir(here)

    return ".mp4", make


def dangling_link(rng):
    return ".mp4", lambda path: path.symlink_to(path.name if rng.integers(2) else "nowhere.mp4")


def odd_size(rng):
    size_hw = [(1, 1), (5, 3), (13, 17), (2, 4000), (4000, 2), (16, 9), (37, 61)][rng.integers(7)]
    suffix, codec, pixels = [
        (".mkv", "ffv1", "yuv444p"),
        (".mp4", "libx264", "yuv444p"),
        (".avi", "mjpeg", "yuvj444p"),
    ][rng.integers(3)]
    return suffix, encode(suffix, moving_frames(2, size_hw=size_hw), codec=codec, pixels=pixels)


def rotated(rng):
    return ".mp4", turned(_base(".mp4"), int(rng.choice([90, 180, 270])))


def variable_rate(rng):
    stamps = np.cumsum(rng.integers(5, 400, FRAMES)).tolist()
    return (suffix := _pick(rng, ".mp4", ".mkv", ".webm")), encode(suffix, moving_frames(3), stamps=stamps)


def stamps_that_jump(rng):  # two recordings in one file: time starts again
    suffix = _pick(rng, ".ts", ".mpg", ".mjpeg", ".flv")
    return suffix, _base(suffix) + _base(suffix, 1)


def size_that_changes(rng):
    suffix = _pick(rng, ".ts", ".mpg", ".mjpeg")
    return suffix, _base(suffix) + encode(suffix, moving_frames(4, size_hw=(64, 96)))


def several_streams(rng):
    return (suffix := _pick(rng, ".mp4", ".mkv")), with_audio(suffix, videos=2)


def audio_only(rng):
    return (suffix := _pick(rng, ".mp4", ".mkv", ".avi")), with_audio(suffix, videos=0)


def one_frame(rng):
    return (suffix := _pick(rng)), encode(suffix, moving_frames(5, 1))


def no_frame(rng):
    data = _base(suffix := _pick(rng, ".mp4", ".mkv"))
    return suffix, data[: data.find(b"mdat" if suffix == ".mp4" else b"\x1f\x43\xb6\x75")]


def rubbish_behind(rng):
    suffix = _pick(rng, ".mp4", ".mov", ".mkv", ".avi", ".webm")
    return suffix, _base(suffix) + rng.bytes(int(rng.integers(1, 20_000)))


def hole(rng):  # what a download leaves that lost a piece
    suffix = _pick(rng)
    data = bytearray(_base(suffix))
    at, length = int(rng.integers(len(data))), int(rng.integers(100, 8000))
    data[at : at + length] = bytes(len(data[at : at + length]))
    return suffix, bytes(data)


KINDS: tuple[Callable, ...] = (
    cut, cut_with_header_in_front, flipped_header, flipped_end, flipped_body, flipped_all_over, swapped_headers,
    wrong_suffix, empty, text, random_bytes, page_of_a_website, playlist, huge_box, huge_count, huge_frame,
    long_claim, long_frames, long_header_line, sparse, pipe, device, unix_socket, dangling_link, odd_size, rotated,
    variable_rate, stamps_that_jump, size_that_changes, several_streams, audio_only, one_frame, no_frame,
    rubbish_behind, hole,
)  # fmt: skip
# What must become of every file of a kind: its status, and its reason unless done.
EXPECT = {
    **dict.fromkeys(("wrong_suffix", "rotated", "variable_rate", "several_streams", "long_claim"), ("done", None)),
    **dict.fromkeys(
        ("empty", "text", "page_of_a_website", "playlist", "pipe", "device", "unix_socket", "dangling_link",
         "audio_only", "no_frame", "long_header_line"),
        ("failed", "unreadable"),
    ),
    "one_frame": ("skipped", "too_short"),
}  # fmt: skip


def turned(data: bytes, degrees: int) -> bytes:
    """An MP4 with the display matrix of its track set to a clockwise turn."""
    changed = bytearray(data)
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    start = changed.index(b"tkhd") + 44
    changed[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    return bytes(changed)


def with_audio(suffix: str, videos: int) -> bytes:
    """A file with an audio stream and `videos` video streams; the first of them is smaller than the others."""
    buffer = io.BytesIO()
    exact = {"fflags": "+bitexact"}
    with av.open(buffer, "w", format=CONTAINERS[suffix][0], container_options=exact) as container:
        sound = container.add_stream("aac" if suffix != ".avi" else "pcm_s16le", rate=16000)
        streams = []
        for number in range(videos):
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = HEIGHT // (2 if number == 0 else 1), WIDTH, "yuv420p"
            streams.append((stream, moving_frames(6 + number, size_hw=(stream.height, stream.width))))
        silence = np.zeros((1, 8000), np.float32 if suffix != ".avi" else np.int16)
        frame = av.AudioFrame.from_ndarray(silence, "fltp" if suffix != ".avi" else "s16", "mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
        for stream, images in streams:
            for image in images:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    return buffer.getvalue()


def _fragmented(data: bytes) -> bytes:
    """The MP4 with its tables spread over the file, so that the part before a cut can be read."""
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(data)) as source,
        av.open(
            buffer, "w", format="mp4", options={"movflags": "frag_every_frame+empty_moov+default_base_moof"}
        ) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return buffer.getvalue()


def write_broken(folder: Path, count: int, seed: int = 0) -> dict[str, str]:
    """Write `count` files to a folder, the kinds in turn; returns the kind per file name."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {}
    for number in range(count):
        maker = KINDS[number % len(KINDS)]
        suffix, content = maker(rng)
        path = folder / f"{number:03d}_{maker.__name__}{suffix}"
        content(path) if callable(content) else path.write_bytes(content)
        kinds[path.name] = maker.__name__
    return kinds


def write_good(folder: Path, count: int) -> list[str]:
    """Write undamaged clips, in all containers in turn; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number in range(count):
        suffix = tuple(CONTAINERS)[number % len(CONTAINERS)]
        names.append(f"good_{number:02d}{suffix}")
        (folder / names[-1]).write_bytes(encode(suffix, moving_frames(100 + number, FRAMES + number % 5)))
    return names


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="a new folder")
    parser.add_argument("--count", type=int, default=300, metavar="N", help="files (default 300)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the randomness (default 0)")
    args = parser.parse_args(argv)
    if args.out_dir.exists():
        parser.error(f"{args.out_dir} exists: give a new folder")
    kinds = write_broken(args.out_dir, args.count, args.seed)
    print(f"{len(kinds)} files of {len(set(kinds.values()))} kinds in {args.out_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
