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


def test_a_mask_is_sized_by_its_own_pixels_and_not_by_its_box(folder):
    """A ring of few pixels around a large box is a small mask: found wrongly and with more certainty than the true
    small object it halves the precision of small masks, while as a box it is not small."""
    file = folder / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    square = content["annotations"][2]  # the one of image 2: 40 x 24 px, less than 32 x 32
    assert square["image_id"] == 2 and square["area"] == 960
    content["annotations"] = [square]
    file.write_text(json.dumps(content))
    target = CocoInstances(folder, "train", train=True)[0]["target"]
    ring = torch.zeros(1, 60, 80)
    ring[:, 2:58, 2:78] = 1
    ring[:, 3:57, 3:77] = 0
    assert 0 < ring.sum() < 32**2 < 56 * 76 < 96**2
    found = dict(
        boxes=torch.cat([torch.tensor([[2.0, 2, 78, 58]]), target["boxes"]]),
        labels=target["labels"].repeat(2),
        scores=torch.tensor([0.9, 0.5]),
        masks=torch.stack([ring, target["masks"].float()]),
    )
    metric = CocoMetric(file)
    metric.process(dict(image_id=[2]), [found])
    metrics = metric.evaluate(1)
    assert metrics["mask_AP_small"] == pytest.approx(50) and metrics["box_AP_small"] == pytest.approx(100)
    assert metrics["mask_AP"] == pytest.approx(50) and metrics["box_AP"] == pytest.approx(50)


def test_class_lists_and_labels_are_read_by_the_rules_for_lists(tmp_path):
    source = tmp_path / "yolo"
    for name in ("images", "labels"):
        (source / name / "train").mkdir(parents=True)
    cv2.imwrite(str(source / "images/train/0.png"), np.zeros((60, 80, 3), np.uint8))
    (source / "labels/train/0.txt").write_bytes(f"\ufeff# one\r\n\r\n{SQUARE}\r\n".encode())
    (source / "classes.txt").write_bytes("\ufeff# names\r\n7 big\u3000truck\r\n\r\n".encode())
    assert yolo_to_coco(source, tmp_path / "out", "train") == (1, 1)
    content = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert content["categories"] == [{"id": 8, "name": "big\u3000truck"}]
    for line in ("car", "x car", "7 twice", "07 twice", "²  car"):
        (source / "classes.txt").write_text(f"7 big\n\n{line}\n")
        with pytest.raises(ValueError, match=r"classes\.txt:3: want"):
            yolo_to_coco(source, tmp_path / "out", "train")


def yolo_set(root, images, labels):
    for name in ("images/train", "labels/train"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("2 car\n7 truck\n")
    for name in images:
        cv2.imwrite(str(root / "images/train" / name), np.zeros((60, 80, 3), np.uint8))
    for name, text in labels.items():
        (root / "labels/train" / name).write_text(text)
    return root


@pytest.mark.parametrize(
    "images, labels, said",
    [
        (
            ["0.png"],
            {"0.txt": SQUARE, "O.txt": SQUARE},
            r"labels/train/O\.txt: no image of this name in .*images/train",
        ),
        (
            ["0.png"],
            {f"{i}.txt": SQUARE for i in range(9)},
            r"labels/train/5\.txt and more, 8 label files in all: no image",
        ),
        (["0.png", "0.bmp"], {"0.txt": SQUARE}, r"images/train: 0\.bmp; 0\.png differ only in their suffix"),
        (["0.png"], {"0.txt": f"{SQUARE}\n5{SQUARE[1:]}\n"}, r"0\.txt:2: class '5' is not in classes\.txt$"),
        (["0.png"], {"0.txt": f"5{SQUARE[1:]}\n" * 7}, r"0\.txt:5: class '5' is .* and more, 7 lines in all"),
    ],
    ids=["no image", "many without an image", "two images of one name", "unknown class", "many of an unknown class"],
)
def test_labels_that_match_nothing_are_an_error_before_anything_is_written(tmp_path, images, labels, said):
    source = yolo_set(tmp_path / "set", images, labels)
    with pytest.raises(ValueError, match=said) as refused:
        yolo_to_coco(source, tmp_path / "out", "train")
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


def test_a_list_of_classes_among_the_labels_is_no_label_and_a_missing_folder_of_labels_is_an_error(tmp_path):
    source = yolo_set(tmp_path / "set", ["0.png", "1.png"], {"0.txt": SQUARE, "classes.txt": "car\ntruck\n"})
    assert yolo_to_coco(source, tmp_path / "out", "train") == (2, 1)
    (source / "labels/train").rename(source / "labels/training")
    with pytest.raises(FileNotFoundError, match="no such folder: .*labels/train"):
        yolo_to_coco(source, tmp_path / "out", "train")


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/hostname", 5])
def test_a_file_name_of_annotations_that_leads_out_of_the_folder_is_refused(folder, name):
    path = folder / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="image 2 has the file name .* which leads out of its folder"):
        opened(folder)


def test_an_image_that_annotations_list_twice_is_an_error(folder):
    path = folder / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    content["images"].append(content["images"][0] | {"id": 9})
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="1 files are listed twice, first '0.png'"):
        opened(folder)


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
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        CocoInstances(folder, "val")
    cv2.imwrite(str(folder / "train/1.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match=r"1.png is \(9, 9\) pixels"):
        opened(folder)[1]
    (folder / "train/1.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 images of .* are missing"):
        opened(folder)
    (folder / "annotations/instances_train.json").write_text("[]")
    with pytest.raises(ValueError, match="cannot be read as COCO annotations"):
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
        assert "0.txt:1" in (text := capsys.readouterr().err) and said in text
