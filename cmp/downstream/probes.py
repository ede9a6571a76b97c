"""Classify images in folders of classes by frozen features: nearest neighbors, and a linear classifier.

Legend: B batch, N images, C feature channels, K classes, H W image pixels.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from cmp.downstream.backbone import RANDOM, load_encoder
from cmp.images import SUFFIXES, read_image

TEMPERATURE = 0.07  # of the neighbors' votes
WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Features(NamedTuple):
    """Pooled features of the images of one folder."""

    values: torch.Tensor  # (N, C) float32
    labels: torch.Tensor  # (N,) int64
    paths: tuple[str, ...]
    classes: tuple[str, ...]


class Encoder(torch.nn.Module):
    """A backbone in eval mode from RGB 0..255 to its last map of features.

    Args:
        backbone: a file, or "random".
        encoder: name of the encoder to draw; only for "random", a file names its own.
        seed: of the draw.
        output_stride: of the map, px; see `build_encoder`.

    Raises:
        FileNotFoundError, ValueError: as `load_encoder`.
    """

    def __init__(
        self, backbone: str, encoder: str = "resnet18", seed: int = 0, output_stride: int | None = None
    ) -> None:
        super().__init__()
        name = encoder if str(backbone) == RANDOM else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.bare, mean, std = load_encoder(backbone, name, output_stride)
        for key, value in (("mean", mean), ("std", std)):
            self.register_buffer(key, torch.tensor(value).reshape(3, 1, 1))
        self.eval()

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) RGB 0..255 to (B, C, h, w)."""
        return self.bare((image.float() - self.mean) / self.std)[-1]


def image_folder(root: str | PathLike, size_px: int) -> ImageFolder:
    """Images in one folder per class, RGB 0..255, resized and center-cropped to a square of size_px.

    Files are chosen by their suffix and read by the rules of `cmp.images`; a broken one is named in a ValueError.

    Raises:
        FileNotFoundError: the folder does not exist, has no classes in it, or has a class without images.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"no such folder of classes: {root}")
    steps = [T.Resize(size_px, antialias=True), T.CenterCrop(size_px), T.PILToTensor()]
    return ImageFolder(str(root), T.Compose(steps), loader=_load, is_valid_file=_is_image)


def _load(path: str) -> Image.Image:
    return Image.fromarray(read_image(path))


def _is_image(path: str) -> bool:
    return path.lower().endswith(SUFFIXES) and not Path(path).name.startswith(".")


def extract(encoder: Encoder, folder: ImageFolder, *, device: str = "cpu", batch_size: int = 64) -> Features:
    """Average the features of every image of a folder over the image."""
    encoder, pooled = encoder.to(device), []
    loader = DataLoader(folder, batch_size=batch_size)
    for image, _ in tqdm(loader, desc=f"features of {Path(folder.root).name}", unit="batch"):
        pooled.append(encoder(image.to(device)).mean(dim=(2, 3)).cpu())
    paths, labels = zip(*folder.samples)
    return Features(torch.cat(pooled), torch.tensor(labels), paths, tuple(folder.classes))


def knn_accuracy(train: Features, test: Features, k: int = 20) -> float:
    """Percentage of test images whose k nearest training images, by cosine, vote for the right class.

    A neighbor's vote has the weight exp(cosine / 0.07).

    Raises:
        ValueError: k is not between 1 and the number of training images, or the classes differ.

    Source: Wu et al., "Unsupervised Feature Learning via Non-parametric Instance Discrimination", CVPR 2018.
    """
    _check_classes(train, test)
    if not 1 <= k <= len(train.values):
        raise ValueError(f"k must be between 1 and {len(train.values)} (training images), got {k}")
    similarity = F.normalize(test.values) @ F.normalize(train.values).T  # (N test, N train)
    near, index = similarity.topk(k, dim=1)
    votes = torch.zeros(len(test.values), len(train.classes))
    votes.scatter_add_(1, train.labels[index], (near / TEMPERATURE).exp())
    return _accuracy(votes, test.labels)


def linear_accuracy(train: Features, test: Features, seed: int = 0) -> tuple[float, float]:
    """Percentage of test images that a linear classifier on the features gets right.

    Features are standardized by the training images. The classifier is a softmax regression fitted by L-BFGS. Its
    weight decay is the best one on a fifth of the training images, drawn from the seed; then it is fitted to all.

    Returns:
        The percentage, and the weight decay.

    Raises:
        ValueError: the classes differ, or there are fewer than five training images.
    """
    _check_classes(train, test)
    if len(train.values) < 5:
        raise ValueError(f"a linear classifier needs at least 5 training images, got {len(train.values)}")
    mean, std = train.values.mean(0), train.values.std(0).clamp(min=1e-6)
    x, y, x_test = (train.values - mean) / std, train.labels, (test.values - mean) / std
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    held, rest = order[: len(x) // 5], order[len(x) // 5 :]
    num_classes = len(train.classes)

    def accuracy_held_out(decay: float) -> float:
        return _accuracy(_fit(x[rest], y[rest], num_classes, decay)(x[held]), y[held])

    decay = max(WEIGHT_DECAYS, key=accuracy_held_out)
    return _accuracy(_fit(x, y, num_classes, decay)(x_test), test.labels), decay


@torch.enable_grad()
def _fit(x: torch.Tensor, y: torch.Tensor, num_classes: int, decay: float) -> torch.nn.Linear:
    classifier = torch.nn.Linear(x.shape[1], num_classes)
    torch.nn.init.zeros_(classifier.weight)
    torch.nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(classifier(x), y) + decay / 2 * classifier.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return classifier.requires_grad_(False)


def _accuracy(scores: torch.Tensor, labels: torch.Tensor) -> float:
    return 100 * (scores.argmax(1) == labels).float().mean().item()


def _check_classes(train: Features, test: Features) -> None:
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(f"training and test folders have different classes: {differing[:8]}")


def evaluate_probe(
    task: str,
    backbone: str | PathLike,
    data: str | PathLike,
    *,
    parts: Sequence[str] = ("train", "test"),
    encoder: str = "resnet18",
    size_px: int = 96,
    seed: int = 0,
    k: int = 20,
    device: str | None = None,
) -> dict:
    """Accuracy of a classifier on frozen features of folders of classes.

    Args:
        task: "knn" or "linear".
        backbone: an export, a checkpoint of pretraining, or "random".
        data: folder of two parts, each with one folder per class.
        parts: names of the two parts, to learn from and to test on.
        encoder: of a random backbone.
        size_px: side that images are resized to.
        seed: of a random backbone and of held-out images.
        k: neighbors that vote (knn).
        device: where to compute; None: a GPU where there is one.

    Returns:
        accuracy (%), images (of the test), classes, seed, backbone; and encoder (its name), learned_from (images) and
        how (k, or the weight decay that was chosen), for a message.

    Raises:
        FileNotFoundError, ValueError: an input cannot be used; it is named.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network = Encoder(str(backbone), encoder, seed)
    folders = [image_folder(Path(data) / part, size_px) for part in parts]
    train, test = (extract(network, folder, device=device) for folder in folders)
    if task == "knn":
        accuracy, how = knn_accuracy(train, test, k), f"k = {k}"
    else:
        accuracy, decay = linear_accuracy(train, test, seed)
        how = f"weight decay {decay:g}"
    found: dict[str, Any] = dict(accuracy=accuracy, images=len(test.labels), classes=len(train.classes), seed=seed)
    found |= dict(backbone=str(backbone), encoder=network.bare.name, learned_from=len(train.labels), how=how)
    return found
