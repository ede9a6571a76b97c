import numpy as np
import pytest
import torch

from cmp.datasets.bouncing_digits import BouncingDigits, bouncing_path


def write_digits(folder, part="train", images=None):
    images = np.full((3, 28, 28), 255, np.uint8) if images is None else images
    name = {"train": "train", "test": "t10k"}[part]
    for kind, values in (("images-idx3", images), ("labels-idx1", np.zeros(len(images), np.uint8))):
        head = bytes((0, 0, 8, values.ndim)) + b"".join(size.to_bytes(4, "big") for size in values.shape)
        (folder / f"{name}-{kind}-ubyte").write_bytes(head + values.tobytes())
    return [str(folder)]


@pytest.fixture
def squares(tmp_path):
    """Digits that are full squares, so that a sequence shows where they are."""
    return write_digits(tmp_path)


def corner(frame):
    """(y, x) of the upper left white pixel, and how many white pixels there are."""
    ys, xs = np.nonzero(frame)
    return (ys.min(), xs.min()), len(ys)


def test_a_path_is_what_many_tiny_steps_between_walls_give():
    rng = np.random.default_rng(0)
    room = rng.integers(3, 40, (20, 2))
    start, step = rng.random((20, 2)) * room, rng.normal(size=(20, 2)) * 15  # up to several bounces to a step
    place, velocity, places = start.copy(), step / 2000, []
    for tick in range(6 * 2000):
        if tick % 2000 == 0:
            places.append(place.copy())
        place += velocity
        velocity[(place < 0) & (velocity < 0)] *= -1
        velocity[(place > room) & (velocity > 0)] *= -1
    paths = np.stack([bouncing_path(*values, 6) for values in zip(start, step, room)], axis=1)
    difference = np.array(places) - paths  # rounded down; each bounce may come late by one tiny step
    assert difference.min() > -0.5 and difference.max() < 1.5 and abs(difference.mean() - 0.5) < 0.05


def test_a_digit_comes_back_from_each_wall():
    path = bouncing_path(np.array([2.0, 5.0]), np.array([-3.0, 4.0]), np.array([6, 10]), 6)
    assert path.tolist() == [[2, 5], [1, 9], [4, 7], [5, 3], [2, 1], [1, 5]]


def test_a_box_of_the_digits_own_size_holds_it_still():
    assert bouncing_path(np.zeros(2), np.array([3.0, -5.0]), np.array([0, 0]), 4).tolist() == [[0, 0]] * 4


def test_a_sequence_shows_one_digit_flying_at_the_speed_asked_for(squares):
    sequences = BouncingDigits(squares, num_frames=12, canvas_hw=(90, 120), num_digits=1, speed_px=5.0)
    for index in range(20):
        frames = sequences[index]["frames"]
        assert frames.shape == (12, 1, 90, 120) and frames.dtype == torch.float32
        places = [corner(frame[0].numpy()) for frame in frames]
        assert all(count == 28 * 28 for _, count in places)
        steps = np.diff(np.array([place for place, _ in places]), axis=0)
        lengths = np.hypot(*steps.T)
        assert lengths.max() < 5 + 1.5  # whole pixels
        assert np.median(lengths) > 5 - 1.5


def test_the_digits_are_those_of_the_part(tmp_path):
    for part, gray in (("train", 51), ("test", 102)):
        paths = write_digits(tmp_path, part, np.full((3, 28, 28), gray, np.uint8))
    values = [BouncingDigits(paths, part=part)[0]["frames"].max().item() for part in ("train", "test")]
    assert values == pytest.approx([0.2, 0.4])


def test_digits_start_everywhere_fly_in_all_directions_and_are_drawn_each_for_itself(tmp_path):
    images = np.repeat(np.array([90, 255], np.uint8), 28 * 28).reshape(2, 28, 28)
    paths = write_digits(tmp_path, images=images)
    options = dict(num_frames=2, canvas_hw=(200, 300), speed_px=30.0)
    one, two = (BouncingDigits(paths, num_digits=count, **options) for count in (1, 2))
    starts, steps, grays = [], [], []
    for index in range(200):
        first, second = (corner(frame[0].numpy())[0] for frame in one[index]["frames"])
        starts.append(first), steps.append(np.subtract(second, first))
        grays.append(tuple(float(gray) in two[index]["frames"] for gray in images[:, 0, 0] / np.float32(255)))
    starts, steps = np.array(starts), np.array(steps)
    assert np.histogram2d(*starts.T, bins=2, range=((0, 172), (0, 272)))[0].min() > 25  # of 50 in the mean
    free = ((starts > 30) & (starts < (142, 242))).all(axis=1)  # half of them: the others may have met a wall
    assert np.histogram2d(*steps[free].T, bins=2, range=((-31, 31), (-31, 31)))[0].min() > 10  # of 25
    assert set(grays) == {(True, True), (True, False), (False, True)}


def test_the_brighter_digit_is_seen_where_two_meet(tmp_path):
    images = np.stack([np.full((28, 28), 100, np.uint8), np.full((28, 28), 200, np.uint8)])
    sequences = BouncingDigits(write_digits(tmp_path, images=images), num_frames=1, canvas_hw=(28, 28), num_digits=40)
    assert (sequences[0]["frames"] == np.float32(200) / np.float32(255)).all()


def test_binary_sequences_are_one_where_gray_ones_are_above_a_half(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    paths = write_digits(tmp_path, images=images)
    gray, binary = (BouncingDigits(paths, binarize=binarize)[3]["frames"] for binarize in (False, True))
    assert torch.equal(binary, (gray > 0.5).float()) and 0 < binary.mean() < 1


def test_a_shrunken_digit_holds_the_means_of_squares(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (1, 28, 28)).astype(np.uint8)
    sequences = BouncingDigits(write_digits(tmp_path, images=images), canvas_hw=(7, 7), num_digits=1, shrink=4)
    expected = [[images[0, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean() / 255 for x in range(7)] for y in range(7)]
    np.testing.assert_allclose(sequences[0]["frames"][0, 0], expected, rtol=1e-5)


def test_a_sequence_follows_from_seed_epoch_and_index(squares):
    sequences, again = BouncingDigits(squares, num_sequences=5), BouncingDigits(squares, num_sequences=5)
    assert len(sequences) == 5
    assert torch.equal(sequences[2, 3]["frames"], again[2, 3]["frames"])
    assert torch.equal(sequences[2]["frames"], sequences[2, 0]["frames"])
    others = (sequences[2, 4], sequences[3, 3], BouncingDigits(squares, seed=1)[2, 3])
    assert not any(torch.equal(sequences[2, 3]["frames"], other["frames"]) for other in others)


def test_arguments_that_make_no_sense_are_refused(squares):
    for arguments, message in (
        (dict(shrink=3), "shrink must be"),
        (dict(num_frames=0), "at least 1, got 0, 2"),
        (dict(max_digits=0), "at least 1"),
        (dict(canvas_hw=(64, 27)), "sides of at least 28 px"),
        (dict(speed_px=-1.0), "speed_px must be"),
        (dict(speed_px=float("nan")), "speed_px must be"),
    ):
        with pytest.raises(ValueError, match=message):
            BouncingDigits(squares, **arguments)
    with pytest.raises(ValueError, match="one folder"):
        BouncingDigits(["a", "b"])
