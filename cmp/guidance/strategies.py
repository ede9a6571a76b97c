"""Choose guidance points: the pixels whose motion is given to the network. One function per strategy, and their sum.

| strategy | points | needs | when to use it |
| --- | --- | --- | --- |
| "grid" | a centered regular grid | `grid_stride_px` | in training, with "watershed": background and camera motion |
| "watershed" | the points deepest inside regions without motion edges, neighbors thinned | `nms_kernel` | in training: every object that moves gets points, well inside it |
| "uniform" | random pixels, drawn with replacement | `num_uniform` or `grid_stride_px` | as a control in ablations, and where guidance will be anywhere, not at good places |
| "gradnms" | maxima of motion edges that stand out more at a coarse scale than at a fine one | `nms_kernel` | to put points on the borders of what moves; an alternative of Zhan et al. |
| "single" | one random pixel among those that move | | to train or evaluate for one click or one drag |
| "full" | every pixel | | as an upper bound, and to test the rest of the pipeline: the network receives the answer |
| "specified" | given points | `specified_yx` | for clicks, tracks, and evaluations that must repeat the same points |

The published recipes train and validate with ("grid", "watershed"). `cmp.guidance.batched` chooses points for whole
batches on a GPU.
"""  # noqa: E501 (a table)

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from cmp.flow.field import check_flow
from cmp.guidance.checks import check_kernel, check_points, check_size, check_stride
from cmp.guidance.watershed import local_maxima, motion_edges, thin_points, watershed_map

STRATEGIES = ("grid", "watershed", "uniform", "gradnms", "single", "full", "specified")
LONG_SIDE_PX = 400  # edges are computed on every (long side // 400)-th pixel, which begins to matter at 800
GRADNMS_LEAST_SCORE = 0.1


def sample_guidance(
    flow: np.ndarray,
    *,
    rng: np.random.Generator,
    strategies: Sequence[str] = ("grid", "watershed"),
    grid_stride_px: int | None = None,
    nms_kernel: int | None = None,
    max_points: int | None = None,
    num_uniform: int | None = None,
    specified_yx: np.ndarray | None = None,
    normalizer: str = "max",
    thinning: str = "authors",
    scale_kernel: bool = False,
) -> np.ndarray:
    """Choose guidance points by one or several strategies, join, shuffle and cut them.

    Args:
        flow: (H, W, 2) float32, pixels moved from frame t to frame t+k; channel 0 is x (right), 1 is y (down).
        rng: random generator; the same state gives the same points.
        strategies: names of `STRATEGIES`, each at most once; see the table of this module.
        grid_stride_px: distance of the grid's points, px. "uniform" draws one point per square of this side.
        nms_kernel: side K of the non-maximum suppression window, odd; watershed points are at least (K - 1) / 2 px
            apart on one axis.
        max_points: the largest number of points that stay, whichever strategy they come from; None is no limit.
        num_uniform: how many points "uniform" draws.
        specified_yx: (N, 2) integers for "specified".
        normalizer: "max" or "percentile", see `watershed_map`.
        thinning: "authors" or "maximal", see `thin_points`.
        scale_kernel: for images with a long side of 800 px or more, motion edges are computed on every s-th pixel,
            s = long side // 400. By default, as in Zhan et al.'s code, K is not reduced, so in image pixels it grows
            by s. True divides K - 1 by s.

    Returns:
        (N, 2) int64 positions (y, x) in random order. If two strategies choose the same pixel it appears twice. N may
        be 0: "watershed", "gradnms" and "single" choose nothing where nothing moves.

    Raises:
        ValueError: flow is not floating (H, W, 2), or contains NaN or infinity; a strategy is unknown, named twice, or
            lacks an argument it needs; an argument is out of range; a specified point is outside the image.

    Source: Zhan et al., CVPR 2019. "percentile", "maximal", scale_kernel and num_uniform are ours. Departures: "full"
    is shuffled and cut like the others; "single" on still flow chooses nothing; flow without edges yields no points.
    """
    flow = check_flow(flow, may_be_empty=False)
    size_hw = flow.shape[:2]
    if not np.isfinite(flow).all():
        raise ValueError(f"flow holds NaN or infinity in {int((~np.isfinite(flow)).any(axis=2).sum())} pixels")
    check_strategies(strategies, STRATEGIES)
    if max_points is not None and max_points < 0:
        raise ValueError(f"max_points must be at least 0 (None for no limit), got {max_points}")
    step = edge_step(size_hw)
    kernel = 0  # of no use to the other strategies
    if "watershed" in strategies or "gradnms" in strategies:
        kernel = checked_kernel(nms_kernel, step, scale_kernel)
        edges = motion_edges(flow[::step, ::step])

    chosen = []
    for name in strategies:
        if name == "grid":
            points_yx = grid_points(size_hw, stride_px=needed(grid_stride_px, "grid_stride_px", '"grid"'))
        elif name == "watershed":
            points_yx = step * watershed_points(edges, kernel, rng=rng, normalizer=normalizer, thinning=thinning)
        elif name == "uniform":
            points_yx = uniform_points(size_hw, count_uniform(size_hw, num_uniform, grid_stride_px), rng=rng)
        elif name == "gradnms":
            points_yx = step * gradient_points(edges, kernel)
        elif name == "single":
            points_yx = single_point(flow, rng=rng)
        elif name == "full":
            points_yx = grid_points(size_hw, stride_px=1)
        else:
            points_yx = check_points(needed(specified_yx, "specified_yx", '"specified"'), size_hw)
        chosen.append(points_yx)
    points_yx = np.concatenate(chosen)
    return points_yx[rng.permutation(len(points_yx))[:max_points]].astype(np.int64, copy=False)


def grid_points(size_hw: tuple[int, int], *, stride_px: int) -> np.ndarray:
    """Place points on a centered regular grid ("grid", and "full" at stride 1): background and camera motion.

    Args:
        size_hw: height and width of the image, px.
        stride_px: distance G between neighboring points along both axes, px.

    Returns:
        (N, 2) int64 positions (y, x) in row-major order; never empty: an axis shorter than the stride has one point,
        in its middle. An axis starts at half of its remainder modulo G. If G divides it, the axis starts at 0 and has
        no point within G of its far end.

    Raises:
        ValueError: size_hw or stride_px is below 1.

    Source: Zhan et al., CVPR 2019 (sample_bg_ratio in their code is 1 / G^2).
    """
    return _grid(check_size(size_hw), check_stride(stride_px)).copy()


@lru_cache(maxsize=16)
def _grid(size_hw: tuple[int, int], stride_px: int) -> np.ndarray:
    height, width = size_hw
    rows = np.arange(height % stride_px // 2, height, stride_px)
    columns = np.arange(width % stride_px // 2, width, stride_px)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def watershed_points(
    edges: np.ndarray, kernel: int, *, rng: np.random.Generator, normalizer: str = "max", thinning: str = "authors"
) -> np.ndarray:
    """Choose the points deepest inside regions without motion edges, and thin neighbors ("watershed").

    Args:
        edges: (H, W), what `motion_edges` returns.
        kernel: side K of the non-maximum suppression window, odd.
        rng, thinning: see `thin_points`, whose distance is (K - 1) / 2.
        normalizer: see `watershed_map`.

    Returns:
        (N, 2) positions (y, x) in row-major order; N is 0 without edges.
    """
    candidates = local_maxima(watershed_map(edges, normalizer=normalizer), kernel)
    return thin_points(candidates, (kernel - 1) / 2, rng=rng, rule=thinning)


def uniform_points(size_hw: tuple[int, int], count: int, *, rng: np.random.Generator) -> np.ndarray:
    """Draw this many random pixels, with replacement ("uniform"): (count, 2) int64 (y, x)."""
    return rng.integers(0, size_hw, (count, 2))


def gradient_points(edges: np.ndarray, kernel: int) -> np.ndarray:
    """Choose maxima of motion edges that stand out more at a coarse scale than at a fine one ("gradnms").

    The score is the mean of the edges over W/20 px, minus the mean over half of that. Each mean is divided by its
    maximum first; for that reason a slip in the weight of the smaller window in Zhan et al.'s code has no effect.
    Maxima above 0.1 are chosen. The border is kept, and neighbors are not thinned.

    Args:
        edges: (H, W), what `motion_edges` returns.
        kernel: side K of the non-maximum suppression window, odd.

    Returns:
        (N, 2) int64 positions (y, x) in row-major order; N is 0 without edges.
    """
    scores = []
    for window_px in gradient_windows(edges.shape[1]):
        mean = cv2.blur(edges, (window_px, window_px), borderType=cv2.BORDER_REFLECT)
        if not mean.max() > 0:
            return np.zeros((0, 2), np.int64)
        scores.append(mean / mean.max())
    score = scores[0] - scores[1]
    points_yx = local_maxima(score, kernel, keep_border=True)
    return points_yx[score[points_yx[:, 0], points_yx[:, 1]] > GRADNMS_LEAST_SCORE]


def single_point(flow: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Draw one pixel among those that move at all ("single"): (1, 2) int64 (y, x), or (0, 2) where nothing moves."""
    moving_yx = np.argwhere((flow != 0).any(axis=2))
    return moving_yx[rng.integers(0, len(moving_yx), 1)] if len(moving_yx) else moving_yx


def edge_step(size_hw: tuple[int, int]) -> int:
    """Motion edges are computed on every this-many-th row and column: 1 below a long side of 800 px."""
    return max(1, max(size_hw) // LONG_SIDE_PX)


def gradient_windows(width: int) -> tuple[int, int]:
    """Sides of the coarse and the fine window of "gradnms", px."""
    coarse_px = max(width // 20, 1)
    return coarse_px, max(coarse_px // 2, 1)


def checked_kernel(nms_kernel: int | None, step: int, scale_kernel: bool) -> int:
    """The window that "watershed" and "gradnms" use on the map of edges, or ValueError; see `sample_guidance`."""
    kernel = check_kernel(needed(nms_kernel, "nms_kernel", '"watershed" and "gradnms"'), "nms_kernel")
    return (kernel - 1) // 2 // step * 2 + 1 if scale_kernel else kernel


def count_uniform(size_hw: tuple[int, int], num_uniform: int | None, grid_stride_px: int | None) -> int:
    """How many points "uniform" draws, or ValueError; see `sample_guidance`."""
    if num_uniform is None:
        stride_px = check_stride(needed(grid_stride_px, "num_uniform or grid_stride_px", '"uniform"'))
        return size_hw[0] * size_hw[1] // stride_px**2
    if num_uniform < 0:
        raise ValueError(f"num_uniform must be at least 0, got {num_uniform}")
    return num_uniform


def check_strategies(strategies: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError unless strategies are different names of those known, at least one."""
    if isinstance(strategies, str) or not strategies:
        raise ValueError(f"strategies must be a non-empty sequence of names, got {strategies!r}")
    unknown = [name for name in strategies if name not in known]
    if unknown or len(set(strategies)) < len(strategies):
        raise ValueError(f"strategies must be different names of {tuple(known)}, got {tuple(strategies)}")


def needed(value, name: str, strategy: str):
    """Return value, or raise ValueError if it was not given."""
    if value is None:
        raise ValueError(f"{name} is needed by the strategy {strategy}, got None")
    return value
