import json

import numpy as np
import pytest
from PIL import Image

from cmp.evaluation.segments import (
    average_recall,
    corners_off,
    disc_around_clicks,
    grabcut_from_clicks,
    iou_from_one_click,
    list_labeled,
    read_labeled,
)
from cmp.masks import mask_iou

H, W = 30, 44


def box(x0, y0, x1, y1):
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def folders(tmp_path):
    """Three images; a has objects 2 and 7, b none, c no label."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name in "abc":
        Image.new("RGB", (W, H), (90, 20, 30)).save(tmp_path / f"images/{name}.png")
    label = np.zeros((H, W), np.uint8)
    label[box(2, 3, 12, 13)], label[box(20, 3, 40, 27)] = 2, 7
    Image.fromarray(label).save(tmp_path / "masks/a.png")
    Image.fromarray(np.zeros_like(label)).save(tmp_path / "masks/b.png")
    return tmp_path


def test_each_method_is_scored_against_each_object_by_its_own_click(folders):
    labeled = list(read_labeled(folders / "images", folders / "masks", ["a", "b"], instances=True))
    assert [item.name for item in labeled] == ["a"] and len(labeled[0].masks) == 2
    clicked = []

    def right_half(image, clicks, negative):
        clicked.append((clicks.tolist(), negative.tolist()))
        return box(22, 0, W, H)

    found = iou_from_one_click(labeled, {"half": right_half}, corners=True)
    inside = 18 * 24
    assert found["half"] == [0.0, pytest.approx(inside / (20 * 24 + (W - 22) * H - inside))]
    corners = [[0, 0], [43, 0], [0, 29], [43, 29]]
    # The first of the deepest pixels of 10 x 10 and of 20 x 24 px.
    assert clicked == [([[6, 7]], corners), ([[29, 12]], corners)]
    large = iou_from_one_click(labeled, {"half": right_half}, least_share=0.1)
    assert len(large["half"]) == 1 and clicked[-1][1] == []


def test_without_instances_all_labels_are_one_object(folders):
    (item,) = read_labeled(folders / "images", folders / "masks", ["a"])
    assert len(item.masks) == 1 and item.masks[0].sum() == 100 + 20 * 24


def test_images_are_chosen_by_label_list_and_step(folders):
    assert list_labeled(folders / "images", folders / "masks") == ["a", "b"]
    assert list_labeled(folders / "images", folders / "masks", every=2) == ["a"]
    (folders / "names.txt").write_text("b more words\na\n")
    assert list_labeled(folders / "images", folders / "masks", names=folders / "names.txt") == ["b", "a"]
    (folders / "names.txt").write_text("a\nx\n")
    for arguments, error, message in (
        (dict(names=folders / "names.txt"), FileNotFoundError, r"names.txt.*2.*no image x"),
        (dict(every=0), ValueError, "every must be at least 1"),
        (dict(labels=folders / "none"), FileNotFoundError, "no such folder or file"),
        (dict(image_dir=folders / "none"), FileNotFoundError, "no such folder"),
        (dict(image_dir=folders / "masks", labels=folders / "images"), None, None),
    ):
        if error is None:
            continue
        with pytest.raises(error, match=message):
            list_labeled(**(dict(image_dir=folders / "images", labels=folders / "masks") | arguments))


def test_a_label_of_another_size_is_named(folders):
    Image.new("L", (W, H + 1), 1).save(folders / "masks/c.png")
    with pytest.raises(ValueError, match=r"c.png: must have the size of its image, \(30, 44\), got \(31, 44\)"):
        list(read_labeled(folders / "images", folders / "masks", ["c"]))


def test_masks_are_read_from_cocos_json(folders):
    pytest.importorskip("pycocotools")
    corners = [2, 3, 12, 3, 12, 13, 2, 13]
    annotation = dict(id=1, image_id=5, category_id=1, iscrowd=0, area=100, bbox=[2, 3, 10, 10], segmentation=[corners])
    content = dict(
        images=[dict(id=5, file_name="c.png", width=W, height=H)],
        annotations=[annotation],
        categories=[dict(id=1, name="thing")],
    )
    path = folders / "instances.json"
    path.write_text(json.dumps(content))
    (item,) = read_labeled(folders / "images", path, list_labeled(folders / "images", path))
    assert item.name == "c" and np.array_equal(item.masks[0], box(2, 3, 12, 13))
    path.write_text("[1, 2")
    with pytest.raises(ValueError, match="instances.json: cannot be read as COCO's JSON"):
        list(read_labeled(folders / "images", path, ["c"]))


def test_average_recall_counts_each_proposal_once():
    one, other = box(0, 0, 10, 10), box(20, 0, 30, 10)
    assert average_recall([[one, other]], [[one, other]]) == 1
    # 100 of 130 px: found at 0.5, 0.55, ..., 0.75.
    assert average_recall([[box(0, 0, 13, 10)]], [[one, other]]) == pytest.approx(6 / 20)
    assert average_recall([[one]], [[one, one]]) == 0.5
    assert average_recall([[]], [[one]]) == 0 and np.isnan(average_recall([[one]], [[]]))
    # The wide proposal fits both objects, the other only the first: both are found.
    left, both = box(0, 0, 10, 10), box(0, 0, 20, 10)
    assert average_recall([[both, left]], [[left, box(0, 0, 18, 10)]], at=(0.5,)) == 1


def test_baselines_from_clicks():
    truth = box(10, 5, 31, 16)
    assert (
        corners_off(truth).tolist() == [[0, 0], [43, 0], [0, 29], [43, 29]] and len(corners_off(box(0, 0, 5, 5))) == 3
    )
    image = np.where(truth[..., None], np.uint8([220, 40, 40]), np.uint8([30, 60, 200]))
    image = (image + np.random.default_rng(0).integers(0, 20, image.shape)).astype(np.uint8)
    for short_side in (None, 60):
        mask = grabcut_from_clicks(image, np.array([[20, 10]]), np.array([[0, 0], [43, 29]]), short_side)
        assert mask_iou(mask, truth) > 0.85
    disc = disc_around_clicks(image, np.array([[20, 10]]), np.empty((0, 2)), 0.1)
    assert disc.sum() == 29 and disc[10, 23] and not disc[10, 24]  # radius 3 px
