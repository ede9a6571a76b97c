"""How guides are chosen: one function a strategy, and `sample_guidance`, which joins, shuffles and cuts them."""

from collections.abc import Sequence

import cv2
import numpy as np

from cmp.guidance.checks import check_flow, check_kernel, check_points, check_size, check_stride
from cmp.guidance.watershed import local_maxima, motion_edges, thin_points, watershed_map

STRATEGIES = ("grid", "watershed", "uniform", "gradnms", "single", "full", "specified")
LONG_SIDE_PX = 400  # edges are computed on every (long side // 400)-th pixel, which begins to matter at 800
GRADNMS_LEAST_SCORE = 0.1


def grid_points(size_hw: tuple[int, int], *, stride_px: int) -> np.ndarray:
    """Place guides on a centred regular grid: background and camera motion.

    Args:
        size_hw: height and width of the image, px.
        stride_px: distance G between neighbouring guides along both axes, px.

    Returns:
        (N, 2) int64 positions (y, x) in row-major order; never empty: an axis shorter than the stride has one guide,
        in its middle. An axis starts at half of what G leaves of it: at 0 if G divides it, and then nothing lies
        within G of its far end.

    Raises:
        ValueError: size_hw or stride_px is below 1.

    Source: Zhan et al., CVPR 2019 (the authors' sample_bg_ratio is 1 / G^2).
    """
    height, width = check_size(size_hw)
    stride_px = check_stride(stride_px)
    rows = np.arange(height % stride_px // 2, height, stride_px)
    columns = np.arange(width % stride_px // 2, width, stride_px)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


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
    """Choose the pixels whose motion the model is given.

    Strategies, freely combined:
        "grid": a centred grid; needs grid_stride_px.
        "watershed": the points deepest inside regions without motion edges, neighbours thinned; needs nms_kernel.
        "uniform": random pixels, drawn with replacement: num_uniform of them, or one for each grid_stride_px^2 pixels.
        "gradnms": maxima of motion edges that stand out at a coarse scale more than at a fine one; needs nms_kernel.
        "single": one random pixel among those that move at all.
        "full": every pixel.
        "specified": the points of specified_yx.

    Args:
        flow: (H, W, 2) float32, pixels moved from frame t to frame t+k; channel 0 is x (right), 1 is y (down).
        rng: random generator; the same state gives the same points.
        strategies: names from the list above, each at most once.
        grid_stride_px: distance of the grid's guides, px.
        nms_kernel: side K of the non-maximum suppression window, odd; watershed guides are at least (K - 1) / 2 px
            apart on one axis.
        max_points: how many points stay at most, whichever strategy they come from; None is no limit.
        num_uniform: how many points "uniform" draws.
        specified_yx: (N, 2) integers for "specified".
        normalizer: "max" or "percentile", see `watershed_map`.
        thinning: "authors" or "maximal", see `thin_points`.
        scale_kernel: images with a long side of 800 px or more have their motion edges computed on every s-th pixel,
            s = long side // 400. As with the authors K is not reduced with it, so that in image pixels it grows by s;
            True divides K - 1 by s.

    Returns:
        (N, 2) int64 positions (y, x) in random order. Strategies may choose the same pixel, which then appears twice.
        N may be 0: "watershed", "gradnms" and "single" choose nothing where nothing moves.

    Raises:
        ValueError: flow is not (H, W, 2) or holds NaN or infinity; a strategy is unknown, named twice, or lacks an
            argument it needs; an argument is out of range; a specified point lies outside the image.

    Source: Zhan et al., CVPR 2019. "percentile", "maximal", scale_kernel and num_uniform are ours. Departures: "full"
    is shuffled and cut like the others; "single" on still flow chooses nothing; flow without edges proposes nothing.
    """
    flow = check_flow(flow)
    height, width = flow.shape[:2]
    if not np.isfinite(flow).all():
        raise ValueError(f"flow holds NaN or infinity in {int((~np.isfinite(flow)).any(axis=2).sum())} pixels")
    check_strategies(strategies, STRATEGIES)
    if max_points is not None and max_points < 0:
        raise ValueError(f"max_points must be at least 0 (None for no limit), got {max_points}")

    step = max(1, max(height, width) // LONG_SIDE_PX)
    kernel = None
    if "watershed" in strategies or "gradnms" in strategies:
        kernel = check_kernel(needed(nms_kernel, "nms_kernel", '"watershed" and "gradnms"'), "nms_kernel")
        if scale_kernel:
            kernel = (kernel - 1) // 2 // step * 2 + 1
        edges = motion_edges(flow[::step, ::step])

    chosen = []
    for name in strategies:
        if name == "grid":
            stride_px = needed(grid_stride_px, "grid_stride_px", '"grid"')
            chosen.append(grid_points((height, width), stride_px=stride_px))
        elif name == "watershed":
            candidates = local_maxima(watershed_map(edges, normalizer=normalizer), kernel)
            chosen.append(step * thin_points(candidates, (kernel - 1) / 2, rng=rng, rule=thinning))
        elif name == "uniform":
            if num_uniform is None:
                stride_px = needed(grid_stride_px, "num_uniform or grid_stride_px", '"uniform"')
                num_uniform = height * width // check_stride(stride_px) ** 2
            elif num_uniform < 0:
                raise ValueError(f"num_uniform must be at least 0, got {num_uniform}")
            chosen.append(rng.integers(0, (height, width), (num_uniform, 2)))
        elif name == "gradnms":
            chosen.append(step * _gradient_maxima(edges, kernel))
        elif name == "single":
            moving_yx = np.argwhere((flow != 0).any(axis=2))
            chosen.append(moving_yx[rng.integers(0, len(moving_yx), 1)] if len(moving_yx) else moving_yx)
        elif name == "full":
            chosen.append(grid_points((height, width), stride_px=1))
        else:
            chosen.append(check_points(needed(specified_yx, "specified_yx", '"specified"'), (height, width)))
    points_yx = np.concatenate(chosen)
    return points_yx[rng.permutation(len(points_yx))[:max_points]].astype(np.int64, copy=False)


def _gradient_maxima(edges: np.ndarray, kernel: int) -> np.ndarray:
    """Find the maxima, above 0.1, of edges averaged over W/20 px less edges averaged over half of that.

    Each average is divided by its own maximum first (which is also why the authors' slip in the weight of the smaller
    window has no effect). The border is kept and neighbours are not thinned. Without edges: none. Returns (N, 2).
    """
    coarse_px = max(edges.shape[1] // 20, 1)
    scores = []
    for window_px in (coarse_px, max(coarse_px // 2, 1)):
        mean = cv2.blur(edges, (window_px, window_px), borderType=cv2.BORDER_REFLECT)
        if not mean.max() > 0:
            return np.zeros((0, 2), np.int64)
        scores.append(mean / mean.max())
    score = scores[0] - scores[1]
    points_yx = local_maxima(score, kernel, keep_border=True)
    return points_yx[score[points_yx[:, 0], points_yx[:, 1]] > GRADNMS_LEAST_SCORE]


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
