"""The steps of the strategy "watershed": motion edges, distances to them, local maxima of these, thinning.

Legend: H W pixels of the map; K side of the non-maximum suppression window; d the least distance of two points.
"""

import cv2
import numpy as np

from cmp.flow.field import check_flow
from cmp.guidance.checks import check_kernel, check_map, check_points

# Below this scale (in px of summed Sobel response) a map counts as still, so that noise is not scaled up into edges.
SMALLEST_SCALE_PX = 0.01
# The robust scale ignores this share of the largest values, and at least as many as two broken pixels cause (a Sobel
# filter responds on the 8 neighbors of a single pixel).
ROBUST_SHARE = 0.001
ROBUST_LEAST_PIXELS = 16
VECTOR_PX = 16  # pixels of two float32 in the widest vector registers that OpenCV uses
BAND_BYTES = 1 << 17  # of flow at a time, so that intermediate results stay in the cache of a core
TILE_PX = 8  # side of the squares whose maxima are compared first
MOST_CANDIDATES = 100  # compared one by one; if there are more, the whole map is compared at once


def motion_edges(flow: np.ndarray) -> np.ndarray:
    """Measure how sharply motion changes at every pixel.

    Args:
        flow: (H, W, 2) float32, pixels moved from frame t to frame t+k; channel 0 is x (right), 1 is y (down).

    Returns:
        (H, W) float32: the sum of the 3x3 Sobel magnitudes of both channels. The image is mirrored at its border, with
        the border pixel repeated. NaN in flow gives NaN here.

    Raises:
        ValueError: flow is not floating (H, W, 2).

    Source: Zhan et al., CVPR 2019. As in their code the channels are added, not combined as one vector.
    """
    flow = np.ascontiguousarray(check_flow(flow, may_be_empty=False))
    width = flow.shape[1]
    # OpenCV adds up the rest of a row beyond whole vectors in another order, which changes the last bit.
    flow = cv2.copyMakeBorder(flow, 0, 0, 0, -width % VECTOR_PX, cv2.BORDER_REFLECT) if width % VECTOR_PX else flow
    edges = np.empty((len(flow), width), np.float32)
    rows = max(1, BAND_BYTES // flow[0].nbytes)
    for start in range(0, len(flow), rows):
        above = start - max(0, start - 1)  # one more row on either side, if there is one
        band = flow[start - above : start + rows + 1]
        # Each call filters both channels: one pass over interleaved memory is faster than one over a copy per channel.
        change_x = cv2.Sobel(band, cv2.CV_32F, 1, 0, ksize=3, borderType=cv2.BORDER_REFLECT)
        change_y = cv2.Sobel(band, cv2.CV_32F, 0, 1, ksize=3, borderType=cv2.BORDER_REFLECT)
        # Not cv2.magnitude: its last bit depends on how OpenCV was built, and a bit can decide what is an edge.
        np.square(change_x, out=change_x)
        np.square(change_y, out=change_y)
        change_x += change_y
        magnitude = np.sqrt(change_x, out=change_x).reshape(band.shape)[above : above + rows, :width]
        np.add(magnitude[..., 0], magnitude[..., 1], out=edges[start : start + rows])
    return edges


def watershed_map(edges: np.ndarray, threshold: float = 0.1, *, normalizer: str = "max") -> np.ndarray:
    """Measure how far every pixel is from the nearest motion edge.

    Args:
        edges: (H, W) non-negative float, as `motion_edges` gives it.
        threshold: a pixel is an edge where edges / scale is above it.
        normalizer: how the scale is chosen; it is at least 0.01 px. "max": the largest value, so that one broken pixel
            can hide every real edge. "percentile": the value that only 0.1 % of the pixels exceed (16 pixels at
            least), which a few broken pixels do not change.

    Returns:
        (H, W) float32: Euclidean distance to the nearest edge pixel, px; 0 on edges. Rounded once, so that equally
        deep pixels tie. Without any edge the map is 0 everywhere, so it has no maxima and yields no points.

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
    # Dividing, instead of multiplying the threshold, gives the float32 rounding of Zhan et al.'s code.
    is_edge = edges / edges.dtype.type(max(scale, SMALLEST_SCALE_PX)) > threshold
    if not is_edge.any():  # OpenCV would return 65536 everywhere, and every pixel would be a maximum
        return np.zeros(edges.shape, np.float32)
    distances = _distances(is_edge)
    # The last bit of OpenCV's square roots depends on the position, which would break ties between maxima. The squares
    # are whole numbers, so the roots are taken again from them.
    np.square(distances, out=distances)
    np.rint(distances, out=distances)
    return np.sqrt(distances, out=distances)


def _distances(is_edge: np.ndarray) -> np.ndarray:
    """OpenCV's own exact distance transform. On one thread it would use Intel's: slower, and wrong from 885 px on."""
    by_intel = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)  # for this thread
    try:
        return cv2.distanceTransform((~is_edge).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    finally:
        cv2.ipp.setUseIPP(by_intel)


def local_maxima(distances: np.ndarray, kernel: int, *, keep_border: bool = False) -> np.ndarray:
    """Find the pixels that no pixel in the window around them exceeds.

    Args:
        distances: (H, W) float.
        kernel: side K of the square window, odd; the window is cut at the image border.
        keep_border: also return maxima in the outermost rows and columns.

    Returns:
        (N, 2) int64 positions (y, x) in row-major order, where distances is above 0. Ties survive: a plateau is
        returned whole. N may be 0.

    Raises:
        ValueError: distances is not (H, W), or kernel is even or below 1.

    Source: Zhan et al., CVPR 2019; their code drops the border too.
    """
    distances = check_map(distances, "distances")
    kernel = check_kernel(kernel)
    height, width = distances.shape
    points_yx = _few_maxima(distances, kernel)
    if points_yx is None:
        is_maximum = (distances >= _window_maxima(distances, kernel)) & (distances > 0)
        points_yx = np.stack(np.divmod(np.flatnonzero(is_maximum), width), axis=1)
    if not keep_border:
        points_yx = points_yx[((points_yx > 0) & (points_yx < (height - 1, width - 1))).all(axis=1)]
    return points_yx


def _few_maxima(values: np.ndarray, kernel: int) -> np.ndarray | None:
    """All local maxima above 0, by way of the maxima of small tiles; None if there may be too many for that.

    The window of a pixel contains its tile and some tiles around it whole. So a local maximum is the maximum of its
    tile, and no maximum of those tiles is above it. The few pixels left are compared with all of their window.
    """
    half = kernel // 2
    reach = (half - TILE_PX + 1) // TILE_PX  # tiles to either side that are inside the window, wherever the pixel is
    if reach < 1:
        return None
    height, width = values.shape
    down, across = -height % TILE_PX, -width % TILE_PX
    tiles = (
        cv2.copyMakeBorder(values, 0, down, 0, across, cv2.BORDER_CONSTANT, value=-np.inf) if down or across else values
    )
    tiles = tiles.reshape((height + down) // TILE_PX, TILE_PX, (width + across) // TILE_PX, TILE_PX)
    tops = tiles.reshape(len(tiles), TILE_PX, -1).max(axis=1).reshape(len(tiles), -1, TILE_PX).max(axis=2)
    if not np.isfinite(tops).all():
        return None
    around = cv2.dilate(tops, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    rows, columns = np.nonzero((tops >= around) & (tops > 0))
    if len(rows) > MOST_CANDIDATES:
        return None
    which, y, x = np.nonzero(tiles[rows, :, columns] == tops[rows, columns, None, None])
    if len(which) > MOST_CANDIDATES:
        return None
    points = sorted(zip((rows[which] * TILE_PX + y).tolist(), (columns[which] * TILE_PX + x).tolist()))
    found = [
        (y, x)
        for y, x in points
        if values[y, x] >= values[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1].max()
    ]
    return np.array(found, np.int64).reshape(-1, 2)


def _window_maxima(values: np.ndarray, kernel: int) -> np.ndarray:
    """The maximum in a square window: of 1, 2, 4, ... rows, then of columns. Faster than `cv2.dilate` if it is wide."""
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
        min_distance_px: d; two points are neighbors if |dy| < d and |dx| < d. The paper uses (K - 1) / 2.
        rng: random generator; the rule "authors" draws one number for each pair that it decides.
        rule: "authors", the rule of Zhan et al.: all pairs of neighbors are visited in row-major order of first and
            second point. If both points are still there, a fair coin drops one of them. A point stays dropped even if
            the point that dropped it is dropped later, so a chain of neighbors collapses to its last few points.
            "maximal": points are visited in random order and drop all their neighbors. Every dropped point then has a
            neighbor that stayed, so more points stay.

    Returns:
        (M, 2) int64, the points that stay, in row-major order.

    Raises:
        ValueError: points_yx is not (N, 2) integers, min_distance_px is negative, or rule is unknown.

    Source: Zhan et al., CVPR 2019; how many points training sees depends on their rule. "maximal" is ours.
    """
    points_yx = check_points(points_yx)
    if not min_distance_px >= 0:
        raise ValueError(f"min_distance_px must be at least 0, got {min_distance_px}")
    if rule not in ("authors", "maximal"):
        raise ValueError(f'rule must be "authors" or "maximal", got {rule!r}')
    points_yx = points_yx[np.lexsort((points_yx[:, 1], points_yx[:, 0]))]
    y, x = np.ascontiguousarray(points_yx.T)
    # Rows are sorted, so all neighbors of point i are in one slice: [first[i], last[i]).
    first = np.searchsorted(y, y - min_distance_px, side="right").tolist()
    last = np.searchsorted(y, y + min_distance_px, side="left").tolist()
    stays = np.ones(len(y), dtype=bool)

    if rule == "authors":
        for i, end in enumerate(last):
            if not stays[i]:
                continue
            near = stays[i + 1 : end] & (np.abs(x[i + 1 : end] - x[i]) < min_distance_px)
            if not near.any():
                continue
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
