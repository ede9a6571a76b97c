"""What frozen features of whole images are worth on folders of classes: nearest neighbours, and a linear classifier.

Legend: B batch, N images, C feature channels, K classes, H W image pixels.
"""

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from cmp.downstream.backbone import RANDOM, BareEncoder, read_backbone_weights

TEMPERATURE = 0.07  # of the neighbours' votes
WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Features(NamedTuple):
    """Pooled features of the images of one folder."""

    values: torch.Tensor  # (N, C) float32
    labels: torch.Tensor  # (N,) int64
    paths: tuple[str, ...]
    classes: tuple[str, ...]


class Encoder(torch.nn.Module):
    """A backbone in eval mode from RGB 0..255 to its map of features.

    Args:
        backbone: a file, or "random".
        encoder: name of the encoder to draw; only for "random", a file says it itself.
        seed: of the draw.
        output_stride: of the map, px; None: see `BareEncoder`.

    Raises:
        FileNotFoundError, ValueError: as `BareEncoder.load`.
    """

    def __init__(
        self, backbone: str, encoder: str = "resnet18", seed: int = 0, output_stride: int | None = None
    ) -> None:
        super().__init__()
        name = encoder if str(backbone) == RANDOM else read_backbone_weights(backbone).name
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.bare = BareEncoder(name, output_stride)
        mean, std = self.bare.load(backbone)
        for key, value in (("mean", mean), ("std", std)):
            self.register_buffer(key, torch.tensor(value).reshape(3, 1, 1))
        self.eval()

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) RGB 0..255 to (B, C, h, w)."""
        return self.bare((image.float() - self.mean) / self.std)


def image_folder(root: str | PathLike, size_px: int) -> ImageFolder:
    """Images in a folder a class, RGB 0..255, resized and centre-cropped to a square of size_px.

    Raises:
        FileNotFoundError: there is no such folder, no class in it, or a class without an image.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"no such folder of classes: {root}")
    steps = [T.Resize(size_px, antialias=True), T.CenterCrop(size_px), T.PILToTensor()]
    return ImageFolder(str(root), T.Compose(steps))


def extract(encoder: Encoder, folder: ImageFolder, *, device: str = "cpu", batch_size: int = 64) -> Features:
    """Mean over the map of features, of every image of a folder."""
    encoder, pooled = encoder.to(device), []
    loader = DataLoader(folder, batch_size=batch_size)
    for image, _ in tqdm(loader, desc=f"features of {Path(folder.root).name}", unit="batch"):
        pooled.append(encoder(image.to(device)).mean(dim=(2, 3)).cpu())
    paths, labels = zip(*folder.samples)
    return Features(torch.cat(pooled), torch.tensor(labels), paths, tuple(folder.classes))


def knn_accuracy(train: Features, test: Features, k: int = 20) -> float:
    """Percentage of test images whose k nearest training images, by cosine, vote for the right class.

    A neighbour's vote weighs exp(cosine / 0.07).

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

    Features are standardised by the training images; softmax regression by L-BFGS, with the weight decay that is best
    on a fifth of the training images, drawn from the seed, and then all of them.

    Returns:
        The percentage, and the weight decay.

    Raises:
        ValueError: the classes differ, or there are fewer than five training images.
    """
    _check_classes(train, test)
    if len(train.values) < 5:
        raise ValueError(f"a linear classifier wants at least 5 training images, got {len(train.values)}")
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
