import json
import math

import cv2
import numpy as np
import pytest
import torch

from cmp.downstream.detection import CocoMetric, DetectionNet
from cmp.downstream.detection_data import CocoInstances, as_lists
from cmp.downstream.yolo_labels import yolo_to_coco
from tools.yolo_to_coco import main

pytest.importorskip("pycocotools")
SQUARE, TRIANGLE = "7 0.25 0.2 0.75 0.2 0.75 0.6 0.25 0.6", "2 0.5 0.5 1 0.5 0.5 1"


@pytest.fixture
def folder(tmp_path):
    """Two images 60x80 (H, W) with labels of the YOLO kind, converted: a square and a triangle; a square; and a third
    image of nothing."""
    source, out = tmp_path / "yolo", tmp_path / "coco"
    for name in ("images", "labels"):
        (source / name / "train").mkdir(parents=True)
    (source / "classes.txt").write_text("2 car\n7 big truck\n9 nobody\n")
    for i, lines in enumerate(([SQUARE, TRIANGLE], [SQUARE], None)):
        image = np.random.default_rng(i).integers(0, 255, (60, 80, 3), np.uint8)
        cv2.imwrite(str(source / f"images/train/{i}.png"), image)
        if lines:
            (source / f"labels/train/{i}.txt").write_text("\n".join(lines) + "\n")
    assert yolo_to_coco(source, out, "train") == (3, 3)
    return out


def opened(folder, **arguments):
    return CocoInstances(folder, "train", **arguments)


def test_polygons_become_boxes_areas_and_categories(folder):
    content = json.loads((folder / "annotations/instances_train.json").read_text())
    square, triangle, _ = content["annotations"]
    assert square["bbox"] == [20, 12, 40, 24] and square["area"] == 40 * 24
    assert triangle["bbox"] == [40, 30, 40, 30] and triangle["area"] == 40 * 30 / 2
    assert triangle["segmentation"] == [[40, 30, 80, 30, 40, 60]]
    assert {c["id"]: c["name"] for c in content["categories"]} == {3: "car", 8: "big truck", 10: "nobody"}
    assert [square["category_id"], triangle["category_id"]] == [8, 3] and content["images"][0]["width"] == 80


def test_a_sample_has_boxes_classes_from_one_and_masks_and_training_leaves_out_empty_images(folder):
    dataset = opened(folder, train=True)
    assert len(dataset) == 2 and len(opened(folder)) == 3 and dataset.names == ("car", "big truck", "nobody")
    target = dataset[0]["target"]
    assert target["boxes"].tolist() == [[20, 12, 60, 36], [40, 30, 80, 60]] and target["labels"].tolist() == [2, 1]
    expected = np.zeros((60, 80))
    expected[12:36, 20:60] = 1
    assert np.abs(target["masks"][0].numpy() - expected).sum() < 0.1 * expected.sum()


def test_mirroring_moves_image_boxes_and_masks_together(folder):
    plain, mirrored = opened(folder, train=True)[0], opened(folder, train=True, flip=1.0)[0]
    assert torch.equal(mirrored["image"], plain["image"].flip(2))
    assert torch.equal(mirrored["target"]["masks"], plain["target"]["masks"].flip(2))
    assert mirrored["target"]["boxes"].tolist() == [[20, 12, 60, 36], [0, 30, 40, 60]]


def found_as_in(target, shift=0, scores=None):
    boxes = target["boxes"] + torch.tensor([shift, 0, shift, 0])
    masks = torch.roll(target["masks"], shift, dims=2)[:, None].float()
    scores = torch.ones(len(boxes)) if scores is None else torch.tensor(scores)
    return dict(boxes=boxes, labels=target["labels"], scores=scores, masks=masks)


def judged(folder, **arguments):
    metric, dataset = CocoMetric(folder / "annotations/instances_train.json"), opened(folder, train=True)
    for i in range(2):
        batch = as_lists([dataset[i]])
        metric.process(batch, [found_as_in(dataset[i]["target"], **arguments)])
    empty = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0), scores=torch.zeros(0), masks=torch.zeros(0, 1, 60, 80))
    metric.process(dict(image_id=[3]), [empty])
    return metric.evaluate(3)


def test_the_truth_itself_has_full_precision_and_a_shift_costs_where_overlap_is_asked_for(folder):
    right = judged(folder)
    assert right["box_AP"] == pytest.approx(100) and right["mask_AP"] == pytest.approx(100) and right["images"] == 3
    assert math.isnan(right["box_AP_large"])  # there is no large object
    shifted = judged(folder, shift=10)  # of 40 px: an overlap of 30 / 50
    assert shifted["box_AP50"] == pytest.approx(100) and shifted["box_AP75"] == 0
    assert shifted["box_AP"] == pytest.approx(30)  # found at 0.5, 0.55 and 0.6 of the ten thresholds


def test_nothing_found_is_a_precision_of_zero(folder):
    metric = CocoMetric(folder / "annotations/instances_train.json")
    metric.results = [[], [], []]
    assert metric.evaluate(3)["box_AP"] == 0


def test_a_net_learns_from_its_losses_and_predicts_in_the_image_s_own_pixels(folder):
    torch.manual_seed(0)
    net = DetectionNet("resnet18", num_classes=3, short_side_px=64, long_side_px=96)
    dataset = opened(folder, train=True)
    batch = as_lists([dataset[0], dataset[1]])
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-4)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        parts = net(**batch)
        assert len(parts) == 5
        sum(parts.values()).backward()
        if not losses:
            assert [key for key, p in net.named_parameters() if p.grad is None] == []
        optimizer.step()
        losses.append(sum(parts.values()).item())
    assert losses[-1] < 0.8 * losses[0]
    for found in net.eval().predict(batch["image"]):
        assert found["masks"].shape[1:] == (1, 60, 80) and found["boxes"].shape[1] == 4
        assert len(found["boxes"]) == 0 or found["boxes"][:, 2].max() <= 80


def test_the_backbone_s_stages_enter_the_pyramid(folder):
    net = DetectionNet("resnet18", num_classes=3)
    maps = net.net.backbone.eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps.values()] == [(1, 256, 64 // s, 96 // s) for s in (4, 8, 16, 32)] + [
        (1, 256, 1, 2)
    ]
    with pytest.raises(ValueError, match="must be a ResNet"):
        DetectionNet("alexnet_fcn")


def test_images_are_fed_as_the_backbone_was_trained_whatever_range_torchvision_takes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("cmp.downstream.backbone.PUBLISHED_MEAN", (10.0, 20.0, 30.0))
    monkeypatch.setattr("cmp.downstream.backbone.PUBLISHED_STD", (2.0, 4.0, 5.0))
    net = DetectionNet("resnet18", num_classes=3, short_side_px=64, long_side_px=64).eval()
    image = torch.full((3, 64, 64), 50, dtype=torch.uint8)
    seen = net.net.transform([image.float() / 255])[0].tensors[0, :, 32, 32]
    torch.testing.assert_close(seen, torch.tensor([20.0, 7.5, 4.0]))  # (50 - mean) / std
    assert net.describe()["mean"] == pytest.approx([10, 20, 30])


def test_crowds_are_left_out_of_training(folder):
    file = folder / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][1]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    assert opened(folder, train=True)[0]["target"]["labels"].tolist() == [2]


@pytest.mark.parametrize(
    "change, said",
    (
        (lambda content: content["annotations"][0].update(category_id=99), "annotation 1 is of category 99"),
        (lambda content: content["annotations"][0].update(image_id=77), "annotation 1 is of image 77"),
        (lambda content: content["annotations"][1].pop("bbox"), "annotation 2 has no bbox"),
        (lambda content: content["annotations"][1].pop("segmentation"), "annotation 2 has no segmentation"),
        (lambda content: content["annotations"][1].update(bbox=[1, 2, 3]), "annotation 2 has a box of 3 numbers"),
        (lambda content: content["annotations"][1].update(id=1), "1 annotations have an id that another one has"),
        (lambda content: content["images"][0].pop("height"), "has no height"),
    ),
)
def test_annotations_that_reading_would_stumble_over_are_named_before_it(folder, change, said):
    file = folder / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    assert [annotation["id"] for annotation in content["annotations"]] == [1, 2, 3]
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"instances_train.json: .* entries are wrong: .*{said}"):
        opened(folder)


def test_wrong_data_is_named(folder, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="no annotations"):
        CocoInstances(folder, "val")
    cv2.imwrite(str(folder / "train/1.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match=r"1.png is \(9, 9\) pixels"):
        opened(folder)[1]
    (folder / "train/1.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 images of .* are missing"):
        opened(folder)
    (folder / "annotations/instances_train.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no COCO annotations"):
        opened(folder)
    source = tmp_path / "yolo"
    assert main([str(source), str(tmp_path / "again"), "--parts", "train"]) == 0
    for line, said in (
        ("5 0 0 1 0 1 1", "class '5' is not in"),
        ("7 0 0 1", "got 3 numbers"),
        ("7 0 0 1 0 1 2", "0..1"),
    ):
        (source / "labels/train/0.txt").write_text(line)
        assert main([str(source), str(tmp_path / "again"), "--parts", "train"]) == 2
        assert "0.txt, line 1" in (text := capsys.readouterr().err) and said in text
