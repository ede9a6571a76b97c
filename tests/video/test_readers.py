"""Every backend gives the same upright frames at the positions asked for, and says what is wrong with a file."""

import dataclasses
import os
import struct
import sys
from contextlib import contextmanager
from fractions import Fraction

import av
import cv2
import decord
import numpy as np
import pytest
import torch
from PIL import Image

from cmp.video import open_video, readers, write_video
from cmp.video.frames import list_frames, natural_key
from cmp.video.probe import probe_file
from data_prep.settings import PrepareSettings

HEIGHT, WIDTH = 48, 96


def why_not(backend):
    """Why a reader cannot be used here; an empty text if it can."""
    try:
        readers.check_backend(backend)
    except ValueError as error:
        return str(error)
    return ""


TORCHCODEC = pytest.param(
    "torchcodec", marks=pytest.mark.skipif(bool(why_not("torchcodec")), reason=why_not("torchcodec"))
)
needs_torchcodec = TORCHCODEC.marks[0]


def numbered_frames(count, height=HEIGHT, width=WIDTH):
    """Frames that tell their number by a bright column, in four quarters of different colors."""
    for number in range(count):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[: height // 2, : width // 2, 0] = 200
        frame[: height // 2, width // 2 :, 1] = 200
        frame[height // 2 :, : width // 2, 2] = 200
        frame[height // 2 :, 2 * number % width : 2 * number % width + 2] = 255
        yield frame


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip ü.mp4"
    write_video(path, numbered_frames(40), 25)
    return path


def read(path, indices, backend="auto"):
    with open_video(path, backend) as reader:
        frames = list(reader.read(indices))
        return frames, reader


@pytest.mark.parametrize("backend", ["decord", "pyav", "auto", TORCHCODEC])
def test_a_frame_read_by_its_position_is_the_frame_that_was_written_there(clip, backend):
    wanted = [0, 1, 7, 8, 20, 39]
    frames, reader = read(clip, wanted, backend)
    assert [frame.index for frame in frames] == wanted and reader.num_frames == 40 and reader.problem is None
    written = list(numbered_frames(40))
    for frame in frames:
        difference = [np.abs(frame.image.astype(int) - other).mean() for other in written]
        assert int(np.argmin(difference)) == frame.index
        assert frame.image.dtype == np.uint8 and frame.image.shape == (HEIGHT, WIDTH, 3)
    assert np.allclose([frame.time_s for frame in frames], np.array(wanted) / 25, atol=1e-4)
    assert reader.fps == pytest.approx(25)


def test_decord_and_pyav_give_equal_frames(clip):
    by_decord, _ = read(clip, range(0, 40, 3), "decord")
    by_pyav, _ = read(clip, range(0, 40, 3), "pyav")
    assert all((a.image == b.image).all() and a.time_s == b.time_s for a, b in zip(by_decord, by_pyav))


def test_a_folder_of_frames_gives_its_files_in_natural_order(tmp_path):
    frames = list(numbered_frames(12))
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame{number}.png")
    (tmp_path / ".hidden.png").write_bytes(b"")
    found, reader = read(tmp_path, [2, 10, 11])
    assert reader.backend == "frames" and reader.num_frames == 12 and reader.size_hw == (HEIGHT, WIDTH)
    assert all((frame.image == frames[frame.index]).all() for frame in found)
    assert [frame.time_s for frame in found] == [2 / 25, 10 / 25, 11 / 25]
    assert sorted(["f10", "f9", "f1"], key=natural_key) == ["f1", "f9", "f10"]


def test_frames_of_a_folder_that_are_broken_or_of_another_size_are_left_out_and_named(tmp_path):
    for number, frame in enumerate(numbered_frames(4)):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(tmp_path / "2.png")
    found, reader = read(tmp_path, range(4))
    assert [frame.index for frame in found] == [0, 3] and "1.png" in reader.problem


def test_the_most_common_size_of_a_folder_wins_and_the_odd_files_are_named(tmp_path):
    frames = list(numbered_frames(9))
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"f{number}.png")
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(tmp_path / "cover.jpg")  # sorts first
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(tmp_path / "z.png")
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(tmp_path / "f4.png")
    (tmp_path / "a.png").write_bytes(b"text")
    found, reader = read(tmp_path, range(9))
    assert reader.size_hw == (HEIGHT, WIDTH) and reader.num_frames == 9
    assert [frame.index for frame in found] == [0, 1, 2, 3, 5, 6, 7, 8]  # the times of those after f4 stay right
    assert all((frame.image == frames[frame.index]).all() for frame in found)
    for name in ("cover.jpg is (30, 20) instead of (48, 96)", "a.png cannot be read", "z.png is", "f4.png is (10, 20)"):
        assert name in reader.problem
    assert str(tmp_path) not in reader.problem
    for number in range(3):
        (tmp_path / f"f{number}.png").write_bytes(b"text")
    assert read(tmp_path, range(6))[1].num_frames == 6
    for path in tmp_path.iterdir():
        path.write_bytes(b"text")
    with pytest.raises(ValueError, match="none of its frames can be read; a.png cannot be read as an image"):
        open_video(tmp_path)


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".tif", ".tiff", ".ppm", ".PNG", ".jpeg"])
def test_frames_of_every_image_format_are_read(tmp_path, suffix):
    for number, frame in enumerate(numbered_frames(3)):
        options = {"lossless": True} if suffix == ".webp" else {}
        Image.fromarray(frame).save(tmp_path / f"{number}{suffix}", **options)
    found, reader = read(tmp_path, range(3))
    assert reader.backend == "frames" and reader.problem is None
    for frame, written in zip(found, numbered_frames(3), strict=True):
        assert np.abs(frame.image.astype(int) - written).mean() < (8 if suffix == ".jpeg" else 1e-9)


def test_frames_of_16_bits_are_all_scaled_alike(tmp_path):
    for number, peak in enumerate((300, 3000, 900)):
        values = np.full((6, 8), peak, np.uint16)
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    found, _ = read(tmp_path, range(3))
    assert [int(frame.image[0, 0, 0]) for frame in found] == [19, 187, 56]  # of 4095: 18.68, 186.81, 56.04


def test_a_frame_beyond_the_bounds_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    for number in range(2):
        Image.new("1", (8192, 8193)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="0.png .*must have at most 67108864 pixels, got 8193 x 8192"):
        open_video(tmp_path)
    for number in range(2):
        with open(tmp_path / f"{number}.png", "wb") as file:
            file.truncate((256 << 20) + 1)
    with pytest.raises(ValueError, match="0.png .*at most 256 MiB are taken"):
        open_video(tmp_path)


def test_only_the_digits_0_to_9_are_numbers_in_names(tmp_path):
    names = ["²1.png", "٣2.png", "f1.png", "f10.png", "f9.png", "new\nline.png", "x" * 246 + ".png",
             os.fsdecode(b"\xff1.png"), "①.png", "১.png"]  # fmt: skip
    for name in names:
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(os.path.join(tmp_path, "tmp.png"))
        os.rename(os.path.join(tmp_path, "tmp.png"), os.path.join(tmp_path, name))
    found, reader = read(tmp_path, range(len(names)))
    assert reader.problem is None and len(found) == len(names)
    order = list_frames(tmp_path)
    assert sorted(order) == sorted(names) and order.index("f9.png") < order.index("f10.png")


def turned(path, target, degrees):
    """Copy an MP4 with the display matrix of its track set to a clockwise turn."""
    data = bytearray(path.read_bytes())
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("backend", ["auto", "pyav", TORCHCODEC])
def test_a_clip_stored_rotated_comes_out_upright(clip, tmp_path, degrees, backend):
    frames, reader = read(turned(clip, tmp_path / "turned.mp4", degrees), [3, 5], backend)
    plain, _ = read(clip, [3, 5], "torchcodec" if backend == "torchcodec" else "pyav")
    for frame, before in zip(frames, plain):
        assert (frame.image == np.rot90(before.image, -degrees // 90)).all()
    assert reader.size_hw == frames[0].image.shape[:2]


# Of [[1, 2, 3], [4, 5, 6]], by where the matrix a b c d puts a point: (x, y) to (a x + c y, b x + d y).
SHOWN = {
    (1, 0, 0, 1): [[1, 2, 3], [4, 5, 6]],
    (-1, 0, 0, 1): [[3, 2, 1], [6, 5, 4]],  # hflip: a front camera
    (-1, 0, 0, -1): [[6, 5, 4], [3, 2, 1]],
    (1, 0, 0, -1): [[4, 5, 6], [1, 2, 3]],  # vflip
    (0, 1, 1, 0): [[1, 4], [2, 5], [3, 6]],  # transpose
    (0, 1, -1, 0): [[4, 1], [5, 2], [6, 3]],  # a quarter clockwise
    (0, -1, -1, 0): [[6, 3], [5, 2], [4, 1]],  # the other transpose
    (0, -1, 1, 0): [[3, 6], [2, 5], [1, 4]],
}


@pytest.mark.parametrize("matrix", SHOWN)
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("backend", ["auto", "pyav", "decord", TORCHCODEC])
def test_all_eight_display_matrices_are_applied_as_players_do(tmp_path, matrix, suffix, backend):
    stored = np.kron(40 * np.uint8([[1, 2, 3], [4, 5, 6]]), np.ones((24, 32), np.uint8))
    encode_as(tmp_path / f"v{suffix}", "libx264", {"crf": "4"}, [np.repeat(stored[..., None], 3, 2)] * 6)
    data = bytearray((tmp_path / f"v{suffix}").read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / f"v{suffix}").write_bytes(data)
    if backend == "decord" and matrix[0] == 0:
        with pytest.raises(ValueError, match="turned by a quarter, which decord cannot; use the reader pyav"):
            open_video(tmp_path / f"v{suffix}", backend)
        return
    frames, reader = read(tmp_path / f"v{suffix}", [2, 4], backend)
    for frame in frames:
        height, width = (24, 32) if matrix[0] else (32, 24)  # of a cell
        cells = frame.image[height // 2 :: height, width // 2 :: width].mean(axis=2)
        assert np.rint(cells / 40).astype(int).tolist() == SHOWN[matrix]
        assert reader.size_hw == frame.image.shape[:2] and frame.image.flags.c_contiguous


@pytest.mark.parametrize("matrix, orientation", [((0, 0, 0, 0), 1), ((1, 0, 1, 0), 1), ((0.9, 0.3, -0.3, 0.9), 1),
                                                 ((-0.3, 0.9, 0.9, 0.3), 5), ((-2, 0, 0, 2), 2)])  # fmt: skip
def test_other_matrices_go_to_the_nearest_of_the_eight(clip, tmp_path, matrix, orientation):
    data = bytearray(clip.read_bytes())
    a, b, c, d = (round(65536 * value) for value in matrix)
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "v.mp4").write_bytes(data)
    assert probe_file(tmp_path / "v.mp4").orientation == orientation


def test_a_folder_of_frames_is_shown_by_its_exif_orientation(tmp_path):
    stored = np.kron(40 * np.uint8([[1, 2, 3], [4, 5, 6]]), np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    for orientation, expected in zip((1, 2, 3, 4, 5, 6, 7, 8), SHOWN.values()):
        exif[0x0112] = orientation
        for number in range(2):
            Image.fromarray(stored).save(tmp_path / f"{number}.jpg", exif=exif)
        frames, reader = read(tmp_path, [0, 1])
        for frame in frames:
            assert np.rint(frame.image[8::16, 8::16, 1] / 40).astype(int).tolist() == expected
            assert reader.size_hw == frame.image.shape[:2]


def test_a_clip_cut_short_gives_its_first_frames_and_a_problem(tmp_path):
    # Noise, so that the data is large against the header; the header is moved to the front to survive the cut.
    rng = np.random.default_rng(0)
    path = tmp_path / "whole.mp4"
    write_video(path, (rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(60)), 25)
    whole, _ = read(path, range(60))
    faststart = tmp_path / "faststart.mp4"
    faststart.write_bytes(moov_first(path.read_bytes()))
    again, reader = read(faststart, range(60))
    assert reader.problem is None and all((a.image == b.image).all() for a, b in zip(again, whole))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(faststart.read_bytes()[: len(path.read_bytes()) * 6 // 10])
    with open_video(cut) as reader:
        frames = list(reader.read(range(reader.num_frames)))
        assert 10 < len(frames) < 50 and reader.problem
    # The last packet may be half there; all before it is untouched.
    assert all((a.image == b.image).all() for a, b in zip(frames[:10], whole))


def moov_first(data):
    """An MP4 with its header before the data, by moving the box and every chunk offset in it."""
    boxes, position = [], 0
    while position < len(data):
        size = struct.unpack(">I", data[position : position + 4])[0]
        boxes.append((data[position + 4 : position + 8], data[position : position + size]))
        position += size
    moov = bytearray(next(box for name, box in boxes if name == b"moov"))
    at = moov.index(b"stco") + 8
    for number in range(struct.unpack(">I", moov[at : at + 4])[0]):
        entry = at + 4 + 4 * number
        moov[entry : entry + 4] = struct.pack(">I", struct.unpack(">I", moov[entry : entry + 4])[0] + len(moov))
    assert boxes[-1][0] == b"moov"
    return boxes[0][1] + bytes(moov) + b"".join(box for name, box in boxes[1:] if name != b"moov")


@pytest.mark.parametrize(
    "suffix, codec", ((".avi", "mpeg4"), (".wmv", "wmv2"), (".flv", "flv1"), (".mpg", "mpeg2video"))
)
def test_frames_that_a_decoder_made_up_are_left_out_and_named(tmp_path, suffix, codec):
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (120, 200, 3), np.uint8), (0, 0), 2)
    path, broken = tmp_path / f"clean{suffix}", tmp_path / f"broken{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.bit_rate = 8, 800_000
        for i in range(24):
            image = np.ascontiguousarray(texture[i // 2 : i // 2 + 96, i : i + 160])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    clean = {frame.index: frame.image.astype(int) for frame in read(path, range(24))[0]}
    data = path.read_bytes()
    given = wrong = named = 0
    for seed in range(12):
        rng, flipped = np.random.default_rng(seed), bytearray(data)
        for _ in range(3):
            flipped[int(rng.integers(len(data) // 5, len(data) * 9 // 10))] ^= int(rng.integers(1, 256))
        broken.write_bytes(flipped)
        with open_video(broken) as reader:
            frames = list(reader.read(range(reader.num_frames)))
        given += len(frames)
        wrong += sum(np.abs(frame.image - clean[frame.index]).mean() > 4 for frame in frames)
        named += reader.problem is not None
    assert len(clean) == 24 and wrong <= 12 and named >= 9  # 30 to 66 were wrong while all was given
    assert 12 * 24 // 3 < given < 12 * 24  # what comes before the damage, and from the next key frame on


@pytest.mark.parametrize("content", [b"", b"this is text, not a video\n" * 50, bytes(4096)])
def test_a_file_that_is_not_a_video_is_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    for backend in ("auto", "decord", "pyav", *([] if why_not("torchcodec") else ["torchcodec"])):
        with pytest.raises(ValueError, match="broken.mp4"):
            open_video(path, backend)


def test_torchcodec_is_refused_in_one_line_where_it_cannot_be_used(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    for backend in ("torchcodec", "torchcodec-cuda"):
        with pytest.raises(ValueError, match=f"^reader {backend}: .*pip install 'cmp-motion.torchcodec.'$"):
            open_video(clip, backend)
        with pytest.raises(ValueError, match=f"^reader {backend}: "):
            PrepareSettings(reader=backend)  # before any video is opened


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@needs_torchcodec
def test_the_gpu_decoder_is_refused_where_there_is_no_gpu(clip):
    with pytest.raises(ValueError, match="torchcodec-cuda: needs a CUDA GPU"):
        open_video(clip, "torchcodec-cuda")


@needs_torchcodec
def test_torchcodec_refuses_a_file_that_is_broken_off(clip, tmp_path):
    encoded(tmp_path / "whole.mkv", range(0, 2400, 40), "matroska")
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cut.mkv: .*torchcodec does not report damage, use the reader pyav"):
        open_video(tmp_path / "cut.mkv", "torchcodec")


@needs_torchcodec
def test_torchcodec_jumps_to_the_frames_that_decoding_in_order_gives(clip, tmp_path):
    name = os.fsdecode(b"\xff.mp4")  # no text: it is read through an open file
    (tmp_path / name).write_bytes(clip.read_bytes())
    in_order, _ = read(tmp_path / name, range(40), "torchcodec")
    some, reader = read(tmp_path / name, [5, 23, 39], "torchcodec")
    assert reader.backend == "torchcodec" and all((f.image == in_order[f.index].image).all() for f in some)


@needs_torchcodec
def test_a_frame_with_another_time_than_the_containers_ends_the_reading(clip):
    with open_video(clip, "torchcodec") as reader:
        reader.times_s = reader.times_s + np.where(np.arange(40) >= 8, 0.2, 0)
        assert [frame.index for frame in reader.read([0, 7, 9])] == [0, 7]
        assert "time of frame 9" in reader.problem


def test_decord_reads_a_long_file_in_ranges_and_opens_it_anew_for_each(clip, monkeypatch):
    monkeypatch.setattr(readers, "_DECORD_BYTES", 10 * HEIGHT * WIDTH * 3)  # ten frames
    monkeypatch.setattr(readers, "_BATCH_BYTES", 2 * HEIGHT * WIDTH * 3)
    opened = []
    whole = decord.VideoReader
    monkeypatch.setattr(decord, "VideoReader", lambda *args, **kwargs: opened.append(args) or whole(*args, **kwargs))
    frames, reader = read(clip, range(40), "decord")
    assert [frame.index for frame in frames] == list(range(40)) and reader.problem is None
    assert len(opened) == 4  # 0 .. 9, 10 .. 19, 20 .. 29, 30 .. 39
    assert all((a.image == b.image).all() for a, b in zip(frames, read(clip, range(40), "pyav")[0]))
    opened.clear()
    some, _ = read(clip, [3, 4, 25, 39], "decord")
    assert len(opened) == 2 and all((frame.image == frames[frame.index].image).all() for frame in some)


def test_a_stream_whose_parameters_change_on_the_way_is_read_rightly(tmp_path):
    frames = noisy_frames(45)
    parts = []
    for number, (ref, piece) in enumerate(((1, frames[:15]), (4, frames[15:]))):
        parts.append(tmp_path / f"{number}.mp4")
        options = {"x264-params": f"ref={ref}:bframes=0:weightp=0:keyint=10:scenecut=0"}
        encode_as(parts[-1], "libx264", options, piece)
    with av.open(str(parts[0])) as a, av.open(str(parts[1])) as b, av.open(str(tmp_path / "both.mp4"), "w") as target:
        stream = target.add_stream_from_template(a.streams.video[0])
        table = b.streams.video[0].codec_context.extradata  # MP4's: one SPS, one PPS, each behind its length
        sets, at = b"", 6
        for _ in range(2):
            length = struct.unpack(">H", table[at : at + 2])[0]
            sets += struct.pack(">I", length) + table[at + 2 : at + 2 + length]
            at += 2 + length + 1  # and the number of PPS
        packets = [p for source in (a, b) for p in source.demux(video=0) if p.dts is not None]
        for number, packet in enumerate(packets):
            copy = av.Packet(sets + bytes(packet) if number == 15 else bytes(packet))
            copy.pts = copy.dts = round(number / 25 / stream.time_base)
            copy.time_base, copy.is_keyframe, copy.stream = stream.time_base, packet.is_keyframe, stream
            target.mux(copy)
    by_auto, reader = read(tmp_path / "both.mp4", [0, 28, 38, 41])
    assert reader.backend == "pyav" and reader.problem is None
    for frame in by_auto:  # decord's are 77 gray levels off from frame 28 on
        distances = [np.abs(frame.image.astype(int) - other).mean() for other in frames]
        assert int(np.argmin(distances)) == frame.index and min(distances) < 25


def encoded(path, stamps, container="mp4", codec="libx264", time_base=Fraction(1, 1000)):
    """Numbered frames shown at these stamps, in units of the time base."""
    with av.open(str(path), "w", format=container) as target:
        stream = target.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.time_base = stream.codec_context.time_base = time_base
        for image, stamp in zip(numbered_frames(len(stamps)), stamps):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = stamp, time_base
            target.mux(stream.encode(frame))
        target.mux(stream.encode())


@pytest.mark.parametrize(
    "name, container, codec",
    [
        ("v.mp4", "mp4", "libx264"),
        ("v.mkv", "matroska", "libx264"),
        ("v.webm", "webm", "libvpx-vp9"),
        ("v.ts", "mpegts", "libx264"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "pyav", "decord", TORCHCODEC])
def test_frames_at_a_varying_rate_come_with_the_times_they_are_shown_at(tmp_path, name, container, codec, backend):
    stamps = 40 + np.cumsum(np.random.default_rng(0).integers(8, 300, 20))
    stamps -= stamps % 10
    encoded(tmp_path / name, stamps.tolist(), container, codec)
    if backend in ("decord", "torchcodec") and container == "mpegts":
        with pytest.raises(ValueError, match=backend):
            read(tmp_path / name, [0], backend)
        return
    frames, reader = read(tmp_path / name, range(20), backend)
    assert reader.num_frames == 20 == len(frames) and reader.problem is None
    written = list(numbered_frames(20))
    for frame in frames:
        assert frame.time_s == pytest.approx((stamps[frame.index] - stamps[0]) / 1000, abs=2e-3)
        assert int(np.argmin([np.abs(frame.image.astype(int) - other).mean() for other in written])) == frame.index


def test_a_raw_stream_which_states_no_times_is_spaced_evenly(tmp_path):
    path = tmp_path / "raw.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for image in numbered_frames(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    frames, reader = read(path, [0, 7, 19])
    assert reader.num_frames == 20 and reader.fps == 25 and [frame.time_s for frame in frames] == [0, 0.28, 0.76]
    expected = list(numbered_frames(20))
    assert all(np.abs(f.image.astype(int) - expected[f.index]).mean() < 6 for f in frames)


def test_two_recordings_in_one_file_are_read_one_after_the_other_and_named(tmp_path):
    # The second starts again between the stamps of the first: sorted, their frames would be mixed.
    for name, first in (("a.ts", 0), ("b.ts", 20)):
        encoded(tmp_path / name, [first + 40 * number for number in range(15)], "mpegts")
    (tmp_path / "both.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    frames, reader = read(tmp_path / "both.ts", range(30))
    assert "several recordings" in reader.problem and len(frames) == 30
    written = list(numbered_frames(15))
    for frame in frames:
        assert int(np.argmin([np.abs(frame.image.astype(int) - o).mean() for o in written])) == frame.index % 15


def test_a_file_cut_short_without_a_trace_is_known_by_the_length_it_claims(tmp_path):
    encoded(tmp_path / "whole.mkv", range(0, 2400, 40), "matroska")
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    assert read(tmp_path / "whole.mkv", [0])[1].problem is None
    frames, reader = read(tmp_path / "cut.mkv", [0])
    assert "claims 2.4 s" in reader.problem and frames[0].index == 0


@pytest.mark.parametrize(
    "content", ["ffconcat version 1.0\nfile clip.mkv\n", "#EXTM3U\n#EXTINF:1,\nclip.mkv\n#EXT-X-ENDLIST\n"]
)
def test_a_list_of_other_files_is_not_a_video(tmp_path, content):
    encoded(tmp_path / "clip.mkv", range(0, 400, 40), "matroska")
    for name in ("list.mp4", "list.m3u8"):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match="cannot be read"):
            open_video(tmp_path / name)


def test_frames_of_an_absurd_size_are_refused_before_they_fill_the_memory(clip, monkeypatch):
    monkeypatch.setattr("cmp.video.probe._MAX_PIXELS", 2 * HEIGHT * WIDTH)
    assert len(read(clip, [0, 5])[0]) == 2
    monkeypatch.setattr("cmp.video.probe._MAX_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(ValueError, match="no frame can be decoded"):
        open_video(clip)


def test_a_file_of_more_frames_than_the_bound_is_refused_on_the_way(clip, monkeypatch):
    monkeypatch.setattr("cmp.video.probe.MAX_FRAMES", 40)
    assert len(read(clip, [0, 39])[0]) == 2
    monkeypatch.setattr("cmp.video.probe.MAX_FRAMES", 39)
    with pytest.raises(ValueError, match="clip ü.mp4: has more than 39 frames"):
        open_video(clip)


def test_animated_gifs_and_pngs_are_read(tmp_path):
    frames = list(numbered_frames(6))
    images = [Image.fromarray(frame) for frame in frames]
    for name in ("v.gif", "v.apng"):
        kind = {"v.gif": "GIF", "v.apng": "PNG"}[name]
        images[0].save(tmp_path / name, kind, save_all=True, append_images=images[1:], duration=40)
        found, reader = read(tmp_path / name, [0, 2, 5])
        assert reader.num_frames == 6 and reader.problem is None and [f.time_s for f in found] == [0, 0.08, 0.2]
        assert all(np.abs(frame.image.astype(int) - frames[frame.index]).mean() < 3 for frame in found)


def gif_blocks(data):
    """A GIF's parts: what is before its first frame, then each frame as (delay, image)."""
    first, *rest = data.split(b"\x21\xf9\x04")
    return first, [(b"\x21\xf9\x04" + part[:5], part[5:]) for part in rest]


@pytest.mark.parametrize("with_delay", [(), (3,), (0,), (4, 5)])
def test_frames_of_a_gif_without_delays_are_all_read(tmp_path, with_delay):
    images = [Image.fromarray(frame).quantize(16) for frame in numbered_frames(6)]
    images[0].save(tmp_path / "whole.gif", save_all=True, append_images=images[1:], duration=100, optimize=False)
    start, parts = gif_blocks((tmp_path / "whole.gif").read_bytes())
    parts = [(delay if number in with_delay else b"") + image for number, (delay, image) in enumerate(parts)]
    (tmp_path / "old.gif").write_bytes(start + b"".join(parts))
    expected, _ = read(tmp_path / "whole.gif", range(6))
    found, reader = read(tmp_path / "old.gif", range(6))
    assert reader.num_frames == 6 and reader.problem is None and reader.fps == pytest.approx(10)
    assert all(np.array_equal(one.image, other.image) for one, other in zip(found, expected, strict=True))


def test_the_last_image_of_a_gif_that_is_cut_off_is_left_out_and_named(tmp_path):
    images = [Image.fromarray(frame).quantize(16) for frame in numbered_frames(5)]
    images[0].save(tmp_path / "whole.gif", save_all=True, append_images=images[1:], duration=100)
    data = (tmp_path / "whole.gif").read_bytes()
    start, parts = gif_blocks(data)
    ends = np.cumsum([len(start)] + [len(delay + image) for delay, image in parts])
    expected, _ = read(tmp_path / "whole.gif", range(5))
    for end in (ends[2] - 1, ends[2] - 20, ends[2], ends[3] - 2, ends[4] + 9, len(data) - 1):
        (tmp_path / "cut.gif").write_bytes(data[:end])
        whole = int((ends[1:] <= end).sum() + (end == len(data) - 1))
        found, reader = read(tmp_path / "cut.gif", range(whole))
        assert reader.num_frames == whole
        assert reader.problem == f"breaks off after {whole} whole frame{'s' * (whole > 1)}"
        assert all(np.array_equal(one.image, other.image) for one, other in zip(found, expected))
    (tmp_path / "cut.gif").write_bytes(data[: ends[1] - 5])
    with pytest.raises(ValueError, match=r"cut\.gif: breaks off before the end of its first frame"):
        open_video(tmp_path / "cut.gif")


def test_a_gif_larger_than_the_bound_is_refused_before_it_is_read(tmp_path, monkeypatch):
    images = [Image.fromarray(frame) for frame in numbered_frames(3)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=100)
    size = (tmp_path / "a.gif").stat().st_size
    monkeypatch.setattr("cmp.video.gif.MAX_BYTES", size)
    assert read(tmp_path / "a.gif", [2])[1].problem is None
    monkeypatch.setattr("cmp.video.gif.MAX_BYTES", size - 1)
    with pytest.raises(ValueError, match=rf"a\.gif: a GIF may have 0 MiB at most, got {size} bytes"):
        open_video(tmp_path / "a.gif")


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match="a pipe, a device"):
        open_video(tmp_path / "pipe.mp4")


def test_links_that_lead_nowhere_and_pipes_among_frames_are_left_out(tmp_path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((20, 30, 3), 40 * i, np.uint8))
    (tmp_path / "itself.png").symlink_to("itself.png")
    (tmp_path / "gone.png").symlink_to("nothing.png")
    os.mkfifo(tmp_path / "pipe.png")
    found, reader = read(tmp_path, [0, 1, 2])
    assert reader.num_frames == 3 and [int(frame.image[0, 0, 0]) for frame in found] == [0, 40, 80]


def test_a_file_is_decoded_on_one_thread(clip, monkeypatch):
    opened, plain = [], readers.open_container

    @contextmanager
    def watched(path):
        with plain(path) as (container, stream):
            opened.append(stream)
            yield container, stream
            assert stream.codec_context.thread_type.name == "NONE"

    monkeypatch.setattr(readers, "open_container", watched)
    assert len(read(clip, [0, 39])[0]) == 2 and len(opened) == 1


def test_reading_goes_on_where_ffmpeg_says_try_again(clip, monkeypatch):
    class Interrupted:
        """A container whose demuxer is interrupted after every third packet."""

        def __init__(self, container):
            self.container = container

        def demux(self, stream):
            for number, packet in enumerate(self.container.demux(stream)):
                yield packet
                if number % 3 == 2:
                    raise av.BlockingIOError(11, "Resource temporarily unavailable")

    plain = readers.packets
    for module in ("probe", "readers"):
        name = f"cmp.video.{module}.packets"
        monkeypatch.setattr(name, lambda container, stream: plain(Interrupted(container), stream))
    frames, reader = read(clip, range(40), "pyav")
    assert reader.num_frames == len(frames) == 40 and reader.problem is None


def noisy_frames(count):
    """Numbered frames with noise, so that a decoder that lost its references cannot come out right."""
    rng = np.random.default_rng(0)
    return [(frame // 2 + rng.integers(0, 60, frame.shape)).astype(np.uint8) for frame in numbered_frames(count)]


def encode_as(path, codec, options, frames):
    with av.open(str(path), "w") as target:
        stream = target.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for image in frames:
            target.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        target.mux(stream.encode())


@pytest.mark.parametrize(
    "name, codec, options",
    [
        ("b.mp4", "libx264", {"x264-params": "keyint=25:bframes=3:b-pyramid=normal:scenecut=0"}),
        ("open.mkv", "libx264", {"x264-params": "keyint=25:open-gop=1:bframes=3:scenecut=0"}),
        ("refresh.mp4", "libx264", {"x264-params": "keyint=25:intra-refresh=1:scenecut=0"}),
        ("open.mp4", "libx265", {"x265-params": "keyint=25:open-gop=1:log-level=none"}),
        ("alt.webm", "libvpx-vp9", {"g": "25", "deadline": "realtime", "cpu-used": "8"}),
        ("b4.mp4", "mpeg4", {"g": "25", "bf": "2"}),
        ("ts.ts", "libx264", {"x264-params": "keyint=25:bframes=3:scenecut=0"}),
    ],
)
def test_jumping_to_key_frames_gives_the_frames_of_decoding_straight_through(
    tmp_path, monkeypatch, name, codec, options
):
    encode_as(tmp_path / name, codec, options, noisy_frames(240))
    probe = probe_file(tmp_path / name)
    decoded = []
    monkeypatch.setattr(readers.PyavReader, "_decoded", counting(readers.PyavReader._decoded, decoded))
    for wanted in ([0, 90, 95, 160, 161, 239], [70, 130, 200], [239]):  # a first jump is checked, later ones are made
        decoded.clear()
        with monkeypatch.context() as patch:
            patch.setattr(readers, "_WORTH_A_JUMP", 10**9)
            straight = list(readers.PyavReader(tmp_path / name, probe).read(wanted))
        num_straight = len(decoded)
        assert [frame.index for frame in straight] == wanted and num_straight == wanted[-1] + 1
        decoded.clear()
        monkeypatch.setattr(readers, "_WORTH_A_JUMP", 10)
        reader = readers.PyavReader(tmp_path / name, probe)
        jumping = list(reader.read(wanted))
        assert [frame.index for frame in jumping] == wanted and reader.problem is None
        assert all((a.image == b.image).all() for a, b in zip(straight, jumping))
        if name == "ts.ts":
            assert len(probe.keys) == 0 and len(decoded) == num_straight
        elif len(wanted) > 1:  # what goes by the name of key frame there, is none
            assert reader._jumps is (name != "refresh.mp4")


def counting(method, decoded):
    def counted(self, *args):
        for index, frame in method(self, *args):
            decoded.append(index)
            yield index, frame

    return counted


def test_no_jump_is_made_where_it_would_give_other_frames_or_lead_elsewhere(tmp_path, monkeypatch):
    encode_as(tmp_path / "v.mp4", "libx264", {"x264-params": "keyint=1000:scenecut=0"}, noisy_frames(240))
    probe = probe_file(tmp_path / "v.mp4")
    assert probe.keys.tolist() == [0]
    # What a table that calls ordinary frames key frames makes of it.
    lying = dataclasses.replace(probe, keys=np.arange(0, 240, 30))
    wanted = [0, 100, 101, 170, 239]
    straight = list(readers.PyavReader(tmp_path / "v.mp4", probe).read(wanted))
    monkeypatch.setattr(readers, "_WORTH_A_JUMP", 10)
    reader = readers.PyavReader(tmp_path / "v.mp4", lying)
    again = list(reader.read(wanted))
    assert [f.index for f in again] == wanted and all((a.image == b.image).all() for a, b in zip(straight, again))

    encode_as(tmp_path / "w.mp4", "libx264", {"x264-params": "keyint=25:scenecut=0"}, noisy_frames(240))
    probe = probe_file(tmp_path / "w.mp4")
    straight = list(
        readers.PyavReader(tmp_path / "w.mp4", dataclasses.replace(probe, keys=probe.keys[:0])).read(wanted)
    )
    other = readers.PyavReader(tmp_path / "w.mp4", probe)
    monkeypatch.setattr(other, "_image_by_jump", lambda start, target: straight[0].image)
    again = list(other.read(wanted))
    assert other._jumps is False and all((a.image == b.image).all() for a, b in zip(straight, again))
    late = readers.PyavReader(tmp_path / "w.mp4", probe)
    late._jumps = True  # and the jumps lead behind their key frame
    monkeypatch.setattr(late, "_jump", lambda index, target: int(probe.keys[1]) if target == 101 else None)
    plain_pts, moved = probe.pts, probe.pts.copy()
    moved[probe.keys[1]] = plain_pts[probe.keys[6]]
    seeks = dataclasses.replace(probe, pts=moved)
    late._probe = seeks
    again = list(late.read(wanted))
    assert late._jumps is False
    assert [f.index for f in again] == wanted and all((a.image == b.image).all() for a, b in zip(straight, again))


def test_long_work_without_a_frame_is_reported(tmp_path):
    write_video(tmp_path / "long.mp4", numbered_frames(200), 25)
    reported = []
    with open_video(tmp_path / "long.mp4", "pyav", on_work=lambda: reported.append("walk")) as reader:
        assert reported
        reported.clear()
        assert [frame.index for frame in reader.read([0, 199])] == [0, 199]
        assert len(reported) >= 4


def test_wrong_calls_are_refused(clip, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        open_video(tmp_path / "absent.mp4")
    with pytest.raises(ValueError, match="backend"):
        open_video(clip, "ffmpeg")
    with pytest.raises(ValueError, match="no .jpg"):
        open_video(tmp_path)
    with open_video(clip) as reader:
        with pytest.raises(ValueError, match="rise"):
            reader.read([3, 3])
        with pytest.raises(ValueError, match=r"\[0, 40\)"):
            reader.read([39, 40])


@pytest.mark.parametrize(
    "name, backend, num_frames, size_hw",
    [
        ("bgs_demo.avi", "pyav", 51, (48, 48)),  # raw video of which decord makes frames of a wrong size
        ("opencv_tree.avi", "pyav", 68, (240, 320)),  # header claims 444
        ("torchcodec_nasa_13013.mp4", "pyav", 390, (270, 480)),  # two video streams: the better one
        ("cotracker_pillow.mp4", "pyav", 147, (480, 368)),  # decord counts 149 and repeats frames at the end
        ("mmaction2_test.avi", "pyav", 164, (240, 320)),  # B-frames in AVI: decord's time stamps are senseless
        ("cotracker_cat.mp4", "pyav", 87, (480, 368)),
    ],
)
def test_odd_real_clips_are_read_to_their_last_frame(shared_dir, name, backend, num_frames, size_hw):
    path = shared_dir / "data" / "videos" / name
    with open_video(path) as reader:
        wanted = [*range(0, reader.num_frames - 1, 10), reader.num_frames - 1]
        frames = list(reader.read(wanted))
        assert [frame.index for frame in frames] == wanted
        assert (reader.backend, reader.num_frames, reader.size_hw) == (backend, num_frames, size_hw)
        assert frames[0].image.shape == (*size_hw, 3)
    try:
        with open_video(path, "decord") as second:
            assert all((a.image == b.image).all() for a, b in zip(frames, second.read(wanted), strict=True))
    except ValueError:
        assert name not in ("opencv_tree.avi", "torchcodec_nasa_13013.mp4", "cotracker_cat.mp4")


def test_a_stream_whose_first_packet_says_how_to_decode_it_is_read_rightly_from_any_frame_on(shared_dir, tmp_path):
    # An old encoder, whose errors a decoder makes up for where it has seen its name.
    path = tmp_path / "start.mp4"
    with av.open(str(shared_dir / "data" / "videos" / "dlc_m3v1.mp4")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if number == 270:
                break
            packet.stream = stream
            target.mux(packet)
    straight = [frame for frame in read(path, range(270), "pyav")[0] if frame.index in (200, 205)]
    for backend in ("pyav", "decord"):
        frames, _ = read(path, [200, 205], backend)
        assert all((a.image == b.image).all() for a, b in zip(straight, frames, strict=True))
