"""Guidance points for whole batches on any device: `sample_guidance` and `guidance_tensors` in torch.

Edges, distances and candidates equal those of the numpy functions bit for bit. After thinning the points have the same
distribution, from other random numbers. On a CUDA device nothing is copied to the host and nothing waits for a value:
shapes never depend on the values of the flow, and the two loops that would be thousands of small calls are kernels of
`cmp.guidance.batched_kernels`.

Legend: B batch, H W pixels of the flow, h w pixels of the map that edges are computed on, N points, K window of the
maxima.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from cmp.flow.field import check_flow_batch
from cmp.guidance.checks import check_kernel, check_points
from cmp.guidance.strategies import (
    GRADNMS_LEAST_SCORE,
    STRATEGIES,
    check_strategies,
    checked_kernel,
    count_uniform,
    edge_step,
    gradient_windows,
    grid_points,
    needed,
)
from cmp.guidance.watershed import ROBUST_LEAST_PIXELS, ROBUST_SHARE, SMALLEST_SCALE_PX

LARGEST_SIDES_PX = 30000  # height and width together; with more, a squared distance leaves the range of int32
MAXIMAL_ROUNDS = 48  # of "maximal" thinning on a CUDA device; candidates that are undecided after them are dropped
CHUNK_VALUES = 1 << 18  # values at once in the row pass of the distance transform: 1 MiB, which stays in a core's cache


def batched_edges(flow: torch.Tensor) -> torch.Tensor:
    """Measure how sharply motion changes at every pixel: `motion_edges` of each image, bit for bit.

    Args:
        flow: (B, 2, H, W) float32, px; channel 0 is x (right), 1 is y (down).

    Returns:
        (B, H, W) float32 on the same device.

    Raises:
        ValueError: flow is not (B, 2, H, W) float32, or an image has no pixel.
    """
    _check_flow(flow)
    padded = F.pad(flow, (1, 1, 1, 1), mode="replicate")
    # The order of these sums is OpenCV's. Every product below is a separate kernel: fused into a multiply-add it would
    # be rounded once instead of twice.
    across = padded[..., 2:] - padded[..., :-2]
    change_x = across[..., :-2, :] + across[..., 2:, :] + 2 * across[..., 1:-1, :]
    smooth = padded[..., :-2] + padded[..., 2:] + 2 * padded[..., 1:-1]
    change_y = smooth[..., 2:, :] - smooth[..., :-2, :]
    squared = change_x.square() + change_y.square()
    # CUDA rounds a float32 root correctly. Torch on a CPU may miss the last bit, so float64 is used there.
    magnitude = squared.sqrt() if squared.is_cuda else squared.double().sqrt().float()
    return magnitude[:, 0] + magnitude[:, 1]


def batched_edge_map(edges: torch.Tensor, threshold: float = 0.1, *, normalizer: str = "max") -> torch.Tensor:
    """Find the edge pixels from which `watershed_map` measures distances.

    Args:
        edges: (B, H, W) non-negative float32. An image with NaN anywhere gets no edges; the numpy function refuses it,
            but a check here would wait for the device.
        threshold, normalizer: as `watershed_map`.

    Returns:
        (B, H, W) bool.

    Raises:
        ValueError: threshold is negative, or normalizer is unknown.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")
    if normalizer not in ("max", "percentile"):
        raise ValueError(f'normalizer must be "max" or "percentile", got {normalizer!r}')
    flat = edges.flatten(1)
    scale = flat.amax(dim=1)
    if normalizer == "percentile":
        size = flat.shape[1]
        num_above = min(max(int(ROBUST_SHARE * size), ROBUST_LEAST_PIXELS), size - 1)
        scale = torch.where(scale.isnan(), scale, flat.kthvalue(size - num_above, dim=1).values)
    return edges / scale.clamp(min=SMALLEST_SCALE_PX)[:, None, None] > threshold


def batched_squared_distances(is_edge: torch.Tensor) -> torch.Tensor:
    """Compute the square of the Euclidean distance to the nearest edge pixel, exactly.

    Args:
        is_edge: (B, H, W) bool.

    Returns:
        (B, H, W) int32, px^2; 0 on edges, and 0 everywhere in an image without any.

    Raises:
        ValueError: is_edge is not (B, H, W) bool, or H + W is above 30000.

    Two passes: down the columns by running maxima; along the rows the least of squared column distance plus squared
    offset over all W offsets.
    """
    if is_edge.ndim != 3 or is_edge.dtype != torch.bool or 0 in is_edge.shape[1:]:
        raise ValueError(f"is_edge must be (B, H, W) bool, got {tuple(is_edge.shape)} {is_edge.dtype}")
    height, width = is_edge.shape[1:]
    far = height + width  # farther than any pixel is from any other
    if far > LARGEST_SIDES_PX:
        raise ValueError(f"H + W must be at most {LARGEST_SIDES_PX}, got {height} + {width}")
    rows = torch.arange(height, dtype=torch.int32, device=is_edge.device)[:, None]
    above = torch.where(is_edge, rows, -far).cummax(dim=1).values
    below = torch.where(is_edge, rows, 2 * far).flip(1).cummin(dim=1).values.flip(1)
    in_column = torch.minimum(rows - above, below - rows).clamp(max=far)
    squared = in_column.square()
    if is_edge.is_cuda and _kernels() is not None:
        nearest = _kernels().nearest_in_rows(squared)
    else:
        nearest = _nearest_in_rows(squared)
    return torch.where(is_edge.flatten(1).any(dim=1)[:, None, None], nearest, 0)


def batched_maxima(distances: torch.Tensor, kernel: int, *, keep_border: bool = False) -> torch.Tensor:
    """Find the pixels that no pixel in the window around them exceeds: `local_maxima` of each image as a map.

    Args:
        distances: (B, H, W) int32 or float; a distance and its square have the same maxima.
        kernel, keep_border: as `local_maxima`.

    Returns:
        (B, H, W) bool.

    Raises:
        ValueError: distances is not (B, H, W), or kernel is even or below 1.
    """
    kernel = check_kernel(kernel)
    if distances.ndim != 3:
        raise ValueError(f"distances must be (B, H, W), got {tuple(distances.shape)}")
    highest = _window_maximum(_window_maximum(distances, kernel, 1), kernel, 2)
    is_maximum = (distances >= highest) & (distances > 0)
    if not keep_border:
        for border in (0, -1):  # one by one: a list of places would be copied to the device
            is_maximum[:, border] = False
            is_maximum[:, :, border] = False
    return is_maximum


def batched_thinning(
    is_candidate: torch.Tensor, min_distance_px: float, *, generator: torch.Generator, rule: str = "authors"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Drop candidates at random until no two are closer than min_distance_px on both axes.

    Args:
        is_candidate: (B, H, W) bool.
        min_distance_px, rule: as `thin_points`.
        generator: on the same device.

    Returns:
        positions (B, N) int64, y * W + x in rising order; stays (B, N) bool, False for dropped candidates and behind
        the last candidate. N is H * W on a CUDA device and for the rule "maximal", otherwise the largest number of
        candidates in an image.

    Raises:
        ValueError: min_distance_px is negative, or rule is unknown.

    Rule "authors": `thin_points` visits pairs, and a fair coin decides each. This is the same: each point in turn, if
    it is still there, drops as many of its later neighbors as a coin shows tails before the first heads; if those were
    not all, the point itself is dropped. Rule "maximal": each candidate gets a random rank. In each round the
    candidates with the highest rank among their undecided neighbors stay and drop these neighbors, which has the same
    result as visiting all in the order of their ranks.
    """
    if not min_distance_px >= 0:
        raise ValueError(f"min_distance_px must be at least 0, got {min_distance_px}")
    if rule not in ("authors", "maximal"):
        raise ValueError(f'rule must be "authors" or "maximal", got {rule!r}')
    if rule == "maximal":
        return _thin_maximal(is_candidate, min_distance_px, generator)
    size, (height, width) = len(is_candidate), is_candidate.shape[1:]
    flat = is_candidate.flatten(1)
    rank = flat.cumsum(dim=1, dtype=torch.int32)  # of each candidate in row-major order, from 1
    counts = rank[:, -1]
    kernels = _kernels() if flat.is_cuda else None
    num_slots = height * width if kernels is not None else int(counts.max()) if size else 0
    # All pixels that are not candidates are written to one place behind the slots.
    slots = torch.where(flat, rank - 1, num_slots).long()
    pixels = torch.arange(height * width, device=flat.device).expand(size, -1)
    positions = torch.zeros(size, num_slots + 1, dtype=torch.int64, device=flat.device).scatter_(1, slots, pixels)
    positions = positions[:, :num_slots]
    tails = torch.empty(size, num_slots, device=flat.device).geometric_(0.5, generator=generator).int() - 1
    if kernels is not None:
        return positions, kernels.thin(positions, counts, tails, width, min_distance_px)
    return positions, _thin(positions, counts, tails, width, min_distance_px)


def batched_guidance(
    flow: torch.Tensor,
    valid: torch.Tensor | None = None,
    *,
    generator: torch.Generator,
    strategies: Sequence[str] = ("grid", "watershed"),
    grid_stride_px: int | None = None,
    nms_kernel: int | None = None,
    max_points: int | None = None,
    num_uniform: int | None = None,
    specified_yx: np.ndarray | None = None,
    normalizer: str = "max",
    thinning: str = "authors",
    scale_kernel: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose guidance points for every image of a batch, keep the flow there and set the rest to 0.

    Args:
        flow: (B, 2, H, W) float32, px; finite. That is not checked here, because the host would have to wait for the
            device.
        valid: (B, 1, H, W) bool, where the flow is known; points elsewhere are dropped at the end. None: everywhere.
        generator: on flow's device; the same state gives the same points on one device.
        strategies: names of `STRATEGIES`; see the table of `cmp.guidance.strategies`.
        specified_yx: (N, 2) integers for "specified", the same in every image.
        thinning: "authors" or "maximal", see `batched_thinning`.
        grid_stride_px, nms_kernel, max_points, num_uniform, normalizer, scale_kernel: see `sample_guidance`.

    Returns:
        sparse: (B, 2, H, W) float32, flow in px at the points and 0 elsewhere.
        mask: (B, 1, H, W) float32, 1 at the points and 0 elsewhere.

    Raises:
        ValueError: flow is not (B, 2, H, W) float32; a strategy is unknown, named twice, or lacks an argument; an
            argument is out of range; a specified point is outside the image.

    Source: Zhan et al., CVPR 2019.
    """
    _check_flow(flow)
    check_strategies(strategies, STRATEGIES)
    if max_points is not None and max_points < 0:
        raise ValueError(f"max_points must be at least 0 (None for no limit), got {max_points}")
    size, size_hw = len(flow), tuple(flow.shape[2:])
    step = edge_step(size_hw)
    kernel = 0  # of no use to the other strategies
    if "watershed" in strategies or "gradnms" in strategies:
        kernel = checked_kernel(nms_kernel, step, scale_kernel)
        edges = batched_edges(flow[:, :, ::step, ::step])
    chosen = []  # of each strategy positions (B, N), y * W + x, and which of them are there (B, N)
    for name in strategies:
        if name == "grid":
            grid_yx = grid_points(size_hw, stride_px=needed(grid_stride_px, "grid_stride_px", '"grid"'))
            chosen.append(_same_in_all(grid_yx, flow))
        elif name == "watershed":
            is_edge = batched_edge_map(edges, normalizer=normalizer)
            candidates = batched_maxima(batched_squared_distances(is_edge), kernel)
            positions, there = batched_thinning(candidates, (kernel - 1) / 2, generator=generator, rule=thinning)
            chosen.append((_in_image(positions, edges.shape[2], step, size_hw[1]), there))
        elif name == "uniform":
            count = count_uniform(size_hw, num_uniform, grid_stride_px)
            num_pixels = size_hw[0] * size_hw[1]
            chosen.append(_all_there(torch.randint(num_pixels, (size, count), generator=generator, device=flow.device)))
        elif name == "gradnms":
            is_chosen = batched_gradient_maxima(edges, kernel).flatten(1)
            positions = torch.arange(is_chosen.shape[1], device=flow.device).expand(size, -1)
            chosen.append((_in_image(positions, edges.shape[2], step, size_hw[1]), is_chosen))
        elif name == "single":
            chosen.append(_single(flow, generator))
        elif name == "full":
            chosen.append(_all_there(torch.arange(size_hw[0] * size_hw[1], device=flow.device).expand(size, -1)))
        else:
            specified_yx = check_points(needed(specified_yx, "specified_yx", '"specified"'), size_hw)
            chosen.append(_same_in_all(specified_yx, flow))
    positions, there = (torch.cat(parts, dim=1) for parts in zip(*chosen))
    return _sparse_and_mask(flow, valid, *_at_most(positions, there, max_points, generator))


def batched_gradient_maxima(edges: torch.Tensor, kernel: int) -> torch.Tensor:
    """Find the points of the strategy "gradnms": `gradient_points` of each image as a map.

    Args:
        edges: (B, H, W) float32, what `batched_edges` returns.
        kernel: as `gradient_points`.

    Returns:
        (B, H, W) bool; all False in an image without edges. Means are summed in float64, as OpenCV sums them, and
        rounded to float32.
    """
    scores = []
    for window_px in gradient_windows(edges.shape[2]):
        mean = edges.double()
        for dim in (1, 2):
            around = (window_px // 2, window_px - 1 - window_px // 2)
            mirrored = torch.from_numpy(np.pad(np.arange(edges.shape[dim]), around, mode="symmetric"))
            mean = mean.index_select(dim, _to_device(mirrored, edges.device)).unfold(dim, window_px, 1).sum(dim=-1)
        mean = (mean * (1 / window_px**2)).float()
        scores.append(mean / mean.flatten(1).amax(dim=1)[:, None, None])  # without edges NaN, which is never a maximum
    score = scores[0] - scores[1]
    return batched_maxima(score, kernel, keep_border=True) & (score > GRADNMS_LEAST_SCORE)


def _single(flow: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """For each image one random pixel among those that move: positions (B, 1), and whether there is one (B, 1)."""
    moves = (flow != 0).any(dim=1).flatten(1)
    keys = torch.rand(moves.shape, generator=generator, device=flow.device)
    best = torch.where(moves, keys, -1).max(dim=1, keepdim=True)
    return best.indices, best.values >= 0


def _at_most(
    positions: torch.Tensor, there: torch.Tensor, max_points: int | None, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep at most max_points random ones per image of those that are there."""
    if max_points is None or positions.shape[1] <= max_points:
        return positions, there
    keys = torch.rand(positions.shape, generator=generator, device=positions.device)
    least = torch.where(there, keys, 2).topk(max_points, dim=1, largest=False)
    return positions.gather(1, least.indices), least.values < 2


def _sparse_and_mask(
    flow: torch.Tensor, valid: torch.Tensor | None, positions: torch.Tensor, there: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `batched_guidance` returns, for these points."""
    size, (height, width) = len(flow), flow.shape[2:]
    # Points that are not there are written behind the last pixel.
    slots = torch.where(there, positions, height * width)
    guided = torch.zeros(size, height * width + 1, dtype=torch.bool, device=flow.device).scatter_(1, slots, True)
    guided = guided[:, :-1].view(size, 1, height, width)
    if valid is not None:
        guided = guided & (valid > 0)
    return torch.where(guided, flow, 0), guided.to(flow.dtype)


def _in_image(positions: torch.Tensor, map_width: int, step: int, width: int) -> torch.Tensor:
    """Positions on the map of edges to positions in the full image."""
    rows = torch.div(positions, map_width, rounding_mode="floor")
    return step * (rows * width + positions - rows * map_width)


def _same_in_all(points_yx: np.ndarray, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same points (N, 2) in each image: positions (B, N), and that they are all there."""
    positions = torch.from_numpy(points_yx @ [flow.shape[3], 1])
    return _all_there(_to_device(positions, flow.device).expand(len(flow), -1))


def _thin_maximal(
    is_candidate: torch.Tensor, min_distance_px: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rule "maximal" of `batched_thinning`; N is H * W."""
    size, num_pixels, device = len(is_candidate), is_candidate.shape[1] * is_candidate.shape[2], is_candidate.device
    # Ranks and not random numbers: two equal float32 numbers would let two neighbors stay.
    order = torch.rand(size, num_pixels, generator=generator, device=device).argsort(dim=1)
    pixels = torch.arange(num_pixels, device=device).expand(size, -1)
    ranks = torch.empty_like(order).scatter_(1, order, pixels).view(is_candidate.shape).int()
    window = 2 * max(0, math.ceil(min_distance_px) - 1) + 1  # neighbors are nearer than the distance on both axes
    undecided, stays = is_candidate.clone(), torch.zeros_like(is_candidate)
    for _ in range(MAXIMAL_ROUNDS if device.type == "cuda" else num_pixels):
        open_ranks = torch.where(undecided, ranks, -1)
        highest = undecided & (open_ranks == _window_maximum(_window_maximum(open_ranks, window, 1), window, 2))
        stays |= highest
        near = _window_maximum(_window_maximum(highest.int(), window, 1), window, 2) > 0
        undecided &= ~near
        if device.type != "cuda" and not undecided.any():
            break
    return pixels, stays.flatten(1)


def _nearest_in_rows(squared: torch.Tensor) -> torch.Tensor:
    """For each pixel the smallest squared[x'] + (x - x')^2 in its row: (B, H, W) int32 to the same."""
    width = squared.shape[2]
    x = torch.arange(width, dtype=torch.int32, device=squared.device)
    offsets = (x[:, None] - x).square()  # (from, to)
    rows = squared.reshape(-1, width, 1)
    nearest = torch.empty_like(rows[..., 0])
    num_rows = max(1, CHUNK_VALUES // width**2)
    for part, out in zip(rows.split(num_rows), nearest.split(num_rows)):
        torch.amin(part + offsets, dim=1, out=out)
    return nearest.view(squared.shape)


def _window_maximum(values: torch.Tensor, kernel: int, dim: int) -> torch.Tensor:
    """The largest value of the kernel-wide window around each position along dim, cut at the border."""
    around = [0] * (2 * (values.ndim - 1 - dim)) + [kernel // 2] * 2
    values = F.pad(values, around, value=-1)  # below every distance
    covered = 1
    while covered < kernel:  # windows of 1, 2, 4, ..., and finally two that overlap
        shift = min(covered, kernel - covered)
        length = values.shape[dim] - shift
        values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, shift, length))
        covered += shift
    return values


def _thin(
    positions: torch.Tensor, counts: torch.Tensor, tails: torch.Tensor, width: int, min_distance_px: float
) -> torch.Tensor:
    """Which of (B, N) positions stay, point by point, all images at once; see `batched_thinning`."""
    num_slots = positions.shape[1]
    y = torch.div(positions, width, rounding_mode="floor").int()
    x = (positions - y * width).int()
    stays = torch.arange(num_slots, device=positions.device) < counts[:, None]
    for i in range(num_slots - 1):
        here, later = slice(i, i + 1), slice(i + 1, num_slots)
        near = stays[:, later] & stays[:, here]
        near &= (y[:, later] - y[:, here]) < min_distance_px
        near &= (x[:, later] - x[:, here]).abs() < min_distance_px
        rank = near.cumsum(dim=1, dtype=torch.int32)
        stays[:, later] &= ~(near & (rank <= tails[:, here]))
        stays[:, here] &= rank[:, -1:] <= tails[:, here]
    return stays


def _kernels():
    """The module of CUDA kernels, or None without Triton; then loops run that wait for values from the device."""
    try:
        from cmp.guidance import batched_kernels
    except ImportError:
        return None
    return batched_kernels


def _all_there(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return positions, torch.ones_like(positions, dtype=torch.bool)


def _to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    # A copy from pinned memory does not wait for the device.
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def _check_flow(flow: torch.Tensor) -> None:
    check_flow_batch(flow, may_be_empty=False)
    if flow.dtype != torch.float32:
        raise ValueError(f"flow must be float32, got {flow.dtype}")
