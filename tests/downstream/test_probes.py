import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cmp.downstream.probes import Encoder, Features, extract, image_folder, knn_accuracy, linear_accuracy
from tools.evaluate import main


def features(values, labels, classes="ab"):
    values = torch.tensor(values, dtype=torch.float32)
    return Features(values, torch.tensor(labels), tuple(map(str, range(len(labels)))), tuple(classes))


def test_neighbors_vote_by_cosine_whatever_the_length_of_features():
    train = features([[1, 0], [10, 0.1], [0, 1], [0.1, 0.2]], [0, 0, 1, 1])
    test = features([[0.01, 0], [0, 99], [3, 1]], [0, 1, 1])
    assert knn_accuracy(train, test, k=1) == pytest.approx(200 / 3)  # (3, 1) lies nearest to (10, 0.1), which is wrong
    assert knn_accuracy(train, features([[0.2, 9]], [1]), k=4) == 100  # two against two: the nearer ones weigh more


def test_a_slow_vote_by_the_definition_agrees():
    rng = np.random.default_rng(0)
    train = features(rng.normal(size=(30, 5)), rng.integers(0, 3, 30), "abc")
    test = features(rng.normal(size=(20, 5)), rng.integers(0, 3, 20), "abc")
    right = 0
    for value, label in zip(test.values.numpy(), test.labels.tolist()):
        cosines = [v @ value / np.linalg.norm(v) / np.linalg.norm(value) for v in train.values.numpy()]
        votes = [0.0] * 3
        for i in np.argsort(cosines)[::-1][:7]:
            votes[int(train.labels[i])] += np.exp(cosines[i] / 0.07)
        right += int(np.argmax(votes)) == label
    assert knn_accuracy(train, test, k=7) == pytest.approx(100 * right / 20)


def test_a_linear_classifier_tells_apart_what_a_plane_divides_at_any_scale_and_not_what_it_cannot():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 2))
    plane = (points @ [1, -2] > 0.3).astype(int)
    crossed = (points[:, 0] * points[:, 1] > 0).astype(int)
    scaled = points * [1000, 1e-3] + [5, -1]
    for values, labels, low, high in ((scaled, plane, 95, 100), (scaled, crossed, 30, 70)):
        train, test = features(values[:200], labels[:200]), features(values[200:], labels[200:])
        assert low <= linear_accuracy(train, test)[0] <= high


def test_test_images_are_standardised_as_the_training_images_were():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 2))
    train = features(points, (points[:, 0] > 0).astype(int))
    one_side = rng.normal(size=(100, 2)) + [3, 0]  # all of one class: by themselves they would be torn in two
    assert linear_accuracy(train, features(one_side, np.ones(100, int)))[0] > 95


def test_other_classes_and_impossible_numbers_of_neighbors_are_refused():
    train = features([[1, 0], [0, 1]], [0, 1])
    with pytest.raises(ValueError, match=r"different classes: \['b', 'c'\]"):
        knn_accuracy(train, features([[1, 0]], [0], "ac"))
    with pytest.raises(ValueError, match="k must be between 1 and 2"):
        knn_accuracy(train, train, k=3)


@pytest.fixture
def folder(tmp_path):
    """Two parts with a folder a class: reddish and bluish noise."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 5)):
        for name, channel in (("blue", 0), ("red", 2)):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 120, (30, 40, 3))
                image[..., channel] += 130
                cv2.imwrite(str(tmp_path / part / name / f"{i}.png"), image.astype(np.uint8))
    return tmp_path


def test_pooled_features_are_those_of_each_image_alone(folder):
    encoder = Encoder("random", "resnet18", seed=1)
    images = image_folder(folder / "test", 64)
    found = extract(encoder, images, batch_size=4)
    assert (
        found.values.shape == (10, 512)
        and found.classes == ("blue", "red")
        and found.labels.tolist() == [0] * 5 + [1] * 5
    )
    image = cv2.imread(found.paths[7])[..., ::-1].copy()
    assert image[..., 0].mean() > 130  # red is the first channel
    np.testing.assert_allclose(images[7][0].float().mean((1, 2)), image.mean((0, 1)), atol=3)
    alone = encoder(images[7][0][None]).mean((2, 3))[0]
    torch.testing.assert_close(found.values[7], alone, rtol=1e-4, atol=1e-4)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    normalized = (images[7][0] - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(encoder.bare(normalized[None])[-1].mean((2, 3))[0], alone)
    other = Encoder("random", "resnet18", seed=2)
    assert not torch.equal(other.bare.net.conv1.weight, encoder.bare.net.conv1.weight)


@pytest.mark.parametrize("task", ("knn", "linear"))
def test_the_command_prints_the_accuracy_and_its_chance_level(folder, task, capsys, tmp_path_factory):
    options = ["-k", "3"] if task == "knn" else []
    assert main([task, "random", str(folder), "--size", "64", "--device", "cpu", *options]) == 0
    assert "100.0 % of 10 images right (chance 50.0 %, 24 to learn from)" in capsys.readouterr().out
    out = tmp_path_factory.mktemp("results")
    assert main([task, "random", str(folder), "--size", "64", "--device", "cpu", "--out", str(out), *options]) == 0
    kept = json.loads((out / "metrics.json").read_text())
    assert (kept["accuracy"], kept["seed"], kept["backbone"]) == (100, 0, "random") and "commit" in kept["start"]
    capsys.readouterr()
    assert main([task, "random", str(folder), "--parts", "train", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_images_of_16_bits_turned_or_transparent_are_seen_as_viewers_show_them_and_a_broken_one_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    ramp = np.tile(np.linspace(0, 65535, 60).astype(np.uint16), (40, 1))
    Image.fromarray(ramp).save(tmp_path / "a" / "deep.png")  # was white
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray((ramp >> 8).astype(np.uint8)).save(tmp_path / "a" / "turned.png", exif=exif)
    Image.new("RGBA", (60, 40), (0, 0, 0, 0)).save(tmp_path / "a" / "unseen.png")
    deep, turned, unseen = (image for image, _ in image_folder(tmp_path, 40))
    expected = np.tile(np.rint(np.linspace(0, 255, 60))[10:50], (40, 1))
    assert np.abs(deep.numpy() - expected).max() <= 1 and np.abs(turned.numpy() - expected[:, ::-1]).max() <= 1
    assert (unseen == 255).all()
    (tmp_path / "a" / "broken.png").write_bytes(b"text")
    with pytest.raises(ValueError, match="broken.png cannot be read as an image"):
        image_folder(tmp_path, 40)[0]
