"""Move an image along its flow: splat pixels to where they go, or fetch them from where they were; fill holes.

Legend: B batch, C channels, H W pixels.
"""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F

from cmp.flow import warp_backward
from cmp.inference.inputs import points_to_guidance, resize_image, working_size
from cmp.inference.propagator import MotionPropagator
from cmp.inference.trajectories import resize_arrows, resize_flow_batch, resize_tracks, tracks_to_guidance

PIXELS_AT_ONCE = 1 << 21  # of the flows that `flows_of_tracks` keeps in memory
METHODS = ("splat", "backward")
COVERED = 0.5  # pixels: with less than this landed on it, a pixel counts as uncovered


def splat_forward(
    image: torch.Tensor, flow: torch.Tensor, importance: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move every pixel to where its flow points; where several land, a softmax of their importance averages them.

    Args:
        image: (B, C, H, W) floating.
        flow: (B, 2, H, W) px from this image to the new one; a pixel is divided bilinearly among 4 neighbors.
        importance: (B, 1, H, W): a pixel whose importance is larger by about 5 is in front. None: the length of the
            flow, so that what moves passes in front of what does not.

    Returns:
        The new image (B, C, H, W), 0 where nothing landed, and how much landed, (B, 1, H, W), in pixels: below 1 at the
        edges of holes, 0 in them. Pixels whose flow is not finite are left out.

    Raises:
        ValueError: shapes do not fit, or image or flow is not floating.

    Source: Niklaus and Liu, "Softmax Splatting for Video Frame Interpolation", CVPR 2020; ours in plain torch.
    """
    if not isinstance(image, torch.Tensor) or not isinstance(flow, torch.Tensor):
        raise ValueError(f"image and flow must be tensors, got {type(image).__name__} and {type(flow).__name__}")
    if image.ndim != 4 or flow.shape != (len(image), 2, *image.shape[2:]):
        raise ValueError(f"image must be (B, C, H, W) and flow (B, 2, H, W), got {image.shape} and {flow.shape}")
    if not image.is_floating_point() or not flow.is_floating_point():
        raise ValueError(f"image and flow must be floating, got {image.dtype} and {flow.dtype}")
    batch, channels, height, width = image.shape
    image, flow = image.float(), flow.float()
    known = flow.isfinite().all(dim=1, keepdim=True)
    flow = flow.nan_to_num(0, 0, 0)
    if importance is None:
        importance = flow.norm(dim=1, keepdim=True)
    elif importance.shape != (batch, 1, height, width):
        raise ValueError(f"importance must be {(batch, 1, height, width)}, got {tuple(importance.shape)}")
    # A constant does not change a softmax; this one keeps exp in range, and the minimum keeps what is behind above 0.
    importance = (importance.float() - importance.amax(dim=(1, 2, 3), keepdim=True).float()).clamp(min=-60)
    weight = importance.exp() * known
    layers = torch.cat((image * weight, weight, known.float()), dim=1).flatten(2)  # (B, C + 2, H * W)

    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    total = torch.zeros(batch, channels + 2, height * width, device=image.device)
    left, top = x.floor(), y.floor()
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = left + dx, top + dy
        share = (1 - (x - column).abs()) * (1 - (y - row).abs())
        share = share * ((column >= 0) & (column < width) & (row >= 0) & (row < height))
        target = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long().flatten(1)
        total.scatter_add_(2, target[:, None].expand_as(layers), layers * share.flatten(1)[:, None])
    total = total.unflatten(2, (height, width))
    color, weight, landed = total[:, :channels], total[:, channels:-1], total[:, -1:]
    return torch.where(weight > 0, color / weight.clamp(min=torch.finfo(weight.dtype).tiny), 0), landed


def fill_holes(image: torch.Tensor, landed: torch.Tensor) -> torch.Tensor:
    """Fill pixels on which nothing landed from coarser and coarser averages of what is around them.

    Args:
        image: (B, C, H, W) floating.
        landed: (B, 1, H, W), above 0; values below 1 mix the pixel with what surrounds it.

    Returns:
        (B, C, H, W); image as it is where landed is 1 or more, 0 where nothing landed anywhere.

    Source: the pull-push scheme of Gortler et al., "The Lumigraph", SIGGRAPH 1996.
    """
    sure = landed.clamp(0, 1)
    if min(image.shape[2:]) == 1 and max(image.shape[2:]) == 1:
        return image
    size = image.shape[2:]
    pool = dict(kernel_size=2, ceil_mode=True, count_include_pad=False)
    total = F.avg_pool2d(sure, **pool)
    coarse = F.avg_pool2d(image * sure, **pool) / total.clamp(min=1e-6)
    coarse = fill_holes(coarse, (total * 4).clamp(max=1) * (total > 1e-6))
    around = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return sure * image + (1 - sure) * around


def fill_from_behind(image: torch.Tensor, landed: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Fill pixels on which nothing landed with the still pixels around them, rather than with moving ones.

    An uncovered area was behind the object that left it. Of the pixels within reach of the longest motion, those that
    move less than half way between the slowest and the fastest of them count as still.

    Args:
        image: (B, C, H, W) floating.
        landed: (B, 1, H, W), as `splat_forward` gives it.
        length: (B, 1, H, W) px, how far what landed has come.

    Returns:
        (B, C, H, W); image as it is where landed is 1 or more, 0 where nothing landed anywhere.
    """
    there = landed > 0
    reach = min(int(length.max()) + 1, max(image.shape[2:]))
    fastest = _max_filter(torch.where(there, length, -torch.inf), reach)
    slowest = -_max_filter(torch.where(there, -length, -torch.inf), reach)
    still = there & ((length <= (fastest + slowest) / 2) | (fastest - slowest < 1))
    sure = landed.clamp(0, 1)
    return sure * image + (1 - sure) * fill_holes(image, sure * still)


def _max_filter(x: torch.Tensor, reach: int) -> torch.Tensor:
    """(B, 1, H, W) largest value within reach px along both axes; a large reach goes up to a quarter farther."""
    height, width = x.shape[2:]
    step = max(1, reach // 8)  # cells of this many pixels: exact windows would take seconds for a large image
    cells = -(-reach // step)
    x = F.max_pool2d(x, step, ceil_mode=True)
    x = F.pad(x, (cells, cells, cells, cells), value=-torch.inf)
    for dim in (2, 3):
        covered, wanted = 1, 2 * cells + 1
        while covered < wanted:  # by doubling: a third of the time of max-pooling, which compares every pixel with all
            shift = min(covered, wanted - covered)
            length = x.shape[dim] - shift
            x = torch.maximum(x.narrow(dim, 0, length), x.narrow(dim, shift, length))
            covered += shift
    return x.repeat_interleave(step, 2).repeat_interleave(step, 3)[:, :, :height, :width]


def reverse_flow(flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reverse a flow: move each vector to where it points, negate it, and fill the holes.

    Args:
        flow: (B, 2, H, W) floating px. Where vectors collide the longest wins, as in `splat_forward`.

    Returns:
        (B, 2, H, W) float32 px, and how much landed, (B, 1, H, W) px: where it is 0 the flow is filled,
        from slower neighbors rather than from faster ones, because what is uncovered is behind.

    Raises:
        ValueError: flow is not floating (B, 2, H, W).
    """
    thrown, landed = splat_forward(flow.nan_to_num(0, 0, 0), flow)
    return -fill_from_behind(thrown, landed, thrown.norm(dim=1, keepdim=True)), landed


def visible_pixels(flow: torch.Tensor, *, tolerance_px: float = 1.0) -> torch.Tensor:
    """Find the pixels that are still visible in the image that the flow leads to: inside it, and not covered.

    A pixel is hidden if the reversed flow at its target does not lead back to it.

    Args:
        flow: (B, 2, H, W) floating px.
        tolerance_px: by how much the way back may miss.

    Returns:
        (B, 1, H, W) bool; False where the flow is not finite.

    Raises:
        ValueError: flow is not floating (B, 2, H, W), or tolerance_px is not above 0.

    Flow does not show which of two colliding pixels is in front: the one that moved farther is assumed to be.
    """
    if not tolerance_px > 0:
        raise ValueError(f"tolerance_px must be above 0, got {tolerance_px}")
    back, landed = reverse_flow(flow)
    miss = (flow + warp_backward(back, flow)).norm(dim=1, keepdim=True)  # NaN where flow is
    seen = warp_backward((landed > 0).float(), flow) > 1 - 1e-3  # 0 outside
    return seen & (miss < tolerance_px)


def animate(
    image: np.ndarray, flow: np.ndarray, num_frames: int, *, method: str = "splat", return_uncovered: bool = False
) -> Iterator[np.ndarray] | Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw frames in which the image moves along its flow, evenly in time, from no motion to the whole flow.

    Args:
        image: (H, W, 3) uint8 RGB.
        flow: (H, W, 2) floating px of the whole motion.
        num_frames: at least 2; the first frame is the image itself.
        method: "splat": pixels are moved to where they go and holes filled with the colors of what is behind.
            "backward": the flow is reversed and pixels are fetched from where they were: sharper, but what is uncovered
            shows the image again, often the object that has just left.
        return_uncovered: yield pairs: the frame, and where it shows what the image does not (where nothing landed).

    Yields:
        (H, W, 3) uint8 RGB; with return_uncovered also (H, W) bool.

    Raises:
        ValueError: shapes or dtypes are others, num_frames is below 2, or another method.
    """
    image, flow = _as_image(image, method), np.asarray(flow)
    if flow.shape != (*image.shape[:2], 2) or flow.dtype.kind != "f":
        raise ValueError(f"flow must be {(*image.shape[:2], 2)} and floating, got {flow.shape} {flow.dtype}")
    if not isinstance(num_frames, (int, np.integer)) or num_frames < 2:
        raise ValueError(f"num_frames must be a whole number of at least 2, got {num_frames!r}")
    # What moves farthest is in front in every frame: one order for the whole video.
    in_front = np.linalg.norm(np.nan_to_num(flow, posinf=0, neginf=0), axis=2)
    frames = (_move(image, flow * (i / (num_frames - 1)), method, in_front) for i in range(num_frames))
    return frames if return_uncovered else (frame for frame, _ in frames)


def flow_of_arrows(
    propagator: MotionPropagator,
    image: np.ndarray,
    points_xy: np.ndarray,
    vectors_xy: np.ndarray,
    *,
    short_side_px: int | None = None,
) -> np.ndarray:
    """Flow of an image from arrows, predicted at the size that suits the network and returned at the image's.

    Args:
        propagator: the network.
        image: (H, W, 3) uint8 RGB.
        points_xy, vectors_xy: (P, 2) px of the image, as `MotionPropagator.predict` takes them.
        short_side_px: the network sees the image at this short side, arrows are scaled with it. None: as it is.

    Returns:
        (2, H, W) float32 px.

    Raises:
        ValueError: as `MotionPropagator.predict`; short_side_px is below 1 or makes the image too large.
    """
    size_hw = image.shape[:2]
    points, vectors = np.asarray(points_xy, np.float64), np.asarray(vectors_xy, np.float64)
    points_to_guidance(points, vectors, size_hw)  # errors give positions of the image that the caller knows
    work_hw = working_size(size_hw, short_side_px, propagator.max_pixels)
    points, vectors = resize_arrows(points, vectors, size_hw, work_hw)
    flow = propagator.predict(resize_image(image, work_hw), points, vectors)
    return _to_size(flow, size_hw)[0].cpu().numpy()


def flows_of_tracks(
    propagator: MotionPropagator, image: np.ndarray, tracks: np.ndarray, *, short_side_px: int | None = None
) -> Iterator[np.ndarray]:
    """Flow from an image to each later frame of its tracks, some frames at a time: memory does not grow with them.

    Args:
        propagator: the network; it encodes the image once.
        image: (H, W, 3) uint8 RGB, frame 0.
        tracks: (N, T, 2) px, T at least 2, as `interpolate_tracks` gives them.
        short_side_px: see `flow_of_arrows`.

    Yields:
        T - 1 flows (2, H, W) float32 px.

    Raises:
        ValueError: as `tracks_to_guidance`; short_side_px is below 1 or makes the image too large.
    """
    size_hw = image.shape[:2]
    tracks_to_guidance(tracks[:, :2], size_hw)  # errors give positions of the image that the caller knows
    work_hw = working_size(size_hw, short_side_px, propagator.max_pixels)
    if work_hw != size_hw:
        tracks = resize_tracks(tracks, size_hw, work_hw)
    encoded = propagator.encode(resize_image(image, work_hw))
    at_once = max(1, PIXELS_AT_ONCE // (size_hw[0] * size_hw[1]))
    for first in range(1, tracks.shape[1], at_once):
        some = np.concatenate((tracks[:, :1], tracks[:, first : first + at_once]), axis=1)
        flows = propagator.predict_dense(encoded, *tracks_to_guidance(some, work_hw))
        yield from _to_size(flows, size_hw).cpu().numpy()


def _to_size(flow: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    return flow if tuple(flow.shape[2:]) == tuple(size_hw) else resize_flow_batch(flow, size_hw)


def animate_flows(
    image: np.ndarray,
    flows: np.ndarray | Iterator[np.ndarray],
    *,
    method: str = "splat",
    return_uncovered: bool = False,
) -> Iterator[np.ndarray] | Iterator[tuple[np.ndarray, np.ndarray]]:
    """The image, then the image moved along each flow in turn.

    Args:
        image: (H, W, 3) uint8 RGB.
        flows: (T, 2, H, W) floating px from the image to each frame, as the propagator gives them; or an iterator over
            T flows (2, H, W), which are read one by one.
        method, return_uncovered: see `animate`.

    Yields:
        T + 1 frames (H, W, 3) uint8 RGB; with return_uncovered also (H, W) bool each.

    Raises:
        ValueError: shapes or dtypes are others, or another method.
    """
    image = _as_image(image, method)
    if isinstance(flows, Iterator):
        flows = _checked_flows(flows, image.shape[:2])
    elif (flows := np.asarray(flows)).ndim != 4 or flows.shape[1:] != (2, *image.shape[:2]) or flows.dtype.kind != "f":
        raise ValueError(f"flows must be (T, 2, {image.shape[0]}, {image.shape[1]}) floating, got {flows.shape}")
    moved = (_move(image, flow.transpose(1, 2, 0), method) for flow in flows)
    frames = chain([(image, np.zeros(image.shape[:2], bool))], moved)
    return frames if return_uncovered else (frame for frame, _ in frames)


def _checked_flows(flows: Iterator[np.ndarray], size_hw: tuple[int, int]) -> Iterator[np.ndarray]:
    for flow in flows:
        if flow.shape != (2, *size_hw) or flow.dtype.kind != "f":
            raise ValueError(f"flows must be (2, {size_hw[0]}, {size_hw[1]}) floating, got {flow.shape} {flow.dtype}")
        yield flow


def _as_image(image: np.ndarray, method: str) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"image must be (H, W, 3) uint8 and not empty, got {image.shape} {image.dtype}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    return image


def _move(
    image: np.ndarray, flow: np.ndarray, method: str, importance: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    source = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    motion = torch.from_numpy(np.array(flow, np.float32)).permute(2, 0, 1)[None]
    if method == "backward":
        back, landed = reverse_flow(motion)
        frame = warp_backward(source, back, padding="border")
    else:
        if importance is not None:
            importance = torch.from_numpy(importance.astype(np.float32))[None, None]
        length = motion.nan_to_num(0, 0, 0).norm(dim=1, keepdim=True)
        thrown, landed = splat_forward(torch.cat((source, length), dim=1), motion, importance)
        frame = fill_from_behind(thrown[:, :3], landed, thrown[:, 3:])
    frame = frame[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
    return frame, (landed[0, 0] < COVERED).numpy()
