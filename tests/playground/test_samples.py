"""The images of the playground's list: photographs with an arrow, frames of videos with their true motion."""

import numpy as np
import pytest

from cmp.playground import samples
from cmp.playground.samples import list_samples, read_clip
from cmp.video import write_video

HEIGHT, WIDTH, EDGE = 72, 112, 64


def moving_texture(shift_xy, count=16):
    """Frames (H, W, 3) of a texture that moves by shift_xy px per frame, right of EDGE, over a still one."""
    rng = np.random.default_rng(0)
    still, moving = (np.kron(rng.integers(0, 256, (40, 60, 3), np.uint8), np.ones((4, 4, 1), np.uint8)) for _ in "ab")
    for number in range(count):
        frame = still[:HEIGHT, :WIDTH].copy()
        x, y = (40 - number * shift for shift in shift_xy)
        frame[:, EDGE:] = moving[y : y + HEIGHT, x : x + WIDTH - EDGE]
        yield frame


def test_the_ghost_of_a_video_is_its_motion_in_pixels_of_the_shown_image(tmp_path):
    write_video(tmp_path / "v.mp4", moving_texture((1, -1)), 20)
    sample = read_clip(tmp_path / "v.mp4", WIDTH // 2)  # shown at half its size; 4 frames are 0.2 s
    assert sample.image.shape == (HEIGHT // 2, WIDTH // 2, 3)
    starts, ends = sample.ghost[:, :2], sample.ghost[:, 2:]
    inside = (starts[:, 0] > EDGE // 2 + 6) & (starts[:, 0] < WIDTH // 2 - 6) & (starts[:, 1] > 6)
    vectors = (ends - starts)[inside]
    assert len(vectors) > 10 and np.abs(np.median(vectors, axis=0) - (2, -2)).max() < 0.3
    assert (starts[:, 0] > EDGE // 2 - 6).all()  # nothing on the still part
    assert (sample.ghost >= 0).all() and (ends < (WIDTH // 2, HEIGHT // 2)).all()
    assert sample.ghost_text.startswith("True motion to 0.20 s later, at most ")
    ((x, y, *end),) = sample.arrows  # on the part that moves, away from the border
    assert EDGE // 2 - 6 < x < 0.8 * WIDTH / 2 + 1 and 0.2 * HEIGHT / 2 - 1 < y < 0.8 * HEIGHT / 2 + 1
    assert [x, y, *end] in sample.ghost.tolist()


def test_a_still_video_has_no_ghost_and_one_frame_is_refused(tmp_path):
    write_video(tmp_path / "still.mp4", moving_texture((0, 0)), 20)
    sample = read_clip(tmp_path / "still.mp4", WIDTH)
    assert sample.ghost.shape == (0, 4) and sample.image.shape == (HEIGHT, WIDTH, 3)
    write_video(tmp_path / "one.mp4", moving_texture((1, 0), count=1), 20)
    with pytest.raises(ValueError, match="one.mp4: needs two frames"):
        read_clip(tmp_path / "one.mp4", WIDTH)
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ValueError, match="text.mp4"):
        read_clip(tmp_path / "text.mp4", WIDTH)


def test_the_users_video_comes_first_and_clips_are_listed_where_they_are_installed(tmp_path, monkeypatch):
    write_video(tmp_path / "mine.mp4", moving_texture((1, 0)), 20)
    monkeypatch.setattr(samples, "find_sample_clips", lambda: [tmp_path / "mine.mp4", tmp_path / "bikes.mp4"])
    found = list_samples(96, tmp_path / "mine.mp4")
    assert list(found) == ["Video: mine.mp4", "Astronaut", "Cat", "Coffee", "Rocket", "Video: bikes.mp4"]
    assert found["Video: mine.mp4"]().ghost.size

    def missing():
        raise FileNotFoundError("not installed")

    monkeypatch.setattr(samples, "find_sample_clips", missing)
    found = list_samples(96)
    assert list(found) == ["Astronaut", "Cat", "Coffee", "Rocket"]
    rocket = found["Rocket"]()
    assert rocket.image.shape == (64, 96, 3) and rocket.ghost.shape == (0, 4)
    np.testing.assert_allclose(rocket.arrows, [[0.51 * 96, 0.5 * 64, 0.51 * 96, 0.4 * 64]], atol=0.05)
