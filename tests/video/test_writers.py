"""What is written is what the readers find, and half-written files never carry the name."""

import numpy as np
import pytest
from PIL import Image

from cmp.video import open_video, write_video


def ramps(count, height, width):
    for number in range(count):
        ramp = np.linspace(0, 200, width, dtype=np.float32)[None, :, None] + 5 * number
        yield np.broadcast_to(ramp, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("size_hw", [(32, 48), (33, 47)])
def test_an_mp4_keeps_size_rate_number_and_nearly_the_pixels(tmp_path, size_hw):
    path = tmp_path / "clip.mp4"
    write_video(path, ramps(6, *size_hw), 12.5, crf=4)
    with open_video(path, "pyav") as reader:
        frames = list(reader.read(range(6)))
        assert reader.num_frames == 6 and reader.size_hw == size_hw and reader.fps == pytest.approx(12.5)
    for frame, expected in zip(frames, ramps(6, *size_hw)):
        assert np.abs(frame.image.astype(int) - expected).mean() < 3


def test_a_gif_keeps_size_number_and_rate(tmp_path):
    path = tmp_path / "clip.gif"
    write_video(path, ramps(5, 20, 30), 10)
    with Image.open(path) as image:
        assert image.n_frames == 5 and image.size == (30, 20) and image.info["duration"] == 100


def test_frames_that_break_off_leave_neither_the_file_nor_a_temporary_one(tmp_path):
    def breaking():
        yield from ramps(3, 32, 48)
        raise RuntimeError("the maker of frames stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_video(tmp_path / "clip.mp4", breaking(), 25)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, frames, message",
    [
        ("a.mkv", [np.zeros((16, 16, 3), np.uint8)], "ending in"),
        ("a.mp4", [], "no frames"),
        ("a.mp4", [np.zeros((16, 16, 3), np.float32)], "uint8"),
        ("a.gif", [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 18, 3), np.uint8)], "one size"),
    ],
)
def test_wrong_calls_are_refused(tmp_path, name, frames, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / name, frames, 25)
    assert list(tmp_path.iterdir()) == []
