"""Find objects by poking an image in many places and grouping what the network expects to move along.

| function | question |
| --- | --- |
| `motion_affordance` | where does the network expect motion at all, whatever is poked? |
| `expected_displacement` | what moves when one point is moved? |
| `segment_from_pokes` | which object is under the clicks? |
| `discover_segments` | which objects are in the image? |

The image is encoded once; the pokes are decoded in batches. See `cmp.inference.pokes` for how a poke is made.

Source: Venkatesh et al., "Discovering and using Spelke segments", 2025: motion affordance (where a poke causes motion),
expected displacement (the mean over samples), segments as what correlates with the poke over many pokes, thresholded by
Otsu's rule. Departures:

- A CMP network gives a distribution per pixel, so probabilities and means are read from one prediction and not
  estimated from samples.
- Motion affordance is averaged over pokes on a grid; theirs is predicted without a poke.
- Still points on the border of the image take the place of their input for a camera that does not move.
- The score is the mean of the correlation and of the probability of motion.
- Automatic segments cluster the maps of all pokes at once (average linkage); theirs are taken one after another.
- The last step by color (`refine="grabcut"`) is ours.

Legend: N clicks, M negative clicks, S pokes, K poked places, H W image pixels, h w cells.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from skimage.filters import threshold_otsu

from cmp.inference.annotate import _as_clicks
from cmp.inference.inputs import resize_image, working_size
from cmp.inference.pokes import PokeRule, join_pokes, make_pokes, respond
from cmp.inference.propagator import EncodedImage, MotionPropagator
from cmp.inference.trajectories import resize_tracks
from cmp.masks import grabcut, suppress_overlaps
from cmp.pixels import nearest_pixel

REFINEMENTS = ("none", "grabcut")
LEAST_SHARE, LARGEST_SHARE = 0.003, 0.8  # of the image: automatic segments outside of this are dropped


class Segment(NamedTuple):
    """One object."""

    mask: np.ndarray  # (H, W) bool
    score: np.ndarray  # (H, W) float32 in 0..1: how much a pixel moves along with the pokes
    threshold: float  # the mask is where the score is above it (before a refinement)
    quality: float  # mean score inside the mask minus mean score outside, 0..1; 0 for an empty or a full mask
    points_xy: np.ndarray  # (N, 2) px of the image: what was poked


class Discovery(NamedTuple):
    """What a search without clicks found."""

    segments: list[Segment]  # best first; may be empty
    affordance: np.ndarray  # (H, W) float32 in 0..1, see `motion_affordance`; of the places on the grid


def motion_affordance(
    propagator: MotionPropagator,
    image: np.ndarray,
    *,
    still_xy: np.ndarray | Sequence = (),
    num_places: int = 48,
    rule: PokeRule | None = None,
    short_side_px: int | None = None,
) -> np.ndarray:
    """Measure where the network expects motion when the image is poked.

    The image is poked on a grid of about num_places, in every direction and with every length of the rule. The map is
    the mean over all pokes of the probability that a pixel moves (by more than the rule's share of the poke's length).

    Args:
        propagator: the network.
        image: (H, W, 3) uint8 RGB.
        still_xy: (M, 2) px (x, y) that stay in all pokes, in addition to the rule's points on the border.
        num_places: about how many places are poked, at least 1; a regular grid has at most as many.
        rule: how; default: `PokeRule` with one place each.
        short_side_px: resize the image to this before the network sees it; the result is resized back.

    Returns:
        (H, W) float32 in 0..1.

    Raises:
        ValueError: as `segment_from_pokes`, or num_places is below 1.
    """
    rule = rule or PokeRule(num_places=1)
    work, still, encoded = _prepare(propagator, image, still_xy, short_side_px)
    places = grid_places(work.shape[:2], num_places)
    pokes = join_pokes([make_pokes(place[None], still, work.shape[:2], rule) for place in places])
    moving = respond(propagator, encoded, pokes, rule.moving).moving.mean(dim=0)
    return _at_size(propagator, moving, work.shape[:2], image.shape[:2]).clip(0, 1)


def expected_displacement(
    propagator: MotionPropagator,
    image: np.ndarray,
    point_xy: Sequence[float],
    vector_xy: Sequence[float],
    *,
    still_xy: np.ndarray | Sequence = (),
    rule: PokeRule | None = None,
    short_side_px: int | None = None,
) -> np.ndarray:
    """Predict the motion of every pixel when one point is moved and the border stays.

    Args:
        propagator, image, still_xy, short_side_px: see `motion_affordance`.
        point_xy: px (x, y) of the image.
        vector_xy: its motion, px of the image.
        rule: says which points of the border stay.

    Returns:
        (H, W, 2) float32 px of the image (x right, y down): the mean of the network's distribution.

    Raises:
        ValueError: as `motion_affordance`; the point lies outside, or the vector is not two finite numbers.
    """
    rule = rule or PokeRule()
    image = _checked_image(image)
    point = _as_clicks([point_xy], "point_xy", image.shape[:2])
    vector = np.asarray(vector_xy, np.float64)
    if vector.shape != (2,) or not np.isfinite(vector).all():
        raise ValueError(f"vector_xy must be two finite numbers, got {vector_xy!r}")
    work, still, encoded = _prepare(propagator, image, still_xy, short_side_px)
    ratio = np.array(work.shape[1::-1]) / np.array(image.shape[1::-1])  # of x and of y
    point = resize_tracks(point, image.shape[:2], work.shape[:2])
    one = PokeRule(1, rule.lengths[:1], 1, 0.0, rule.moving, rule.border_points, rule.still_gap)
    points = make_pokes(point, still, work.shape[:2], one).points_xy[0]
    vectors = np.zeros_like(points)
    vectors[0] = vector * ratio
    flow, _ = propagator.predict_cells(encoded, points, vectors)
    flow = propagator.upsample_cells(flow, work.shape[:2])[0].permute(1, 2, 0).cpu().numpy()
    flow = cv2.resize(flow, image.shape[1::-1], interpolation=cv2.INTER_LINEAR) if work.shape != image.shape else flow
    return np.ascontiguousarray(flow / ratio.astype(np.float32))


def segment_from_pokes(
    propagator: MotionPropagator,
    image: np.ndarray,
    clicks_xy: np.ndarray | Sequence,
    negative_xy: np.ndarray | Sequence = (),
    *,
    rule: PokeRule | None = None,
    threshold: float | None = None,
    refine: str = "none",
    short_side_px: int | None = None,
    encoded: EncodedImage | None = None,
) -> Segment:
    """Segment the object under the clicks by many pokes at and near them.

    The score of a pixel is the mean over all pokes of (a + p) / 2. a is its expected displacement along the poke, as a
    share of the poke's length, cut to 0..1: the correlation with the poke. p is the probability that it moves (by more
    than the rule's share of the length). The mask is where the score is above the threshold, in the parts
    (4-connected) that contain a click.

    Args:
        propagator: the network.
        image: (H, W, 3) uint8 RGB.
        clicks_xy: (N, 2) px (x, y) on the object, N at least 1.
        negative_xy: (M, 2) px outside the object: they stay in all pokes, and the threshold is at least their score,
            unless a click scores no higher. M may be 0.
        rule: how points are poked.
        threshold: of the score, 0..1. None: Otsu's, which divides the scores of the image into two groups with the
            least variance in each.
        refine: "none", or "grabcut": fit the mask to the colors of the image (`cmp.masks.grabcut`).
        short_side_px: resize the image to this before the network sees it, best near what the network was trained on;
            the score is resized back. None: the image as it is.
        encoded: the result of the propagator's `encode` for the image; only without short_side_px.

    Returns:
        The object. Its mask is empty where the score does not exceed the threshold at any click.

    Raises:
        ValueError: a shape or dtype is another, a click is not finite, lies outside the image or is positive and
            negative at once, there is no positive one, threshold or short_side_px is out of range, refine is unknown,
            or encoded is of another image.
    """
    rule = rule or PokeRule()
    image = _checked_image(image)
    size_hw = image.shape[:2]
    clicks, negative = _as_clicks(clicks_xy, "clicks_xy", size_hw), _as_clicks(negative_xy, "negative_xy", size_hw)
    if not len(clicks):
        raise ValueError("clicks_xy must have at least one click, got none")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in 0..1, got {threshold}")
    if refine not in REFINEMENTS:
        raise ValueError(f"refine must be one of {REFINEMENTS}, got {refine!r}")
    work, still, encoded = _prepare(propagator, image, negative, short_side_px, encoded)
    work_hw = work.shape[:2]
    poked = resize_tracks(clicks, size_hw, work_hw)
    both = (nearest_pixel(poked)[:, None] == nearest_pixel(still)[None]).all(axis=2)
    if both.any():
        x, y = clicks[both.any(axis=1)][0]
        raise ValueError(f"clicks_xy and negative_xy must be different pixels, got x={x:g}, y={y:g} in both")
    response = respond(propagator, encoded, make_pokes(poked, still, work_hw, rule), rule.moving)
    score = _at_size(propagator, _score(response.along, response.moving), work_hw, size_hw)
    return _segment(image, score, clicks, negative, threshold=threshold, refine=refine, work_hw=work_hw)


def discover_segments(
    propagator: MotionPropagator,
    image: np.ndarray,
    *,
    still_xy: np.ndarray | Sequence = (),
    num_places: int = 40,
    max_segments: int = 12,
    cluster_similarity: float = 0.8,
    max_iou: float = 0.5,
    rule: PokeRule | None = None,
    refine: str = "none",
    short_side_px: int | None = None,
) -> Discovery:
    """Find the objects of an image without clicks.

    1. The image is poked on a grid (half of num_places), which gives the motion affordance.
    2. The other places are drawn where it is high and far from all places before: each is the highest value of
       affordance times the distance to the nearest place (cut at a quarter of the short side).
    3. Each place has a score map (see `segment_from_pokes`). Maps whose correlation is at least cluster_similarity on
       average are one cluster (average linkage), and are averaged.
    4. Each cluster gives a mask by Otsu's threshold, in the parts that contain one of its places.
    5. Non-maximum suppression by quality (see `Segment`); masks of less than 0.3 % or more than 80 % of the image are
       dropped.

    Args:
        propagator, image, still_xy, short_side_px, refine: see `segment_from_pokes` and `motion_affordance`.
        num_places: K, how many places are poked, at least 4. The time grows with it.
        max_segments: most segments that are returned, at least 1.
        cluster_similarity: correlation, -1..1.
        max_iou: of two segments that overlap more, the better stays.
        rule: how a place is poked; default: `PokeRule` with one place each.

    Returns:
        The objects, best first (there may be none), and the affordance of step 1.

    Raises:
        ValueError: as `segment_from_pokes`, or a number is out of range.
    """
    rule = rule or PokeRule(num_places=1)
    image = _checked_image(image)
    if num_places < 4 or max_segments < 1:
        raise ValueError(f"num_places must be at least 4 and max_segments 1, got {num_places} and {max_segments}")
    if not -1 <= cluster_similarity <= 1 or not 0 <= max_iou <= 1:
        raise ValueError(
            f"cluster_similarity must be in -1..1 and max_iou in 0..1, got {cluster_similarity} and {max_iou}"
        )
    if refine not in REFINEMENTS:
        raise ValueError(f"refine must be one of {REFINEMENTS}, got {refine!r}")
    work, still, encoded = _prepare(propagator, image, still_xy, short_side_px)
    work_hw = work.shape[:2]

    def scores_of(places: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Score (K, h, w) of each place, and the probability of motion (h, w)."""
        response = respond(
            propagator,
            encoded,
            join_pokes([make_pokes(place[None], still, work_hw, rule) for place in places]),
            rule.moving,
        )
        per_place = rule.num_pokes
        along, moving = (part.unflatten(0, (len(places), per_place)) for part in (response.along, response.moving))
        return torch.stack([_score(a, m) for a, m in zip(along, moving)]), response.moving.mean(dim=0)

    places = grid_places(work_hw, num_places // 2)
    maps, moving = scores_of(places)
    affordance = _at_size(propagator, moving, work_hw, work_hw).clip(0, 1)
    more = places_by_affordance(affordance, places, num_places - len(places))
    if len(more):
        maps = torch.cat((maps, scores_of(more)[0]))
        places = np.concatenate((places, more))

    found = []
    points = resize_tracks(places, work_hw, image.shape[:2])
    for members in cluster_maps(maps.flatten(1).cpu().numpy(), cluster_similarity):
        score = _at_size(propagator, maps[members].mean(dim=0), work_hw, image.shape[:2])
        found.append(_segment(image, score, points[members], still[:0], threshold=None, refine=refine, work_hw=work_hw))
    sizes = np.array([segment.mask.mean() for segment in found])
    found = [found[i] for i in np.flatnonzero((sizes >= LEAST_SHARE) & (sizes <= LARGEST_SHARE))]
    kept = suppress_overlaps([segment.mask for segment in found], [segment.quality for segment in found], max_iou)
    affordance = _at_size(propagator, moving, work_hw, image.shape[:2]).clip(0, 1)
    return Discovery([found[i] for i in kept[:max_segments]], affordance)


def grid_places(size_hw: tuple[int, int], count: int) -> np.ndarray:
    """(K, 2) px (x, y): the middles of about count equal cells of the image, K at most count and at least 1.

    Raises:
        ValueError: count is below 1.
    """
    if count < 1:
        raise ValueError(f"num_places must be at least 1, got {count}")
    height, width = size_hw
    rows = max(1, min(count, round((count * height / width) ** 0.5)))
    columns = max(1, count // rows)
    y, x = ((np.arange(n) + 0.5) * side / n - 0.5 for n, side in ((rows, height), (columns, width)))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def places_by_affordance(affordance: np.ndarray, places_xy: np.ndarray, count: int) -> np.ndarray:
    """Draw count places where the affordance is high and no other place is near; see `discover_segments`.

    Args:
        affordance: (H, W), at least 0.
        places_xy: (K, 2) px (x, y) that are taken.
        count: how many to add; fewer are returned where the affordance is 0 elsewhere.

    Returns:
        (count, 2) float64 px.
    """
    height, width = affordance.shape
    y, x = np.mgrid[:height, :width]
    reach = min(height, width) / 4
    far = np.full((height, width), reach)
    for px, py in places_xy:
        np.minimum(far, np.hypot(x - px, y - py), out=far)
    added = []
    for _ in range(count):
        value = affordance * far
        row, column = np.unravel_index(value.argmax(), value.shape)
        if not value[row, column] > 0:
            break
        added.append((column, row))
        np.minimum(far, np.hypot(x - column, y - row), out=far)
    return np.array(added, np.float64).reshape(-1, 2)


def cluster_maps(maps: np.ndarray, similarity: float) -> list[np.ndarray]:
    """Group maps that are alike.

    Args:
        maps: (K, P) values, one map per row.
        similarity: two clusters are merged while their maps correlate at least this much on average.

    Returns:
        For each cluster the positions of its maps, in the order of the first one. A constant map is a cluster of one.

    Source: average linkage, computed by SciPy.
    """
    if len(maps) < 2:
        return [np.arange(len(maps))] if len(maps) else []
    centered = maps.astype(np.float64) - maps.mean(axis=1, keepdims=True, dtype=np.float64)
    norm = np.linalg.norm(centered, axis=1, keepdims=True)
    centered = np.divide(centered, norm, out=np.zeros_like(centered), where=norm > 1e-9)
    apart = (1 - centered @ centered.T)[np.triu_indices(len(maps), 1)]
    labels = fcluster(linkage(apart.clip(0, 2), "average"), 1 - similarity + 1e-9, "distance")
    first = {label: position for position, label in reversed(list(enumerate(labels)))}
    return [np.flatnonzero(labels == label) for label in sorted(first, key=lambda label: first[label])]


def otsu_threshold(score: np.ndarray) -> float:
    """Otsu's threshold of a map; of a constant map its value, so that nothing is above it."""
    if float(score.max()) == float(score.min()):
        return float(score.max())
    return float(threshold_otsu(score))


def _segment(
    image: np.ndarray,
    score: np.ndarray,
    clicks: np.ndarray,
    negative: np.ndarray,
    *,
    threshold: float | None,
    refine: str,
    work_hw: tuple[int, int],
) -> Segment:
    score = score.clip(0, 1)
    at = [
        score[tuple(nearest_pixel(points, within=score.shape[::-1]).astype(int)[:, ::-1].T)]
        for points in (clicks, negative)
    ]
    if threshold is None:
        threshold = otsu_threshold(score)
    if len(negative) and threshold < at[1].max() < at[0].min():
        threshold = float(at[1].max())
    mask = _parts_with(score > threshold, clicks)
    if refine == "grabcut" and mask.any():
        small = cv2.resize(mask.astype(np.float32), work_hw[::-1], interpolation=cv2.INTER_AREA) > 0.5
        points = (resize_tracks(part, score.shape, work_hw) for part in (clicks, negative))
        small = grabcut(resize_image(image, work_hw), small, *points)
        if small.shape != mask.shape:
            small = cv2.resize(small.astype(np.float32), mask.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
        mask = _parts_with(small, clicks)
    inside = mask.any() and not mask.all()
    quality = float(score[mask].mean() - score[~mask].mean()) if inside else 0.0
    return Segment(mask, score, threshold, max(quality, 0.0), clicks)


def _parts_with(mask: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """The 4-connected parts of a mask (H, W) that contain one of the points (N, 2), px (x, y)."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    x, y = nearest_pixel(points_xy, within=mask.shape[::-1]).astype(int).T
    return mask & np.isin(parts, parts[y, x])


def _score(along: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    """(h, w) from the pokes of one object (S, h, w)."""
    return ((along.clamp(0, 1) + moving) / 2).mean(dim=0)


def _checked_image(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"image must be (H, W, 3) uint8 and not empty, got {image.shape} {image.dtype}")
    return image


def _prepare(
    propagator: MotionPropagator,
    image: np.ndarray,
    still_xy: np.ndarray | Sequence,
    short_side_px: int | None,
    encoded: EncodedImage | None = None,
) -> tuple[np.ndarray, np.ndarray, EncodedImage]:
    """The image at the network's size, still points (M, 2) there, and the encoded image."""
    image = _checked_image(image)
    if encoded is not None and (
        short_side_px is not None or encoded.num_images != 1 or encoded.size_hw != image.shape[:2]
    ):
        raise ValueError(
            f"encoded must be of this one image of {image.shape[:2]}, at its own size, got {encoded.num_images} of "
            f"{encoded.size_hw} with short_side_px={short_side_px}"
        )
    still = _as_clicks(still_xy, "still_xy", image.shape[:2])
    work_hw = working_size(image.shape[:2], short_side_px, propagator.max_pixels)
    work = resize_image(image, work_hw)
    still = nearest_pixel(resize_tracks(still, image.shape[:2], work_hw), within=work_hw[::-1])
    return work, still, propagator.encode(work) if encoded is None else encoded


def _at_size(
    propagator: MotionPropagator, cells: torch.Tensor, work_hw: tuple[int, int], size_hw: tuple[int, int]
) -> np.ndarray:
    """A map (h, w) in cells at the size of the image, (H, W) float32."""
    values = propagator.upsample_cells(cells[None, None], work_hw)[0, 0].cpu().numpy()
    if work_hw != size_hw:
        values = cv2.resize(values, size_hw[::-1], interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(values, np.float32)
