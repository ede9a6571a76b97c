"""Guides of a whole batch, chosen on the device that holds it: `sample_guidance` and `guidance_tensors` in torch.

Edges, distances and candidates equal the numpy functions' bit for bit; the points that are left after thinning differ
only in their random numbers. On a CUDA device nothing is copied to the host and nothing waits for a value: shapes never
depend on what the flow holds, and the two loops that would be thousands of small calls are kernels of
`cmp.guidance.batched_kernels`.

Legend: B batch, H W pixels of the flow, h w pixels of the map that edges are computed on, N points, K window of the
maxima.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from cmp.guidance.checks import check_kernel, check_stride
from cmp.guidance.strategies import LONG_SIDE_PX, check_strategies, grid_points, needed
from cmp.guidance.watershed import ROBUST_LEAST_PIXELS, ROBUST_SHARE, SMALLEST_SCALE_PX

BATCHED_STRATEGIES = ("grid", "watershed", "uniform", "single", "full")
LARGEST_SIDES_PX = 30000  # height and width together; beyond, a squared distance leaves the range of int32
CHUNK_VALUES = 1 << 18  # values at once in the row pass of the distance transform: 1 MiB, which stays in a core's cache


def batched_edges(flow: torch.Tensor) -> torch.Tensor:
    """How sharply motion changes at every pixel: `motion_edges` of each image, bit for bit.

    Args:
        flow: (B, 2, H, W) float32, px; channel 0 is x (right), 1 is y (down).

    Returns:
        (B, H, W) float32 on the same device.

    Raises:
        ValueError: flow is not (B, 2, H, W) float32, or an image has no pixel.
    """
    _check_flow(flow)
    padded = F.pad(flow, (1, 1, 1, 1), mode="replicate")
    # The order of these sums is OpenCV's, and every product below has a kernel of its own: fused into a multiply-add it
    # would be rounded once instead of twice.
    across = padded[..., 2:] - padded[..., :-2]
    change_x = across[..., :-2, :] + across[..., 2:, :] + 2 * across[..., 1:-1, :]
    smooth = padded[..., :-2] + padded[..., 2:] + 2 * padded[..., 1:-1]
    change_y = smooth[..., 2:, :] - smooth[..., :-2, :]
    squared = change_x.square() + change_y.square()
    # CUDA rounds a float32 root correctly, torch's on a CPU may miss the last bit: there float64 makes up for it.
    magnitude = squared.sqrt() if squared.is_cuda else squared.double().sqrt().float()
    return magnitude[:, 0] + magnitude[:, 1]


def batched_edge_map(edges: torch.Tensor, threshold: float = 0.1, *, normalizer: str = "max") -> torch.Tensor:
    """Where the edges are that `watershed_map` measures from.

    Args:
        edges: (B, H, W) non-negative float32. NaN anywhere in an image leaves it without edges: to refuse it, as the
            numpy function does, would be to wait for the device.
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
    """The square of the Euclidean distance to the nearest edge pixel, exactly.

    Args:
        is_edge: (B, H, W) bool.

    Returns:
        (B, H, W) int32, px^2; 0 on edges, and 0 everywhere in an image without any.

    Raises:
        ValueError: is_edge is not (B, H, W) bool, or H + W is beyond 30000.

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
    """Where nothing in the window around a pixel exceeds it: `local_maxima` of each image as a map.

    Args:
        distances: (B, H, W) int32 or float; of a distance and its square the maxima are the same.
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
    is_candidate: torch.Tensor, min_distance_px: float, *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Drop candidates at random until no two are closer than min_distance_px on both axes, by the authors' rule.

    Args:
        is_candidate: (B, H, W) bool.
        min_distance_px: as `thin_points`.
        generator: on the same device.

    Returns:
        positions (B, N) int64, y * W + x in rising order; stays (B, N) bool, False for what was dropped and behind the
        last candidate. N is the most candidates of any image on a CPU and H * W, without asking, on a CUDA device.

    Raises:
        ValueError: min_distance_px is negative.

    The rule met pair by pair, a fair coin each (see `thin_points`), is the same as this: each point in turn, if it is
    still there, drops as many of its later neighbours as a coin shows tails before the first heads; and goes itself if
    those were not all.
    """
    if not min_distance_px >= 0:
        raise ValueError(f"min_distance_px must be at least 0, got {min_distance_px}")
    size, (height, width) = len(is_candidate), is_candidate.shape[1:]
    flat = is_candidate.flatten(1)
    rank = flat.cumsum(dim=1, dtype=torch.int32)  # of each candidate in row-major order, from 1
    counts = rank[:, -1]
    kernels = _kernels() if flat.is_cuda else None
    room = height * width if kernels is not None else int(counts.max()) if size else 0
    # All that are no candidates land in one place behind the room.
    slots = torch.where(flat, rank - 1, room).long()
    pixels = torch.arange(height * width, device=flat.device).expand(size, -1)
    positions = torch.zeros(size, room + 1, dtype=torch.int64, device=flat.device).scatter_(1, slots, pixels)[:, :room]
    tails = torch.empty(size, room, device=flat.device).geometric_(0.5, generator=generator).int() - 1
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
    normalizer: str = "max",
    scale_kernel: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the pixels whose motion the model is given, and keep the flow there and nowhere else.

    Args:
        flow: (B, 2, H, W) float32, px; finite, which is not checked here: it would be to wait for the device.
        valid: (B, 1, H, W) bool, where the flow is known; a guide elsewhere is dropped at last. None: everywhere.
        generator: on flow's device; the same state gives the same guides on one device.
        strategies: of "grid", "watershed" (thinned by the authors' rule), "uniform", "single" and "full".
        grid_stride_px, nms_kernel, max_points, num_uniform, normalizer, scale_kernel: see `sample_guidance`.

    Returns:
        sparse: (B, 2, H, W) float32, flow in px at the guides and 0 elsewhere.
        mask: (B, 1, H, W) float32, 1 at the guides and 0 elsewhere.

    Raises:
        ValueError: flow is not (B, 2, H, W) float32; a strategy is unknown, not made here, named twice, or lacks an
            argument; an argument is out of range.

    Source: Zhan et al., CVPR 2019.
    """
    _check_flow(flow)
    check_strategies(strategies, BATCHED_STRATEGIES)
    if max_points is not None and max_points < 0:
        raise ValueError(f"max_points must be at least 0 (None for no limit), got {max_points}")
    size, (height, width) = len(flow), flow.shape[2:]
    chosen = []  # of each strategy positions (B, N), y * W + x, and which of them are there (B, N)
    for name in strategies:
        if name == "grid":
            stride_px = needed(grid_stride_px, "grid_stride_px", '"grid"')
            grid = torch.from_numpy(grid_points((height, width), stride_px=stride_px) @ [width, 1])
            chosen.append(_all_there(_to_device(grid, flow.device).expand(size, -1)))
        elif name == "watershed":
            kernel = check_kernel(needed(nms_kernel, "nms_kernel", '"watershed"'), "nms_kernel")
            chosen.append(_watershed(flow, kernel, normalizer, scale_kernel, generator))
        elif name == "uniform":
            if num_uniform is None:
                stride_px = needed(grid_stride_px, "num_uniform or grid_stride_px", '"uniform"')
                num_uniform = height * width // check_stride(stride_px) ** 2
            elif num_uniform < 0:
                raise ValueError(f"num_uniform must be at least 0, got {num_uniform}")
            where = dict(generator=generator, device=flow.device)
            chosen.append(_all_there(torch.randint(height * width, (size, num_uniform), **where)))
        elif name == "single":
            moves = (flow != 0).any(dim=1).flatten(1)
            keys = torch.rand(moves.shape, generator=generator, device=flow.device)
            best = torch.where(moves, keys, -1).max(dim=1, keepdim=True)
            chosen.append((best.indices, best.values >= 0))
        else:
            chosen.append(_all_there(torch.arange(height * width, device=flow.device).expand(size, -1)))
    positions, there = (torch.cat(parts, dim=1) for parts in zip(*chosen))
    if max_points is not None and positions.shape[1] > max_points:
        keys = torch.rand(positions.shape, generator=generator, device=flow.device)
        least = torch.where(there, keys, 2).topk(max_points, dim=1, largest=False)
        positions, there = positions.gather(1, least.indices), least.values < 2
    # What is not there lands behind the last pixel.
    slots = torch.where(there, positions, height * width)
    guided = torch.zeros(size, height * width + 1, dtype=torch.bool, device=flow.device).scatter_(1, slots, True)
    guided = guided[:, :-1].view(size, 1, height, width)
    if valid is not None:
        guided = guided & (valid > 0)
    return torch.where(guided, flow, 0), guided.to(flow.dtype)


def _watershed(
    flow: torch.Tensor, kernel: int, normalizer: str, scale_kernel: bool, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (B, N) in the full image and which of them are there (B, N)."""
    step = max(1, max(flow.shape[2:]) // LONG_SIDE_PX)
    if scale_kernel:
        kernel = (kernel - 1) // 2 // step * 2 + 1
    is_edge = batched_edge_map(batched_edges(flow[:, :, ::step, ::step]), normalizer=normalizer)
    candidates = batched_maxima(batched_squared_distances(is_edge), kernel)
    positions, stays = batched_thinning(candidates, (kernel - 1) / 2, generator=generator)
    map_width, width = is_edge.shape[2], flow.shape[3]
    rows = torch.div(positions, map_width, rounding_mode="floor")
    return step * (rows * width + positions - rows * map_width), stays


def _nearest_in_rows(squared: torch.Tensor) -> torch.Tensor:
    """For each pixel the least of squared[x'] + (x - x')^2 in its row: (B, H, W) int32 to the same."""
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
    while covered < kernel:  # windows of 1, 2, 4, ..., and at last two that overlap
        shift = min(covered, kernel - covered)
        length = values.shape[dim] - shift
        values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, shift, length))
        covered += shift
    return values


def _thin(
    positions: torch.Tensor, counts: torch.Tensor, tails: torch.Tensor, width: int, min_distance_px: float
) -> torch.Tensor:
    """Which of (B, N) positions stay, point by point, all images at once; see `batched_thinning`."""
    room = positions.shape[1]
    y = torch.div(positions, width, rounding_mode="floor").int()
    x = (positions - y * width).int()
    stays = torch.arange(room, device=positions.device) < counts[:, None]
    for i in range(room - 1):
        here, later = slice(i, i + 1), slice(i + 1, room)
        near = stays[:, later] & stays[:, here]
        near &= (y[:, later] - y[:, here]) < min_distance_px
        near &= (x[:, later] - x[:, here]).abs() < min_distance_px
        rank = near.cumsum(dim=1, dtype=torch.int32)
        stays[:, later] &= ~(near & (rank <= tails[:, here]))
        stays[:, here] &= rank[:, -1:] <= tails[:, here]
    return stays


def _kernels():
    """The module of CUDA kernels, or None where Triton is missing; then loops run that ask the device for values."""
    try:
        from cmp.guidance import batched_kernels
    except ImportError:
        return None
    return batched_kernels


def _all_there(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return positions, torch.ones_like(positions, dtype=torch.bool)


def _to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    # From pinned memory a copy does not wait for the device.
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def _check_flow(flow: torch.Tensor) -> None:
    if flow.ndim != 4 or flow.shape[1] != 2 or 0 in flow.shape[2:] or flow.dtype != torch.float32:
        raise ValueError(
            f"flow must be (B, 2, H, W) float32 with at least one pixel, got {tuple(flow.shape)} {flow.dtype}"
        )
