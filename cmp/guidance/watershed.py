"""Guides inside what moves: motion edges, distance to them, the distance's local maxima, neighbours thinned.

Legend: H W pixels of the map; K side of the non-maximum suppression window; d the least distance of two guides.
"""

import cv2
import numpy as np

from cmp.guidance.checks import check_flow, check_kernel, check_map, check_points

# Below this scale (in px of summed Sobel response) a map counts as still: its noise must not be blown up into edges.
SMALLEST_SCALE_PX = 0.01
# The robust scale steps over this share of all pixels, and over at least as many as two broken pixels light up
# (a Sobel filter answers on the 8 neighbours of a lone pixel).
ROBUST_SHARE = 0.001
ROBUST_LEAST_PIXELS = 16
VECTOR_PX = 16  # pixels of two float32 in the widest vectors that OpenCV computes with


def motion_edges(flow: np.ndarray) -> np.ndarray:
    """Measure how sharply motion changes at every pixel.

    Args:
        flow: (H, W, 2) float32, pixels moved from frame t to frame t+k; channel 0 is x (right), 1 is y (down).

    Returns:
        (H, W) float32: the 3x3 Sobel magnitude of each channel, the two added. The image is mirrored at its border,
        the border pixel repeated. NaN in flow gives NaN here.

    Raises:
        ValueError: flow is not (H, W, 2).

    Source: Zhan et al., CVPR 2019. Channels are added, not combined as one vector: the authors' choice, kept.
    """
    flow = np.ascontiguousarray(check_flow(flow))
    width = flow.shape[1]
    # What a row has beyond whole vectors OpenCV adds up in another order, with another last bit.
    flow = cv2.copyMakeBorder(flow, 0, 0, 0, -width % VECTOR_PX, cv2.BORDER_REFLECT) if width % VECTOR_PX else flow
    # Both channels in one call each: 4 passes over interleaved memory instead of 4 over copies of a channel.
    change_x = cv2.Sobel(flow, cv2.CV_32F, 1, 0, ksize=3, borderType=cv2.BORDER_REFLECT)
    change_y = cv2.Sobel(flow, cv2.CV_32F, 0, 1, ksize=3, borderType=cv2.BORDER_REFLECT)
    # Not cv2.magnitude: its last bit depends on how OpenCV was built, and a bit can decide what is an edge.
    np.square(change_x, out=change_x)
    np.square(change_y, out=change_y)
    change_x += change_y
    magnitude = np.sqrt(change_x, out=change_x).reshape(flow.shape)
    return magnitude[:, :width, 0] + magnitude[:, :width, 1]


def watershed_map(edges: np.ndarray, threshold: float = 0.1, *, normalizer: str = "max") -> np.ndarray:
    """Measure how far every pixel is from the nearest motion edge.

    Args:
        edges: (H, W) non-negative float, as `motion_edges` gives it.
        threshold: a pixel is an edge where edges / scale is above it.
        normalizer: what the scale is, at least 0.01 px either way. "max": the largest value, so that one broken pixel
            can hide every real edge. "percentile": the value that only 0.1 % of the pixels exceed (16 pixels at
            least), which broken pixels do not move.

    Returns:
        (H, W) float32: Euclidean distance to the nearest edge pixel, px; 0 on edges. Rounded once, so that equally
        deep pixels tie. Without any edge there is no distance and the map is 0 everywhere, so that it has no maxima
        and proposes no guide.

    Raises:
        ValueError: edges is not (H, W) or not finite, threshold is negative, or normalizer is unknown.

    Source: Zhan et al., CVPR 2019. "percentile" is ours; so is 0 for a map without edges, with the same outcome.
    """
    edges = check_map(edges, "edges")
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")
    if normalizer not in ("max", "percentile"):
        raise ValueError(f'normalizer must be "max" or "percentile", got {normalizer!r}')
    scale = edges.max()
    if not np.isfinite(scale):
        raise ValueError("edges hold NaN or infinity (was there any in the flow?)")
    if normalizer == "percentile":
        num_above = min(max(int(ROBUST_SHARE * edges.size), ROBUST_LEAST_PIXELS), edges.size - 1)
        rank = edges.size - 1 - num_above
        scale = np.partition(edges, rank, axis=None)[rank]
    # Divided, not multiplied into the threshold: float32 rounding then decides as the authors' does.
    is_edge = edges / edges.dtype.type(max(scale, SMALLEST_SCALE_PX)) > threshold
    if not is_edge.any():  # OpenCV would answer 65536 everywhere, and every pixel would tie as a maximum
        return np.zeros(edges.shape, np.float32)
    distances = _distances(is_edge)
    # OpenCV's square roots differ in the last bit from place to place, which would break ties between maxima: take them
    # anew from the squares, which are whole numbers.
    np.square(distances, out=distances)
    np.rint(distances, out=distances)
    return np.sqrt(distances, out=distances)


def _distances(is_edge: np.ndarray) -> np.ndarray:
    """OpenCV's exact transform, never Intel's, which it would take on one thread: slower, and wrong from 885 px on."""
    by_intel = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)  # for this thread
    try:
        return cv2.distanceTransform((~is_edge).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    finally:
        cv2.ipp.setUseIPP(by_intel)


def local_maxima(distances: np.ndarray, kernel: int, *, keep_border: bool = False) -> np.ndarray:
    """Find the pixels that nothing in the window around them exceeds.

    Args:
        distances: (H, W) float.
        kernel: side K of the square window, odd; the window is cut at the image border.
        keep_border: also return maxima in the outermost rows and columns.

    Returns:
        (N, 2) int64 positions (y, x) in row-major order, where distances is above 0. Ties survive: a plateau is
        returned whole. N may be 0.

    Raises:
        ValueError: distances is not (H, W), or kernel is even or below 1.

    Source: Zhan et al., CVPR 2019; dropping the border is the authors' choice.
    """
    distances = check_map(distances, "distances")
    kernel = check_kernel(kernel)
    highest = _window_maxima(distances, kernel)
    is_maximum = (distances >= highest) & (distances > 0)
    if not keep_border:
        is_maximum[[0, -1], :] = False
        is_maximum[:, [0, -1]] = False
    return np.stack(np.divmod(np.flatnonzero(is_maximum), distances.shape[1]), axis=1)


def _window_maxima(values: np.ndarray, kernel: int) -> np.ndarray:
    """`cv2.dilate` with a square window, faster where it is wide: maxima of 1, 2, 4, ... rows, then of columns."""
    for _ in range(2):
        values = cv2.copyMakeBorder(values, kernel // 2, kernel // 2, 0, 0, cv2.BORDER_CONSTANT, value=-np.inf)
        reach = 1
        while reach < kernel:
            step = min(reach, kernel - reach)
            values = np.maximum(values[:-step], values[step:])
            reach += step
        values = cv2.transpose(values)
    return values


def thin_points(
    points_yx: np.ndarray, min_distance_px: float, *, rng: np.random.Generator, rule: str = "authors"
) -> np.ndarray:
    """Drop points at random until no two are closer than min_distance_px on both axes.

    Args:
        points_yx: (N, 2) integers (y, x), in any order; they are taken in row-major order.
        min_distance_px: d; two points are neighbours if |dy| < d and |dx| < d. The paper's is (K - 1) / 2.
        rng: random generator; the "authors" rule draws one number for each pair it settles.
        rule: "authors": pairs of neighbours are met in row-major order of first and second point, and a fair coin
            drops one of the two if both are still there. A point stays dropped even if what dropped it goes later,
            so a chain of neighbours collapses to its last few points. "maximal": points are visited in random order
            and drop all their neighbours, so that every dropped point has a neighbour that stayed: more points.

    Returns:
        (M, 2) int64, the points that stay, in row-major order.

    Raises:
        ValueError: points_yx is not (N, 2) integers, min_distance_px is negative, or rule is unknown.

    Source: Zhan et al., CVPR 2019; the authors' rule fixes how many guides training sees. "maximal" is ours.
    """
    points_yx = check_points(points_yx)
    if not min_distance_px >= 0:
        raise ValueError(f"min_distance_px must be at least 0, got {min_distance_px}")
    if rule not in ("authors", "maximal"):
        raise ValueError(f'rule must be "authors" or "maximal", got {rule!r}')
    points_yx = points_yx[np.lexsort((points_yx[:, 1], points_yx[:, 0]))]
    y, x = np.ascontiguousarray(points_yx.T)
    # Rows are sorted, so all neighbours of point i lie in one slice: [first[i], last[i]).
    first = np.searchsorted(y, y - min_distance_px, side="right").tolist()
    last = np.searchsorted(y, y + min_distance_px, side="left").tolist()
    stays = np.ones(len(y), dtype=bool)

    if rule == "authors":
        for i, end in enumerate(last):
            if not stays[i]:
                continue
            near = stays[i + 1 : end] & (np.abs(x[i + 1 : end] - x[i]) < min_distance_px)
            for j in np.flatnonzero(near).tolist():
                if rng.random() > 0.5:
                    stays[i] = False
                    break
                stays[i + 1 + j] = False
    else:
        for i in rng.permutation(len(y)).tolist():
            if stays[i]:
                window = slice(first[i], last[i])
                stays[window] &= np.abs(x[window] - x[i]) >= min_distance_px
                stays[i] = True
    return points_yx[stays]
