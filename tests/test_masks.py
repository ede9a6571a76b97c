import numpy as np
import pytest

from cmp.masks import deepest_point, distance_to, encode_rle, grabcut, mask_iou, suppress_overlaps


def box(x0, y0, x1, y1, size_hw=(20, 31)):
    mask = np.zeros(size_hw, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_the_overlap_of_boxes_is_that_of_their_areas():
    assert mask_iou(box(0, 0, 4, 6), box(2, 0, 6, 6)) == pytest.approx(12 / 36)
    assert mask_iou(box(0, 0, 4, 6), box(4, 0, 6, 6)) == 0 and mask_iou(box(0, 0, 0, 0), box(0, 0, 0, 0)) == 0
    with pytest.raises(ValueError, match="masks must be bool and alike"):
        mask_iou(box(0, 0, 4, 6), box(0, 0, 4, 6).astype(int))


def test_of_overlapping_masks_the_best_stays():
    masks = [box(0, 0, 10, 10), box(1, 0, 11, 10), box(20, 0, 30, 10), box(0, 0, 10, 5)]
    # IoU with the first: 90 / 110, 0, 0.5; the second has IoU 45 / 105 with the last.
    assert suppress_overlaps(masks, [0.5, 0.9, 0.1, 0.4], 0.5) == [1, 3, 2]
    assert suppress_overlaps(masks, [0.9, 0.5, 0.1, 0.4], 0.5) == [0, 3, 2]
    assert suppress_overlaps(masks, [0.9, 0.5, 0.1, 0.4], 0.49) == [0, 2]
    assert suppress_overlaps([], [], 0.5) == []


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_are_read_back_by_pycocotools(seed):
    coco_masks = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(seed).random((7, 11)) < 0.5
    for case in (mask, ~mask, np.zeros_like(mask), np.ones_like(mask), box(3, 2, 9, 5)):
        rle = encode_rle(case)
        read = coco_masks.decode(coco_masks.frPyObjects(rle, *rle["size"]))
        assert np.array_equal(read.astype(bool), case)


def test_run_lengths_by_hand():
    assert encode_rle(np.array([[1, 0, 0], [1, 1, 0]], bool)) == {"size": [2, 3], "counts": [0, 2, 1, 1, 2]}


def test_the_deepest_point_is_the_middle_of_the_largest_part():
    mask = box(2, 3, 9, 10) | box(20, 2, 31, 13)
    assert deepest_point(mask).tolist() == [25, 7]
    assert deepest_point(box(30, 0, 31, 1)).tolist() == [30, 0]
    with pytest.raises(ValueError, match="not empty"):
        deepest_point(np.zeros((4, 5), bool))


def test_distances_are_to_the_nearest_point():
    assert distance_to([[3, 0], [0, 4]], (6, 8))[0, 0] == 3 and distance_to([[0, 4]], (6, 8))[0, 3] == 5
    assert np.isinf(distance_to([], (2, 3))).all()


def test_grabcut_finds_the_patch_of_another_color_around_the_click():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 40, (40, 60, 3), np.uint8)
    truth = box(20, 10, 44, 30, (40, 60))
    image[truth] = rng.integers(200, 256, (truth.sum(), 3), np.uint8)
    assert mask_iou(grabcut(image, box(12, 5, 36, 34, (40, 60)), [[30, 20]]), truth) > 0.95
    everything = np.ones((40, 60), bool)
    assert grabcut(image, everything).all() and not grabcut(image, ~everything).any()
