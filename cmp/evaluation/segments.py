"""How good masks of objects are: IoU from one click, and average recall of segments found without clicks.

A method is a function of an image (H, W, 3) uint8 RGB, clicks (N, 2) and negative clicks (M, 2), px (x, y), that
returns a mask (H, W) bool.

Legend: N clicks, M negative clicks, H W image pixels.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from cmp import images
from cmp.datasets.list_file import ListFile
from cmp.masks import deepest_point, distance_to, grabcut, mask_iou

Method = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
RECALL_AT = tuple(np.arange(10) * 0.05 + 0.5)  # COCO's IoU thresholds


class LabeledImage(NamedTuple):
    """An image and the true masks of its objects."""

    name: str
    image: np.ndarray  # (H, W, 3) uint8 RGB
    masks: list[np.ndarray]  # each (H, W) bool, not empty


def list_labeled(
    image_dir: str | PathLike, labels: str | PathLike, *, names: str | PathLike | None = None, every: int = 1
) -> list[str]:
    """The names (without suffix) of the images that have labels, sorted, or in the order of a list.

    Args:
        image_dir: folder of images.
        labels: folder of label images (the same names, .png), or COCO's JSON file.
        names: text file whose lines begin with the name of an image; None: all images.
        every: N to use every N-th image; 1 uses all.

    Raises:
        FileNotFoundError: a folder, or an image of the list, does not exist.
        ValueError: every is below 1, or there are no images with labels.
    """
    folder, labels = Path(image_dir), Path(labels)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    if not labels.exists():
        raise FileNotFoundError(f"no such folder or file: {labels}")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    there = sorted(path.stem for path in folder.iterdir() if path.suffix.lower() in images.SUFFIXES)
    if names is not None:
        lines = ListFile(names)
        there_too = set(there)
        there = [lines.words(index)[0] for index in range(len(lines))]
        for index, name in enumerate(there):
            if name not in there_too:
                raise FileNotFoundError(f"{lines.where(index)}: no image {name} in {folder}")
    if labels.is_dir():
        there = [name for name in there if (labels / f"{name}.png").is_file()]
    if not there:
        raise ValueError(f"{folder}: no image has a label in {labels}; label images are named as the images, .png")
    return there[::every]


def read_labeled(
    image_dir: str | PathLike, labels: str | PathLike, chosen: Iterable[str], *, instances: bool = False
) -> Iterable[LabeledImage]:
    """Read images with the masks of their objects, one after another; images without objects are left out.

    Args:
        image_dir, labels: see `list_labeled`. Reading COCO's JSON needs pycocotools.
        chosen: names, as `list_labeled` gives them.
        instances: each value above 0 of a label image is one object. False: all of them together are one object.

    Raises:
        ValueError: an image or its label cannot be read, or they differ in size; the file is named.
    """
    folder, labels = Path(image_dir), Path(labels)
    paths = {path.stem: path for path in folder.iterdir() if path.suffix.lower() in images.SUFFIXES}
    coco = None if labels.is_dir() else _CocoMasks(labels)
    for name in chosen:
        image = images.read_image(paths[name])
        if coco is not None:
            masks = coco.masks_of(paths[name].name, image.shape[:2])
        else:
            label = images.read_label(labels / f"{name}.png")
            if label.shape != image.shape[:2]:
                raise ValueError(
                    f"{labels / name}.png: must have the size of its image, {image.shape[:2]}, got {label.shape}"
                )
            values = np.unique(label[label > 0]) if instances else []
            masks = [label == value for value in values] if instances else [label > 0]
        masks = [mask for mask in masks if mask.any()]
        if masks:
            yield LabeledImage(name, image, masks)


class _CocoMasks:
    """Masks of COCO's JSON by file name."""

    def __init__(self, path: Path) -> None:
        import contextlib
        import io

        try:
            from pycocotools.coco import COCO
        except ImportError as error:
            raise ValueError(f'{path}: reading it needs pycocotools: pip install ".[detection]"') from error
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self.coco = COCO(str(path))
            self.ids = {entry["file_name"]: entry["id"] for entry in self.coco.dataset["images"]}
        except (ValueError, KeyError, TypeError, AssertionError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: cannot be read as COCO's JSON ({type(error).__name__}: {error})") from error
        self.path = path

    def masks_of(self, file_name: str, size_hw: tuple[int, int]) -> list[np.ndarray]:
        if file_name not in self.ids:
            return []
        objects = self.coco.loadAnns(self.coco.getAnnIds([self.ids[file_name]], iscrowd=False))
        masks = [self.coco.annToMask(entry).astype(bool) for entry in objects]
        if any(mask.shape != size_hw for mask in masks):
            raise ValueError(f"{self.path}: {file_name} has {size_hw} px (height, width), its masks {masks[0].shape}")
        return masks


def iou_from_one_click(
    labeled: Iterable[LabeledImage], methods: Mapping[str, Method], *, corners: bool = False, least_share: float = 0.0
) -> dict[str, list[float]]:
    """Measure the IoU of each method's mask with the true one, from one click per object.

    Args:
        labeled: images with masks.
        methods: by name.
        corners: also give the corners of the image that are not on the object, as negative clicks.
        least_share: objects that cover less of the image are left out.

    Returns:
        Method to one IoU per object. The click is the object's `deepest_point`, the same for all methods.
    """
    found: dict[str, list[float]] = {name: [] for name in methods}
    for item in labeled:
        for truth in item.masks:
            if truth.mean() < least_share:
                continue
            negative = corners_off(truth) if corners else np.empty((0, 2))
            for name, method in methods.items():
                found[name].append(mask_iou(method(item.image, deepest_point(truth)[None], negative), truth))
    return found


def average_recall(
    proposals: Sequence[Sequence[np.ndarray]],
    truths: Sequence[Sequence[np.ndarray]],
    *,
    at: Sequence[float] = RECALL_AT,
) -> float:
    """The share of true objects that have a proposal, averaged over IoU thresholds.

    Args:
        proposals: per image, masks (H, W) bool.
        truths: per image, the masks of its objects.
        at: a proposal matches an object if their IoU is at least this; each is matched once, so that as many as
            possible are.

    Returns:
        0..1; NaN without any object.

    Source: Hosang et al., "What makes for effective detection proposals?", 2015; COCO's AR with these thresholds.
    """
    total, matched = sum(map(len, truths)), 0
    for masks, objects in zip(proposals, truths, strict=True):
        table = np.array([[mask_iou(mask, truth) for truth in objects] for mask in masks]).reshape(
            len(masks), len(objects)
        )
        for threshold in at:
            pairs = maximum_bipartite_matching(csr_matrix(table >= threshold - 1e-12), perm_type="column")
            matched += int((pairs >= 0).sum()) if table.size else 0
    return matched / (total * len(at)) if total else float("nan")


def corners_off(mask: np.ndarray) -> np.ndarray:
    """The corners (M, 2), px (x, y), of the image that are not on the object, M in 0..4."""
    height, width = mask.shape
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]])
    return corners[~mask[corners[:, 1], corners[:, 0]]]


def grabcut_from_clicks(
    image: np.ndarray, clicks_xy: np.ndarray, negative_xy: np.ndarray, short_side_px: int | None = None
) -> np.ndarray:
    """GrabCut that knows only the clicks: the baseline with colors and without a network.

    Sure foreground and background are small discs around the clicks (see `cmp.masks.grabcut`). Everything else is
    probably what the nearest click is or, without negative clicks, probable foreground within a third of the short side
    of a click.

    Args:
        image: (H, W, 3) uint8 RGB.
        clicks_xy, negative_xy: px of the image.
        short_side_px: the image is resized to this first, and the mask back. None: as it is.
    """
    full = image.shape[:2]
    ratio = (short_side_px or min(full)) / min(full)
    size_hw = (round(full[0] * ratio), round(full[1] * ratio))
    image = cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA)
    scale = np.array(size_hw[::-1]) / np.array(full[::-1])
    clicks, negative = ((points + 0.5) * scale - 0.5 for points in (clicks_xy, negative_xy))
    near, far = distance_to(clicks, size_hw), distance_to(negative, size_hw)
    probable = near < far if len(negative) else near < min(size_hw) / 3
    mask = grabcut(image, probable, clicks, negative)
    return cv2.resize(mask.astype(np.float32), full[::-1], interpolation=cv2.INTER_LINEAR) > 0.5


def disc_around_clicks(image: np.ndarray, clicks_xy: np.ndarray, negative_xy: np.ndarray, radius: float = 0.3):
    """A disc (H, W) bool around each click, its radius a share of the short side: the baseline that sees nothing."""
    return distance_to(clicks_xy, image.shape[:2]) <= radius * min(image.shape[:2])
