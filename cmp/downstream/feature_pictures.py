"""Features as pictures: an image's nearest neighbours, and maps of features coloured by their principal components.

Legend: N images, C feature channels, H W image pixels, h w feature cells.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from cmp.downstream.segmentation_data import read_image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
GAP_PX, LABEL_PX = 4, 16


def choose_images(folder: str | PathLike, max_images: int) -> list[Path]:
    """Images of a folder and its subfolders, evenly chosen in sorted order.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds fewer than two images.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) < 2:
        raise ValueError(f"{folder} holds {len(paths)} images: at least 2 are needed")
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(max_images, len(paths))).round().astype(int))
    return [paths[i] for i in chosen]


def read_squares(paths: Sequence[Path], size_px: int) -> np.ndarray:
    """The centres of images as squares: (N, size_px, size_px, 3) uint8 RGB; ValueError for a broken one."""
    return np.stack([_square(read_image(path), size_px) for path in paths])


def nearest(values: torch.Tensor, queries: list[int], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images whose features lie nearest by cosine, without the query itself.

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


def neighbours_sheet(images: np.ndarray, queries: list[int], cosines: torch.Tensor, found: torch.Tensor) -> np.ndarray:
    """A row a query: the query in a frame, then its neighbours with their cosines. (.., .., 3) uint8 RGB."""
    rows = []
    for query, near, positions in zip(queries, cosines.tolist(), found.tolist()):
        framed = images[query].copy()
        cv2.rectangle(framed, (0, 0), (framed.shape[1] - 1, framed.shape[0] - 1), (255, 160, 0), 4)
        cells = [(framed, "query"), *((images[i], f"{cosine:.3f}") for i, cosine in zip(positions, near))]
        rows.append([_labelled(image, text) for image, text in cells])
    return _grid(rows)


def pca_colours(features: torch.Tensor) -> np.ndarray:
    """The first three principal components of all cells together as red, green and blue: equal colours, alike features.

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


def features_sheet(images: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Images above their coloured features, at the images' size. (.., .., 3) uint8 RGB."""
    size_wh = images.shape[2], images.shape[1]
    maps = [cv2.resize(picture, size_wh, interpolation=cv2.INTER_NEAREST) for picture in colours]
    per_row = min(8, len(images))
    rows = []
    for start in range(0, len(images), per_row):
        rows += [list(images[start : start + per_row]), maps[start : start + per_row]]
    return _grid(rows)


def _square(image: np.ndarray, size_px: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = size_px / min(height, width)
    size_wh = max(size_px, round(width * scale)), max(size_px, round(height * scale))
    image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (size_wh[1] - size_px) // 2, (size_wh[0] - size_px) // 2
    return image[top : top + size_px, left : left + size_px]


def _labelled(image: np.ndarray, text: str) -> np.ndarray:
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
