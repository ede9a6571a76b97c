import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from cmp.downstream.data_check import check_segmentation_data
from cmp.downstream.segmentation_data import SegmentationDataset

CLASSES = [("ground", 0), ("things", [3, 7]), ("never", 9)]


@pytest.fixture
def folder(tmp_path):
    """Three images 20x30 with labels of ids 0, 3, 7 and 255; image i is grey 50 i."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for i in range(3):
        label = np.zeros((20, 30), np.uint8)
        label[:5, :10], label[5:9, :10], label[19] = 3, 7, 255
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), np.full((20, 30, 3), 50 * i, np.uint8))
        cv2.imwrite(str(tmp_path / f"labels/{i}.png"), label)
    (tmp_path / "train.txt").write_text("0\n2 more words\n\n")
    return tmp_path


def opened(folder, ids="{part}.txt", classes=CLASSES, **arguments):
    described = dict(images="images/{id}.png", labels="labels/{id}.png", ids=ids, classes=classes, ignore_ids=[255])
    return SegmentationDataset(folder, "train", **(described | arguments))


def test_ids_come_from_the_list_and_labels_are_merged(folder):
    dataset = opened(folder)
    assert len(dataset) == 2 and dataset.names == ("ground", "things", "never")
    sample = dataset[1]
    assert sample["image"].shape == (3, 20, 30) and (sample["image"] == 100).all()
    expected = np.zeros((20, 30), np.uint8)
    expected[:9, :10], expected[19] = 1, 255
    np.testing.assert_array_equal(sample["label"], expected)


def test_without_a_list_every_matching_image_is_taken_also_in_subfolders(tmp_path):
    for name in ("left/train/b/x_left.png", "left/train/a/y_left.png", "left/train/a/y_right.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 6, 3), np.uint8))
        label = tmp_path / name.replace("left/", "fine/", 1).replace("_left", "_ids")
        label.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(label), np.zeros((4, 6), np.uint8))
    dataset = opened(tmp_path, ids=None, images="left/{part}/{id}_left.png", labels="fine/{part}/{id}_ids.png")
    assert [path.relative_to(tmp_path).as_posix() for path, _ in dataset.samples] == [
        "left/train/a/y_left.png",
        "left/train/b/x_left.png",
    ]


def test_what_matches_nothing_or_is_listed_twice_is_an_error_with_its_name(folder):
    (folder / "train.txt").write_text("0\n# again:\n1\n0\n")
    with pytest.raises(ValueError, match=r"1 ids are listed twice: .*train\.txt:4: '0', first .*train\.txt:1; remove"):
        opened(folder)
    assert len(opened(folder, ids=None)) == 3
    for name in ("3", "4"):
        cv2.imwrite(str(folder / f"labels/{name}.png"), np.zeros((20, 30), np.uint8))
    with pytest.raises(ValueError, match=r"2 labels in .* have no image \(images/\*\.png\), first \['labels/3\.png'"):
        opened(folder, ids=None)


def test_a_label_with_a_palette_is_read_by_its_indices(folder):
    picture = Image.fromarray(np.full((20, 30), 3, np.uint8), mode="P")
    picture.putpalette([0, 0, 0] * 3 + [200, 100, 50])
    picture.save(folder / "labels/0.png")
    assert (opened(folder)[0]["label"] == 1).all()


@pytest.mark.parametrize("scale", [0.45, 0.7, 1.6, 3.3])
def test_a_resized_label_has_the_classes_of_the_label_and_none_between_them(folder, scale):
    """Three classes: a mean of the first and the third would be the second, which the label does not have."""
    label = np.zeros((20, 30), np.uint8)
    label[3:12, 5:] = 9
    cv2.imwrite(str(folder / "labels/0.png"), label)
    classes = [("ground", 0), ("between", 3), ("third", 9)]
    for epoch in range(3):
        resized = opened(folder, classes=classes, scale_range=(scale, scale))[0, epoch]["label"].numpy()
        assert resized.shape == (round(20 * scale), round(30 * scale)) and set(np.unique(resized)) == {0, 2}
        # The pixel whose centre is nearest, worked out by whole numbers.
        ys, xs = ((2 * np.arange(n) + 1) * side // (2 * n) for n, side in zip(resized.shape, (20, 30)))
        assert (resized != np.where(label > 0, 2, 0)[np.ix_(ys, xs)]).mean() < 0.02


def test_image_and_label_are_scaled_cropped_and_mirrored_together(folder):
    y, x = np.mgrid[:20, :30]
    label = np.where(x < 11, 0, 3).astype(np.uint8)
    cv2.imwrite(str(folder / "labels/0.png"), label)
    cv2.imwrite(str(folder / "images/0.png"), np.repeat(np.where(label > 0, 250, 10)[..., None], 3, 2))
    dataset = opened(folder, scale_range=(0.5, 2), crop_hw=(24, 16), flip=0.5, seed=3)
    starts = set()
    for epoch in range(20):
        sample = dataset[0, epoch]
        image, label = sample["image"].numpy().astype(int)[0], sample["label"].numpy()
        assert image.shape == label.shape == (24, 16)
        clear = (label != 255) & ((image < 60) | (image > 200)) & (image != 124)
        assert ((image > 200) == (label == 1))[clear].all() and clear.mean() > 0.3
        starts.add(int(label[0, 0]))
    assert starts >= {0, 1}


def test_what_a_crop_adds_beyond_the_image_is_ignored(folder):
    label = opened(folder, crop_hw=(26, 33))[0]["label"]
    assert (label[20:] == 255).all() and (label[:, 30:] == 255).all() and (label[:19, :30] != 255).all()


def test_a_sample_follows_from_seed_epoch_and_position(folder):
    cv2.imwrite(str(folder / "images/0.png"), np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8))
    make = lambda seed: opened(folder, crop_hw=(8, 8), flip=0.5, seed=seed)  # noqa: E731
    assert (make(1)[0, 5]["image"] == make(1)[0, 5]["image"]).all()
    for other in (make(1)[0, 6], make(2)[0, 5]):
        assert (make(1)[0, 5]["image"] != other["image"]).any()


def test_missing_files_are_named_when_the_dataset_is_opened(folder):
    (folder / "labels/2.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 files of part 'train' are missing.*labels.2.png"):
        opened(folder)
    with pytest.raises(FileNotFoundError, match="nothing.txt"):
        opened(folder, ids="nothing.txt")
    with pytest.raises(ValueError, match="no samples"):
        opened(folder, ids=None, images="images/{id}.jpeg")


@pytest.mark.parametrize("odd", ["\u3000", "\u00a0", "\u202f", "\u0085", "\u2028"])
def test_lists_of_ids_are_read_by_the_rules_for_lists_and_missing_files_name_their_lines(folder, odd):
    for name in ("images", "labels"):
        (folder / name / f"a{odd}b.png").write_bytes((folder / name / "0.png").read_bytes())
    (folder / "train.txt").write_bytes(f"\ufeff# ids\r\n0 1\r\n\r\n\ta{odd}b\tmore\r\n".encode())
    assert [path.stem for path, _ in opened(folder).samples] == ["0", f"a{odd}b"]
    (folder / "train.txt").write_text("0\n# typo\n0.png\n")
    with pytest.raises(FileNotFoundError, match=r"2 files of part 'train' are missing.*0\.png\.png \(.*train\.txt:3\)"):
        opened(folder)


def test_a_description_that_contradicts_itself_is_refused(folder):
    with pytest.raises(ValueError, match="things: label id 0 is described twice"):
        opened(folder, classes=[("ground", 0), ("things", [0, 7])])
    with pytest.raises(ValueError, match="0..255, got 256"):
        opened(folder, classes=[("ground", 256)])


def test_reading_a_sample_names_what_is_wrong_with_it(folder):
    with pytest.raises(ValueError, match=r"labels.0.png has label ids \[7\]"):
        opened(folder, classes=[("ground", 0), ("things", 3)])[0]
    cv2.imwrite(str(folder / "labels/0.png"), np.zeros((30, 20), np.uint8))
    with pytest.raises(ValueError, match=r"labels.0.png is \(30, 20\) pixels"):
        opened(folder)[0]
    cv2.imwrite(str(folder / "labels/0.png"), np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(ValueError, match="labels.0.png cannot be read as a label image: it has pixels of mode 'RGB'"):
        opened(folder)[0]
    (folder / "images/0.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="images.0.png cannot be read"):
        opened(folder)[0]


def test_a_check_names_every_problem_at_once_and_classes_that_never_occur(folder):
    assert check_segmentation_data(opened(folder)).problems == []
    report = check_segmentation_data(opened(folder))
    assert report.empty_classes == ["never"]
    assert report.shares["things"] == pytest.approx(90 / 570)  # 9 x 10 of the 19 x 30 that are not ignored

    cv2.imwrite(str(folder / "labels/0.png"), np.full((20, 31), 4, np.uint8))
    (folder / "images/2.png").write_bytes(b"nothing")
    (folder / "labels/2.png").write_bytes(b"nothing")
    problems = "\n".join(check_segmentation_data(opened(folder)).problems)
    for part in (
        "0.png is (20, 31) pixels",
        "0.png has label ids out of range: 4 (620 px)",
        "0.png has no pixel of any class",
        "images/2.png cannot be read as an image",
        "labels/2.png cannot be read",
    ):
        assert part in problems


def test_half_a_picture_is_found_though_opencv_reads_it(folder):
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    (folder / "images/0.png").write_bytes(whole[: len(whole) // 2])  # a name says little
    (problem,) = check_segmentation_data(opened(folder)).problems
    assert "images/0.png cannot be read as an image: the file is broken: image file is truncated" in problem


def test_label_ids_of_few_bits_are_not_stretched_and_16_bit_images_are_not_white(folder):
    ids = np.random.default_rng(1).choice(np.uint8([0, 3, 7]), (20, 30))
    header = struct.pack(">IIBBBBB", 30, 20, 4, 0, 0, 0, 0)  # gray, 4 bits
    rows = b"".join(b"\0" + (16 * row[::2] + row[1::2]).astype(np.uint8).tobytes() for row in ids)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    data = b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts)
    (folder / "labels/0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    deep = np.tile(np.linspace(0, 65535, 30).astype(np.uint16), (20, 1))
    Image.fromarray(deep).save(folder / "images/0.png")
    dataset = opened(folder)
    image, label = dataset.read(0)
    np.testing.assert_array_equal(label, dataset.class_of_id[ids])
    np.testing.assert_array_equal(image[..., 0], np.rint(deep / 257))
