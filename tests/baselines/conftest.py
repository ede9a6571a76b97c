"""Small data for the baselines, laid out as the real data is."""

import gzip

import numpy as np
import pytest

from cmp.video import write_video


def write_idx(path, values):
    head = bytes((0, 0, 8, values.ndim)) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    content = head + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    """A folder like MNIST's, with 40 and 12 images of a bright bar in one of ten places on black."""
    folder = tmp_path_factory.mktemp("digits")
    for name, count in (("train", 40), ("t10k", 12)):
        labels = np.arange(count) % 10
        images = np.zeros((count, 28, 28), np.uint8)
        for image, label in zip(images, labels):
            image[4:24, 4 + 2 * label : 7 + 2 * label] = 200
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.fixture(scope="session")
def videos_folder(tmp_path_factory):
    """Six short videos of a bright square that slides over a colored ground, each in another way."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(6):
        ground = np.linspace(40, 140, 32 * 40 * 3).reshape(32, 40, 3).astype(np.uint8)
        frames = np.repeat(np.roll(ground, number, axis=2)[None], 48, axis=0)
        for time, frame in enumerate(frames):
            place = (3 + number, (time * (1 + number % 2)) % 30)
            frame[place[0] : place[0] + 10, place[1] : place[1] + 10] = 250 - 20 * number
        write_video(folder / f"{number}.mp4", frames, 25)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What a run leaves where it was started, such as its cache of frames, goes with the test."""
    monkeypatch.chdir(tmp_path)
