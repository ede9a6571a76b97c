import gzip
import tracemalloc

import numpy as np
import pytest
import torch

from cmp.datasets.digits import Digits, read_digits


def write_idx(path, values):
    head = bytes((0, 0, 8, values.ndim)) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    content = head + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture(params=["gz", "unpacked", "torchvision's"])
def folder(request, tmp_path):
    place = tmp_path / "MNIST" / "raw" if request.param == "torchvision's" else tmp_path
    place.mkdir(parents=True, exist_ok=True)
    suffix = ".gz" if request.param == "gz" else ""
    for name, count in (("train", 6), ("t10k", 3)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        write_idx(place / f"{name}-images-idx3-ubyte{suffix}", images)
        write_idx(place / f"{name}-labels-idx1-ubyte{suffix}", np.arange(count, dtype=np.uint8))
    return tmp_path


def test_what_was_written_is_read(folder):
    for part, count in (("train", 6), ("test", 3)):
        images, labels = read_digits(folder, part)
        assert labels.tolist() == list(range(count))
        assert np.array_equal(images, np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8))


def test_a_sample_is_an_image_from_0_to_1_and_its_label(folder):
    digits = Digits([str(folder)], part="train", max_digits=5)
    sample = digits[4]
    assert len(digits) == 5 and sample["label"] == 4
    expected = read_digits(folder, "train")[0][4] / np.float32(255)
    assert np.array_equal(sample["image"], expected[None]) and sample["image"].dtype == torch.float32


def test_binary_pixels_are_one_as_often_as_they_are_bright_and_drawn_anew_each_epoch(folder):
    gray = Digits([str(folder)])[0]["image"]
    random, fixed = (Digits([str(folder)], binarize=how) for how in ("random", "fixed"))
    draws = torch.stack([random[0, epoch]["image"] for epoch in range(400)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert (draws.mean(0) - gray).abs().max() < 0.12  # 4.8 standard deviations
    assert torch.equal(draws[3], random[0, 3]["image"])
    assert torch.equal(fixed[0, 0]["image"], fixed[0, 7]["image"]) and torch.equal(fixed[0, 0]["image"], draws[0])


def test_a_copy_that_cannot_be_fetched_is_a_missing_one(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr("cmp.datasets.digits.MNIST", fail)
    with pytest.raises(FileNotFoundError, match="could not be fetched: Error downloading train-images"):
        read_digits(tmp_path, "train", download=True)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte.*are not there"):
        read_digits(tmp_path, "train")
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((2, 28, 28), np.uint8))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="2 images.*3 labels"):
        read_digits(tmp_path, "train")
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="images-idx3-ubyte is cut short: 1567 bytes"):
        read_digits(tmp_path, "train")
    path.write_bytes(b"no digits here, only text")
    with pytest.raises(ValueError, match="is not an IDX file"):
        read_digits(tmp_path, "train")
    path.rename(path.with_suffix(".gz"))
    with pytest.raises(ValueError, match="is broken"):
        read_digits(tmp_path, "train")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_that_lies_about_its_size_is_refused_before_memory_is_taken(tmp_path, suffix):
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    pack = gzip.compress if suffix else bytes
    head = bytes((0, 0, 8, 3))
    for sizes, follow, said in (
        ((2, 28, 28), 1 << 24, "is too long: 1569 bytes of values or more"),  # a bomb: 16 MB, of which 1.5 kB are said
        ((2**32 - 1,) * 3, 10, "claims .*; at most 1073741824 are read"),
        ((2**15, 2**15, 1), 10, "is cut short: 10 bytes"),
    ):
        path.write_bytes(pack(head + b"".join(size.to_bytes(4, "big") for size in sizes) + bytes(follow)))
        packed = path.stat().st_size
        tracemalloc.start()
        with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte{suffix} {said}"):
            read_digits(tmp_path, "train")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < packed + (4 << 20)
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="has 1099511627776 bytes, at most"):
        read_digits(tmp_path, "train")


def test_arguments_that_make_no_sense_are_refused(folder):
    for arguments, message in (
        (dict(part="val"), "part must be one of"),
        (dict(binarize="half"), "binarize must be"),
        (dict(max_digits=0), "max_digits must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Digits([str(folder)], **arguments)
    with pytest.raises(ValueError, match="one folder"):
        Digits(["a", "b"])
