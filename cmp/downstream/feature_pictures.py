"""Pictures of features: an image's nearest neighbors, and maps of features colored by their principal components.

Legend: N images, C feature channels, H W image pixels, h w feature cells.
"""

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from cmp.downstream.probes import Encoder
from cmp.images import SUFFIXES, read_image
from cmp.pixels import size_at_short_side
from cmp.video.writers import write_png

GAP_PX, LABEL_PX = 4, 16


def choose_images(folder: str | PathLike, max_images: int) -> list[Path]:
    """Images of a folder and its subfolders, evenly chosen in sorted order.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: it contains fewer than two images.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) < 2:
        raise ValueError(f"{folder} contains {len(paths)} images: at least 2 are needed")
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(max_images, len(paths))).round().astype(int))
    return [paths[i] for i in chosen]


def read_squares(paths: Sequence[Path], size_px: int) -> np.ndarray:
    """The centers of images as squares: (N, size_px, size_px, 3) uint8 RGB; ValueError for a broken one."""
    return np.stack([_square(read_image(path), size_px) for path in paths])


def nearest(values: torch.Tensor, queries: list[int], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the images with the nearest features by cosine, without the query itself.

    Args:
        values: (N, C) features.
        queries: positions in them.
        count: how many, at most N - 1.

    Returns:
        Cosines and positions, (len(queries), count), nearest first.
    """
    unit = F.normalize(values)
    cosines = unit[queries] @ unit.T
    cosines[torch.arange(len(queries)), queries] = -torch.inf
    return cosines.topk(count, dim=1)


def neighbors_sheet(images: np.ndarray, queries: list[int], cosines: torch.Tensor, found: torch.Tensor) -> np.ndarray:
    """One row per query: the query with a border, then its neighbors with their cosines. (.., .., 3) uint8 RGB."""
    rows = []
    for query, near, positions in zip(queries, cosines.tolist(), found.tolist()):
        framed = images[query].copy()
        cv2.rectangle(framed, (0, 0), (framed.shape[1] - 1, framed.shape[0] - 1), (255, 160, 0), 4)
        cells = [(framed, "query"), *((images[i], f"{cosine:.3f}") for i, cosine in zip(positions, near))]
        rows.append([_labeled(image, text) for image, text in cells])
    return _grid(rows)


def pca_colors(features: torch.Tensor) -> np.ndarray:
    """Color features by their first three principal components, so that similar features have similar colors.

    Args:
        features: (N, C, h, w); C at least 3.

    Returns:
        (N, h, w, 3) uint8; each component spans from the 1st to the 99th percentile of its values.
    """
    num, channels, height, width = features.shape
    cells = features.permute(0, 2, 3, 1).reshape(-1, channels).double()
    cells = cells - cells.mean(0)
    _, directions = torch.linalg.eigh(cells.T @ cells)  # by rising share of the variance
    directions = directions[:, -3:].flip(1)
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    parts = (cells @ (directions * largest.sign())).numpy()
    low, high = np.percentile(parts, (1, 99), axis=0)
    scaled = np.clip((parts - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.round(255 * scaled).astype(np.uint8).reshape(num, height, width, 3)


def features_sheet(images: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Images above their colored features, at the images' size. (.., .., 3) uint8 RGB."""
    size_wh = images.shape[2], images.shape[1]
    maps = [cv2.resize(colored, size_wh, interpolation=cv2.INTER_NEAREST) for colored in colors]
    per_row = min(8, len(images))
    rows = []
    for start in range(0, len(images), per_row):
        rows += [list(images[start : start + per_row]), maps[start : start + per_row]]
    return _grid(rows)


def _square(image: np.ndarray, size_px: int) -> np.ndarray:
    height, width = image.shape[:2]
    smaller = size_px < min(height, width)
    size_wh = size_at_short_side((height, width), size_px)[::-1]
    image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    top, left = (size_wh[1] - size_px) // 2, (size_wh[0] - size_px) // 2
    return image[top : top + size_px, left : left + size_px]


def _labeled(image: np.ndarray, text: str) -> np.ndarray:
    strip = np.full((LABEL_PX, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (2, LABEL_PX - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([image, strip])


def _grid(rows: list[list[np.ndarray]]) -> np.ndarray:
    height, width = rows[0][0].shape[:2]
    columns = max(map(len, rows))
    sheet = np.full((len(rows) * (height + GAP_PX) - GAP_PX, columns * (width + GAP_PX) - GAP_PX, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + GAP_PX), j * (width + GAP_PX)
            sheet[top : top + height, left : left + width] = image
    return sheet


def draw_backbone(
    backbone: str | PathLike,
    folder: str | PathLike,
    out: str | PathLike,
    *,
    encoder: str = "resnet18",
    seed: int = 0,
    size_px: int = 160,
    map_size_px: int = 512,
    stride: int | None = None,
    max_images: int = 300,
    rows: int = 8,
    neighbors: int = 6,
    device: str | None = None,
) -> tuple[str, int]:
    """Write neighbours.png and features.png of a backbone to a folder.

    Args:
        backbone: an export, a checkpoint of pretraining, or "random".
        folder: images, in subfolders too.
        out: folder for the two images; made if it does not exist.
        encoder, seed: of a random backbone.
        size_px, map_size_px: side of the squares for neighbors and for maps.
        stride: of the features; None: the network's.
        max_images: images to read.
        rows: images to show.
        neighbors: of each image.
        device: where to compute; None: a GPU where there is one.

    Returns:
        The encoder's name and the number of images.

    Raises:
        FileNotFoundError, OSError, ValueError: an input cannot be used or an output cannot be written.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    paths = choose_images(folder, max_images)
    images = read_squares(paths, size_px)
    network = Encoder(str(backbone), encoder, seed, stride).to(device)

    def maps(squares: np.ndarray, batch_size: int, what: str) -> Iterator[torch.Tensor]:
        batches = torch.from_numpy(squares).permute(0, 3, 1, 2).split(batch_size)
        for batch in tqdm(batches, desc=what, unit="batch"):
            yield network(batch.to(device)).cpu()

    pooled = torch.cat([features.mean((2, 3)) for features in maps(images, 16, "features")])
    queries = np.linspace(0, len(paths) - 1, min(rows, len(paths))).round().astype(int).tolist()
    cosines, found = nearest(pooled, queries, min(neighbors, len(paths) - 1))
    large = read_squares([paths[i] for i in queries], map_size_px)
    colors = pca_colors(torch.cat(list(maps(large, 2, "maps"))))
    Path(out).mkdir(parents=True, exist_ok=True)
    write_png(Path(out) / "neighbours.png", neighbors_sheet(images, queries, cosines, found))
    write_png(Path(out) / "features.png", features_sheet(images[queries], colors))
    return network.bare.name, len(paths)
