"""Masks of objects: how much two overlap, where to click on one, COCO's run lengths, and GrabCut.

Layer 0: imports nothing of this project.

Legend: H W image pixels, N points, M masks.
"""

from collections.abc import Sequence

import cv2
import numpy as np


def mask_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks (H, W) bool; 0 where both are empty.

    Raises:
        ValueError: the shapes differ, or one is not bool.
    """
    if one.shape != other.shape or one.dtype != bool or other.dtype != bool:
        raise ValueError(f"masks must be bool and alike, got {one.shape} {one.dtype} and {other.shape} {other.dtype}")
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 0.0


def suppress_overlaps(masks: Sequence[np.ndarray], scores: Sequence[float], max_iou: float) -> list[int]:
    """Non-maximum suppression: take masks from the best score on and drop what overlaps a taken one.

    Args:
        masks: M masks (H, W) bool.
        scores: M numbers; of equal ones the first comes first.
        max_iou: a mask is dropped if its IoU with a taken mask is above this.

    Returns:
        The positions of the masks that stay, best first.

    Raises:
        ValueError: there are not as many scores as masks, or as `mask_iou`.
    """
    if len(masks) != len(scores):
        raise ValueError(f"masks and scores must be as many, got {len(masks)} and {len(scores)}")
    taken: list[int] = []
    for position in sorted(range(len(masks)), key=lambda i: -scores[i]):
        if all(mask_iou(masks[position], masks[other]) <= max_iou for other in taken):
            taken.append(position)
    return taken


def encode_rle(mask: np.ndarray) -> dict:
    """A mask (H, W) bool as COCO's uncompressed run lengths: {"size": [H, W], "counts": [...]}.

    Columns follow one another from the top; runs of 0 and of 1 alternate and begin with 0, whose run may be empty.
    pycocotools reads it (`frPyObjects`, and `loadRes` of a list of results).

    Raises:
        ValueError: mask is not (H, W) bool.
    """
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(f"mask must be (H, W) bool, got {mask.shape} {mask.dtype}")
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate(([0], changes, [pixels.size])) if pixels.size else np.zeros(1, int)
    counts = np.diff(edges).tolist()
    if pixels.size and pixels[0]:
        counts.insert(0, 0)
    return {"size": [int(side) for side in mask.shape], "counts": counts}


def deepest_point(mask: np.ndarray) -> np.ndarray:
    """(2,) int64 px (x, y): the pixel of the mask's largest part that is farthest from its border.

    The image's border counts as a border. Of equally deep pixels the first in row order is taken.

    Raises:
        ValueError: mask is not (H, W) bool, or is empty.
    """
    if mask.ndim != 2 or mask.dtype != bool or not mask.any():
        raise ValueError(f"mask must be (H, W) bool and not empty, got {mask.shape} {mask.dtype}")
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    largest = parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    depth = cv2.distanceTransform(np.pad(largest.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return np.array([x, y])


def distance_to(points_xy: np.ndarray | Sequence, size_hw: tuple[int, int]) -> np.ndarray:
    """(H, W) float64 px from each pixel to the nearest of N points (x, y); infinite without points."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    distances = [np.hypot(x - px, y - py) for px, py in points_xy]
    return np.min(distances, axis=0) if distances else np.full(size_hw, np.inf)


def grabcut(
    image: np.ndarray,
    probable: np.ndarray,
    clicks_xy: np.ndarray | Sequence = (),
    negative_xy: np.ndarray | Sequence = (),
    *,
    num_rounds: int = 5,
) -> np.ndarray:
    """Fit a mask to the colors of an image, from a first guess.

    Args:
        image: (H, W, 3) uint8 RGB.
        probable: (H, W) bool, the first guess.
        clicks_xy, negative_xy: px (x, y); a disc of a fortieth of the short side around each is surely in or out.
        num_rounds: iterations.

    Returns:
        (H, W) bool; the first guess itself where it leaves nothing on one side.

    Source: Rother et al., "GrabCut", 2004, computed by OpenCV, from a fixed seed.
    """
    labels = np.where(probable, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    size_hw = probable.shape
    labels[distance_to(negative_xy, size_hw) <= min(size_hw) / 40] = cv2.GC_BGD
    labels[distance_to(clicks_xy, size_hw) <= min(size_hw) / 40] = cv2.GC_FGD
    inside = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if inside.all() or not inside.any():
        return inside
    cv2.setRNGSeed(0)
    bgr = np.ascontiguousarray(image[..., ::-1])
    cv2.grabCut(bgr, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), num_rounds, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
