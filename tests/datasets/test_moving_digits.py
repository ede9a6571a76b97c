import numpy as np
import pytest
import torch

from cmp.datasets.moving_digits import MovingDigits, motion_class, move


@pytest.fixture
def paths(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28)).astype(np.uint8)
    images[:, :, 20:] = 0
    for part, shown in (("train", images), ("t10k", images[::-1])):
        for kind, values in (("images-idx3", shown), ("labels-idx1", np.zeros(6, np.uint8))):
            head = bytes((0, 0, 8, values.ndim)) + b"".join(size.to_bytes(4, "big") for size in values.shape)
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(head + values.tobytes())
    return [str(tmp_path)]


def test_classes_go_row_by_row_through_all_shifts():
    shifts = [(dx, dy) for dy in range(-2, 3) for dx in range(-2, 3)]
    assert [motion_class(dx, dy, 2) for dx, dy in shifts] == list(range(25))


def test_a_moved_image_has_each_pixel_where_it_went():
    image = np.arange(1, 21).reshape(4, 5)
    for dx, dy in ((0, 0), (2, -1), (-3, 2), (5, 0), (0, -4), (-7, 9)):
        expected = np.zeros_like(image)
        for y in range(4):
            for x in range(5):
                if 0 <= y + dy < 4 and 0 <= x + dx < 5:
                    expected[y + dy, x + dx] = image[y, x]
        assert np.array_equal(move(image, dx, dy), expected)
    assert np.array_equal(image, np.arange(1, 21).reshape(4, 5))


@pytest.mark.parametrize("max_shift_px", [1, 2, 3, 5])
def test_going_by_its_class_every_pixel_of_the_digit_meets_itself_in_the_middle_frame(paths, max_shift_px):
    digits = MovingDigits(paths, max_shift_px=max_shift_px, noise=0.0)
    side = 2 * max_shift_px + 1
    for index in range(6):
        for epoch in range(4):
            sample = digits[index, epoch]
            frames = sample["frames"][:, 0].numpy()
            for start, classes in ((frames[1], sample["forward"]), (frames[3], sample["backward"])):
                for y, x in zip(*np.nonzero(start)):
                    dy, dx = divmod(int(classes[y, x]), side)
                    dy, dx = dy - max_shift_px, dx - max_shift_px
                    if 0 <= y + dy < 32 and 0 <= x + dx < 32:
                        assert frames[2, y + dy, x + dx] == start[y, x]


def test_the_digit_goes_on_by_the_same_step_and_is_centered_in_the_third_frame(paths):
    digits = MovingDigits(paths, noise=0.0)
    sample = digits[1, 5]
    dx, dy = sample["shift_xy"].tolist()
    digit = np.pad(digits.images[1].astype(np.float32) / 255, 2)
    assert (dx, dy) != (0, 0)
    for k, frame in enumerate(sample["frames"][:, 0].numpy()):
        assert np.array_equal(frame, move(digit, (k - 2) * dx, (k - 2) * dy))


def test_the_digits_are_those_of_the_part(paths):
    train, test = (MovingDigits(paths, part=part, noise=0.0) for part in ("train", "test"))
    assert all(torch.equal(train[i]["frames"][2], test[5 - i]["frames"][2]) for i in range(6))
    assert not torch.equal(train[0]["frames"][2], test[0]["frames"][2])


def test_pixels_without_digit_show_one_noise_in_all_frames_and_are_said_to_be_still(paths):
    noisy, black = MovingDigits(paths)[2, 1], MovingDigits(paths, noise=0.0)[2, 1]
    empty = black["frames"] == 0
    assert torch.equal(noisy["frames"][~empty], black["frames"][~empty])
    shown = [frame[none] for frame, none in zip(noisy["frames"], empty)]
    assert all(0 <= values.min() and 0.45 < values.max() < 0.5 and abs(values.mean() - 0.25) < 0.03 for values in shown)
    both = empty[0] & empty[4]
    assert torch.equal(noisy["frames"][0][both], noisy["frames"][4][both])
    still = motion_class(0, 0, 3)
    assert (noisy["forward"][empty[1, 0]] == still).all() and (noisy["backward"][empty[3, 0]] == still).all()


def test_steps_are_drawn_evenly_from_all_that_are_allowed(paths):
    digits = MovingDigits(paths, max_shift_px=1)
    classes = [motion_class(*digits[0, epoch]["shift_xy"].tolist(), 1) for epoch in range(900)]
    assert (np.abs(np.bincount(classes, minlength=9) - 100) < 48).all()  # five standard deviations


def test_a_sample_follows_from_seed_epoch_and_index(paths):
    first, again, later = MovingDigits(paths)[3, 2], MovingDigits(paths)[3, 2], MovingDigits(paths)[3, 3]
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["frames"], later["frames"])
    assert not torch.equal(first["frames"], MovingDigits(paths, seed=1)[3, 2]["frames"])
    assert torch.equal(MovingDigits(paths)[3]["frames"], MovingDigits(paths)[3, 0]["frames"])
    assert len(MovingDigits(paths, part="test", max_digits=4)) == 4


def test_arguments_that_make_no_sense_are_refused(paths):
    for arguments, message in (
        (dict(max_shift_px=0), "max_shift_px must be"),
        (dict(canvas_px=27), "canvas_px must be"),
        (dict(canvas_px=31), "canvas_px must be"),
        (dict(noise=1.5), "noise must be"),
        (dict(max_digits=0), "max_digits must be"),
    ):
        with pytest.raises(ValueError, match=message):
            MovingDigits(paths, **arguments)
    with pytest.raises(ValueError, match="one folder"):
        MovingDigits([])


def test_covered_pixels_and_those_that_one_side_shows_follow_from_where_the_digit_is(paths):
    digits, seen = MovingDigits(paths, noise=0.0, max_shift_px=2), set()
    for epoch in range(6):
        sample = digits[2, epoch]
        digit = sample["frames"][:, 0].numpy() > 0
        for y in range(32):
            for x in range(32):
                before, middle, after = digit[1:4, y, x]
                assert bool(sample["covered"][0, y, x]) == (middle and not before)
                assert bool(sample["covered"][1, y, x]) == (middle and not after)
                side = 0 if middle or before == after else 1 if after else -1
                assert sample["visible_side"][y, x] == side
                seen.add(side)
    assert seen == {-1, 0, 1}
