"""Do rigid parts move as wholes? Measured where the motion of every pixel is known.

Zhan et al. argue that completing motion from a few points needs to know what is rigid (kinematic coherence). Here each
rigid part gets one or two points, the rest of the image a few still ones, and three numbers are measured:

- follows: how much of its true motion each pixel of a part makes, along the true motion and cut to 0..1, averaged over
  the parts' pixels. 1: all parts move as they do.
- leaks: mean predicted motion of the pixels that stay, as a share of the mean true motion of the parts. 0: none moves.
- turn: the turn fitted to the predicted flow of a turning part, as a share of the true one. 1: the part turns;
  0: it shifts. For parts that shift, `turn_of` gives the turn in degrees, which should be 0.

`made_scenes` pastes parts of photographs on others and moves them by exact transformations. `parts_of_flow` finds parts
in true flow: regions without motion edges. A method is a function of an image, points_yx (N, 2) and vectors_xy (N, 2)
px that returns flow (H, W, 2), px: the network, or an interpolation.

Legend: H W image pixels, N points, P parts.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from cmp.evaluation.interpolations import INTERPOLATIONS
from cmp.guidance import motion_edges, watershed_map
from cmp.masks import deepest_point

Method = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
LEAST_MOTION_PX = 0.5  # pixels that move less count as still
TURN_DEG, UPPER_DEG, LOWER_DEG = 15.0, 5.0, 15.0  # of the made scenes
BORDER_POINTS = 3  # still points on each side of the image


class Scene(NamedTuple):
    """An image, its rigid parts and the motion of every pixel."""

    name: str
    kind: str  # "shift", "turn", "hinge", or "flow" for measured flow
    image: np.ndarray  # (H, W, 3) uint8 RGB
    parts: list[np.ndarray]  # P masks (H, W) bool, disjoint
    flow: np.ndarray  # (H, W, 2) float32 px; 0 where it is not valid
    valid: np.ndarray  # (H, W) bool, where the flow is known


class Score(NamedTuple):
    """One method on one scene; see the module."""

    follows: float
    leaks: float
    turn: float  # NaN unless a part turns


def rigid_flow(size_hw: tuple[int, int], center_xy: Sequence[float], turn_deg: float, shift_xy: Sequence[float]):
    """The flow (H, W, 2) float64, px, of a turn around a center (clockwise as seen) followed by a shift."""
    height, width = size_hw
    y, x = np.mgrid[:height, :width].astype(np.float64)
    dx, dy = x - center_xy[0], y - center_xy[1]
    cosine, sine = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
    u = cosine * dx - sine * dy - dx + shift_xy[0]
    v = sine * dx + cosine * dy - dy + shift_xy[1]
    return np.stack((u, v), axis=-1)


def follow_flow(first: np.ndarray, then: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """The flow (H, W, 2) of one motion after another: `then` gives the flow at any positions x, y after the first."""
    y, x = np.mgrid[: first.shape[0], : first.shape[1]].astype(np.float64)
    return first + then(x + first[..., 0], y + first[..., 1])


def turn_of(flow: np.ndarray, mask: np.ndarray) -> float:
    """The turn in degrees, clockwise as seen, that fits the flow (H, W, 2) of a mask best, around its center of mass.

    The exact flow of a turn by t gives t, of a shift 0. NaN for a mask of a single pixel.

    Source: least squares (Kabsch, 1976, in two dimensions), which also allows the part to shift.
    """
    y, x = np.nonzero(mask)
    before = np.stack((x, y), axis=1).astype(np.float64)
    after = before + flow[mask]
    before, after = before - before.mean(axis=0), after - after.mean(axis=0)
    if not before.any():
        return float("nan")
    cross = (before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]).sum()
    return math.degrees(math.atan2(cross, (before * after).sum()))


def made_scenes(photographs: Mapping[str, np.ndarray], short_side_px: int = 160) -> list[Scene]:
    """Make scenes with exact flow: a part of each photograph moves in front of the next photograph.

    Each photograph gives three scenes: "shift" (an ellipse of it shifts), "turn" (the ellipse turns by 15 degrees
    around a point left of its middle) and "hinge" (an arm of two capsules: the upper turns by 5 degrees around its end,
    the lower by 15 more around the joint).

    Args:
        photographs: names to (H, W, 3) uint8 RGB, at least two.
        short_side_px: of the scenes, at least 64.

    Raises:
        ValueError: there are fewer than two photographs, or the size is too small.
    """
    if len(photographs) < 2 or short_side_px < 64:
        raise ValueError(
            f"photographs must be at least two and short_side_px 64, got {len(photographs)} and {short_side_px}"
        )
    size_hw = (short_side_px, short_side_px * 5 // 4)
    names = list(photographs)
    scenes = []
    for number, name in enumerate(names):
        front = cv2.resize(photographs[name], size_hw[::-1], interpolation=cv2.INTER_AREA)
        back = cv2.resize(photographs[names[(number + 1) % len(names)]], size_hw[::-1], interpolation=cv2.INTER_AREA)
        for kind, make in (("shift", _shift), ("turn", _turn), ("hinge", _hinge)):
            parts, flows = make(size_hw)
            image, flow = back.copy(), np.zeros((*size_hw, 2))
            for part, motion in zip(parts, flows):
                image[part], flow[part] = front[part], motion[part]
            valid = np.ones(size_hw, bool)
            scenes.append(Scene(name, kind, image, parts, flow.astype(np.float32), valid))
    return scenes


def _ellipse(size_hw: tuple[int, int]) -> tuple[np.ndarray, tuple[float, float]]:
    height, width = size_hw
    center = (0.45 * width, 0.5 * height)
    y, x = np.mgrid[:height, :width]
    return ((x - center[0]) / (0.22 * width)) ** 2 + ((y - center[1]) / (0.27 * height)) ** 2 <= 1, center


def _shift(size_hw: tuple[int, int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    mask, center = _ellipse(size_hw)
    length = size_hw[0] / 20
    return [mask], [rigid_flow(size_hw, center, 0.0, (length, -length / 2))]


def _turn(size_hw: tuple[int, int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    mask, center = _ellipse(size_hw)
    return [mask], [rigid_flow(size_hw, (center[0] - 0.12 * size_hw[1], center[1]), TURN_DEG, (0.0, 0.0))]


def _hinge(size_hw: tuple[int, int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    height, width = size_hw
    shoulder, joint, hand = (0.2 * width, 0.3 * height), (0.5 * width, 0.45 * height), (0.68 * width, 0.8 * height)
    thick = round(0.14 * height)
    masks = []
    for start, end in ((shoulder, joint), (joint, hand)):
        canvas = np.zeros(size_hw, np.uint8)
        ends = [tuple(round(value) for value in point) for point in (start, end)]
        cv2.line(canvas, *ends, 1, thick)
        masks.append(canvas > 0)
    lower = masks[1] & ~masks[0]
    upper_flow = rigid_flow(size_hw, shoulder, UPPER_DEG, (0.0, 0.0))
    cosine, sine = math.cos(math.radians(UPPER_DEG)), math.sin(math.radians(UPPER_DEG))

    def around_shoulder(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        dx, dy = x - shoulder[0], y - shoulder[1]
        return np.stack((cosine * dx - sine * dy - dx, sine * dx + cosine * dy - dy), axis=-1)

    lower_flow = follow_flow(rigid_flow(size_hw, joint, LOWER_DEG, (0.0, 0.0)), around_shoulder)
    return [masks[0], lower], [upper_flow, lower_flow]


def parts_of_flow(flow: np.ndarray, valid: np.ndarray, *, least_share: float = 0.01) -> list[np.ndarray]:
    """The regions of true flow that have no motion edges inside, largest first.

    Args:
        flow: (H, W, 2) float32 px. valid: (H, W) bool.
        least_share: regions that cover less of the image are left out.

    Returns:
        Masks (H, W) bool, 4-connected, disjoint. They need not be rigid: motion may change slowly inside.
    """
    known = np.where(valid[..., None], flow, 0).astype(np.float32)
    deep = watershed_map(motion_edges(known), normalizer="percentile") > 0
    _, labels, stats, _ = cv2.connectedComponentsWithStats((deep & valid).astype(np.uint8), connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    order = [i for i in np.argsort(-areas, kind="stable") if areas[i] >= least_share * valid.size]
    return [labels == 1 + i for i in order]


def points_of_part(mask: np.ndarray, count: int) -> np.ndarray:
    """One or two points (count, 2) int64 (y, x) well inside a part.

    One: the deepest. Two: those that are farthest apart along the longest axis of the part's pixels that are at least
    half as deep.

    Raises:
        ValueError: count is not 1 or 2, or the mask is empty.
    """
    if count not in (1, 2):
        raise ValueError(f"count must be 1 or 2, got {count}")
    if count == 1:
        return deepest_point(mask)[None, ::-1]
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    inner = np.argwhere(depth >= 0.5 * depth.max())
    centered = inner - inner.mean(axis=0)
    axis = np.linalg.svd(centered, full_matrices=False)[2][0]
    along = centered @ axis
    return inner[[along.argmin(), along.argmax()]]


def guidance_of(scene: Scene, points_per_part: int) -> tuple[np.ndarray, np.ndarray]:
    """points_yx (N, 2) and vectors_xy (N, 2) px: the true motion at the parts' points, and still ones on the border.

    Points of the border where something moves, or where the flow is not known, are left out; in measured flow
    (kind "flow") there are none, as all of it moves.
    """
    points = np.concatenate([points_of_part(part, points_per_part) for part in scene.parts])
    height, width = scene.valid.shape
    if scene.kind != "flow":
        rows, columns = (np.linspace(0, side - 1, BORDER_POINTS).astype(int) for side in (height, width))
        border = {(y, x) for y in rows for x in (0, width - 1)} | {(y, x) for x in columns for y in (0, height - 1)}
        still = [point for point in sorted(border) if scene.valid[point] and not scene.flow[point].any()]
        points = np.concatenate((points, np.array(still).reshape(-1, 2)))
    return points, scene.flow[points[:, 0], points[:, 1]]


def score_flow(scene: Scene, predicted: np.ndarray) -> Score:
    """Score predicted flow (H, W, 2), px; see the module. `leaks` is NaN where all of the image moves."""
    moving = np.zeros(scene.valid.shape, bool)
    for part in scene.parts:
        moving |= part
    true, length = scene.flow, np.linalg.norm(scene.flow, axis=2)
    moving &= scene.valid & (length >= LEAST_MOTION_PX)
    still = scene.valid & (length < LEAST_MOTION_PX)
    share = (predicted[moving] * true[moving]).sum(axis=1) / np.square(length[moving])
    follows = float(share.clip(0, 1).mean()) if moving.any() else float("nan")
    mean = float(length[moving].mean()) if moving.any() else float("nan")
    leaks = float(np.linalg.norm(predicted[still], axis=1).mean() / mean) if still.any() else float("nan")
    turns = [(turn_of(predicted, part), turn_of(true, part)) for part in scene.parts] if scene.kind != "flow" else []
    ratios = [found / wanted for found, wanted in turns if abs(wanted) > 1]
    return Score(follows, leaks, float(np.mean(ratios)) if ratios else float("nan"))


def interpolation_methods(names: Sequence[str] = ("nearest", "inverse_distance", "fading")) -> dict[str, Method]:
    """The methods without a network, by name; see `cmp.evaluation.interpolations`."""

    def method(name: str) -> Method:
        interpolate = INTERPOLATIONS[name][1]
        takes_image = name == "edge_aware"
        return lambda image, points, vectors: interpolate(points, vectors, image if takes_image else image.shape[:2])

    return {name: method(name) for name in names}


def measure_rigidity(
    scenes: Sequence[Scene], methods: Mapping[str, Method], points_per_part: Sequence[int] = (1, 2)
) -> dict[tuple[str, str, int], Score]:
    """Mean scores over scenes.

    Returns:
        (kind of scene, method, points per part) to the mean `Score`, NaN left out.
    """
    found: dict[tuple[str, str, int], list[Score]] = {}
    for scene in scenes:
        for count in points_per_part:
            points, vectors = guidance_of(scene, count)
            for name, method in methods.items():
                score = score_flow(scene, method(scene.image, points, vectors))
                found.setdefault((scene.kind, name, count), []).append(score)
    means = {}
    for key, scores in found.items():
        columns = np.array(scores, np.float64).T
        known = [column[np.isfinite(column)] for column in columns]
        means[key] = Score(*(float(part.mean()) if len(part) else float("nan") for part in known))
    return means
