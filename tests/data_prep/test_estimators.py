"""Estimators against pictures whose flow is known."""

import cv2
import numpy as np
import pytest

from data_prep.estimators import ESTIMATORS, create_estimator


def shifted_pair(height, width, dx, dy, seed=0):
    """(first, second): what is at (x, y) in the first is at (x + dx, y + dy) in the second."""
    rng = np.random.default_rng(seed)
    big = cv2.resize(rng.integers(0, 255, (height // 4 + 8, width // 4 + 8, 3), np.uint8), (width + 16, height + 16))
    return big[8 : 8 + height, 8 : 8 + width].copy(), big[8 - dy : 8 - dy + height, 8 - dx : 8 - dx + width].copy()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_shift_is_found_in_pixels_x_before_y(name):
    flow = create_estimator(name).estimate(*shifted_pair(96, 128, 4, -2))
    assert flow.shape == (96, 128, 2) and flow.dtype == np.float32
    assert np.abs(np.median(flow[10:-10, 10:-10], axis=(0, 1)) - [4, -2]).max() < 0.1


@pytest.mark.parametrize("size_hw", [(48, 48), (16, 24), (8, 40), (5, 5), (1, 1)])
def test_tiny_frames_are_handled(size_hw):
    first, second = shifted_pair(*size_hw, 1, 0)
    flow = create_estimator("dis-medium").estimate(first, second)
    assert flow.shape == (*size_hw, 2) and flow.dtype == np.float32 and np.isfinite(flow).all()
    if min(size_hw) >= 16:
        assert np.abs(np.median(flow, axis=(0, 1)) - [1, 0]).max() < 0.2


def test_the_same_pair_gives_the_same_bits_whatever_came_before():
    pair, other = shifted_pair(60, 80, 3, 1), shifted_pair(60, 80, -5, 2, seed=1)
    fresh = create_estimator("dis-medium").estimate(*pair)
    used = create_estimator("dis-medium")
    used.estimate(*other)
    used.estimate(*shifted_pair(96, 128, 4, -2))
    assert (used.estimate(*pair) == fresh).all()


def test_descriptions_name_the_estimator_and_its_version():
    for name in ESTIMATORS:
        about = create_estimator(name).describe()
        assert about["name"] == name and cv2.__version__ in about["version"] and isinstance(about["settings"], dict)


def test_unknown_names_and_wrong_frames_are_refused():
    with pytest.raises(ValueError, match="dis-medium"):
        create_estimator("raft")
    estimator = create_estimator()
    frame = np.zeros((40, 50, 3), np.uint8)
    for first, second in ((frame, frame[:-1]), (frame[..., 0], frame[..., 0]), (frame / 1.0, frame / 1.0)):
        with pytest.raises(ValueError, match="frames must be"):
            estimator.estimate(first, second)


def test_dis_is_close_to_the_ground_truth_of_middlebury(shared_dir):
    from cmp.flow.io import read_flow

    folder = shared_dir / "data" / "flow" / "middlebury" / "RubberWhale"
    frames = [cv2.imread(str(folder / f"frame{number}.png"))[..., ::-1] for number in (10, 11)]
    truth, valid = read_flow(folder / "flow10.flo", return_valid=True)
    flow = create_estimator().estimate(*map(np.ascontiguousarray, frames))
    assert np.hypot(*np.moveaxis(flow - truth, 2, 0))[valid].mean() < 0.4
