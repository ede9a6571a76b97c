"""Convert tracks of points to guidance: flow of a few points from the first frame of a video to each later one.

Legend: N tracks, K known positions of one, T frames, H W pixels. Positions are (x, y) px, pixel centers at whole
numbers.
"""

import operator
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from cmp.pixels import is_inside, nearest_pixel

FLOAT32_MAX = float(np.finfo(np.float32).max)


def interpolate_tracks(tracks: np.ndarray | Sequence[np.ndarray], num_frames: int) -> np.ndarray:
    """Interpolate the positions of every track in every frame from a few known ones, spread evenly over time.

    Between known positions x and y each follow a monotone cubic: smooth, through every known position, never beyond the
    two it lies between.

    Args:
        tracks: (N, K, 2) px, or a sequence of N arrays (K_n, 2), each with a different K; K is at least 1. A track of
            one position stays there.
        num_frames: T, at least 1. The first known position is frame 0, the last frame T - 1; with one frame the first
            counts.

    Returns:
        (N, T, 2) float32 px; N may be 0.

    Raises:
        ValueError: another shape, a track without positions, NaN or infinity, or num_frames below 1.

    Source: PCHIP (Fritsch and Butland, 1984), as MOFA-Video interpolates what its users draw.
    """
    if not isinstance(num_frames, (int, np.integer)) or num_frames < 1:
        raise ValueError(f"num_frames must be a whole number of at least 1, got {num_frames!r}")
    if not isinstance(tracks, (np.ndarray, Sequence)):
        raise ValueError(f"tracks must be an array or a sequence of arrays (K, 2), got {type(tracks).__name__}")
    from scipy.interpolate import PchipInterpolator  # takes long to import, and only tracks need it

    result = np.zeros((len(tracks), num_frames, 2), np.float32)
    for n, track in enumerate(tracks):
        track = _as_numbers(track, f"tracks[{n}]")
        if track.ndim != 2 or track.shape[1] != 2 or len(track) < 1:
            raise ValueError(f"tracks[{n}] must be (K, 2) with K at least 1, got {track.shape}")
        if not (np.abs(track) <= FLOAT32_MAX).all():
            raise ValueError(f"tracks[{n}] must be finite in float32, got NaN, infinity or more")
        if len(track) == 1:
            result[n] = track
        else:
            times = np.linspace(0, len(track) - 1, num_frames)
            result[n] = PchipInterpolator(np.arange(len(track)), track, axis=0)(times)
    return result


def tracks_to_guidance(
    tracks: np.ndarray, size_hw: tuple[int, int], *, visible: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Flow from frame 0 to each later frame at the places where tracks start.

    Args:
        tracks: (N, T, 2) px, T at least 2. A track that starts between pixels is put at the nearest one, with its own
            motion; of two at one pixel the later counts.
        size_hw: of the frames.
        visible: (N, T) bool: in frames where it is False a track gives no guidance; in frame 0, nowhere. None: all.

    Returns:
        sparse (T - 1, 2, H, W) float32 px and mask (T - 1, 1, H, W) float32: entry i is flow from frame 0 to frame
        i + 1. `predict_dense` takes them with frame 0 as its image. All zeros where N is 0.

    Raises:
        ValueError: other shapes, NaN or infinity in a visible position, or a track starts outside the frame.
    """
    tracks, (height, width) = _as_numbers(tracks, "tracks"), _as_size(size_hw)
    if tracks.ndim != 3 or tracks.shape[2] != 2 or tracks.shape[1] < 2:
        raise ValueError(f"tracks must be (N, T, 2) with T at least 2, got {tracks.shape}")
    num_tracks, num_frames = tracks.shape[:2]
    visible = np.ones((num_tracks, num_frames), bool) if visible is None else np.asarray(visible)
    if visible.shape != (num_tracks, num_frames) or visible.dtype != bool:
        raise ValueError(f"visible must be ({num_tracks}, {num_frames}) bool, got {visible.shape} {visible.dtype}")
    visible = visible & visible[:, :1]
    if not (np.abs(tracks[visible]) <= FLOAT32_MAX).all():
        raise ValueError("tracks must be finite in float32 where they are visible, got NaN, infinity or more")
    sparse = np.zeros((num_frames - 1, 2, height, width), np.float32)
    mask = np.zeros((num_frames - 1, 1, height, width), np.float32)
    for n in np.flatnonzero(visible[:, 0]):
        x, y = nearest_pixel(tracks[n, 0])
        if not is_inside(tracks[n, 0], (width, height)):
            raise ValueError(
                f"tracks must start in the frame of {width} x {height} px (width x height), got track {n} at "
                f"x={tracks[n, 0, 0]:g}, y={tracks[n, 0, 1]:g}"
            )
        x, y, seen = int(x), int(y), visible[n, 1:]
        sparse[seen, :, y, x] = (tracks[n, 1:] - tracks[n, 0])[seen]
        mask[seen, 0, y, x] = 1
    return sparse, mask


def resize_tracks(tracks: np.ndarray, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> np.ndarray:
    """Positions (..., 2) px in an image of another size, float32: x by the ratio of widths, y by that of heights.

    The image's borders stay its borders: the center of pixel 0 is half a pixel inside.

    Raises:
        ValueError: the last axis is not 2, or a side is below 1.
    """
    tracks = _as_numbers(tracks, "tracks")
    if tracks.ndim < 1 or tracks.shape[-1] != 2:
        raise ValueError(f"tracks must be (..., 2), got {tracks.shape}")
    return ((tracks + 0.5) * _ratios_xy(from_hw, to_hw) - 0.5).astype(np.float32)


def resize_arrows(
    points_xy: np.ndarray, vectors_xy: np.ndarray, from_hw: tuple[int, int], to_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Arrows in an image of another size; their starts are moved to the nearest pixel of it.

    Args:
        points_xy, vectors_xy: (N, 2) px of the image of from_hw, which the points lie in.
        from_hw, to_hw: height and width now and afterwards.

    Returns:
        points_xy and vectors_xy, (N, 2) px; as they are if the size does not change.
    """
    if tuple(from_hw) == tuple(to_hw):
        return points_xy, vectors_xy
    starts = resize_tracks(points_xy, from_hw, to_hw)
    vectors = resize_tracks(np.asarray(points_xy) + vectors_xy, from_hw, to_hw) - starts
    return nearest_pixel(starts, within=to_hw[::-1]), vectors


def resize_guidance(sparse: np.ndarray, mask: np.ndarray, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Resize guidance with its image: every point moves to its new pixel, u and v are scaled each by its ratio.

    Unlike in resampling, points are not lost or doubled; several that meet in one pixel are averaged.

    Args:
        sparse: (T, 2, H, W) px.
        mask: (T, 1, H, W), above 0 where sparse is given.
        size_hw: new height and width.

    Returns:
        sparse (T, 2, height, width) float32, px of the new size, and mask (T, 1, height, width) float32 of 0 and 1.

    Raises:
        ValueError: other shapes, NaN or infinity at a point, or a side is below 1.
    """
    sparse, mask = _as_numbers(sparse, "sparse"), _as_numbers(mask, "mask")
    if sparse.ndim != 4 or sparse.shape[1] != 2 or mask.shape != (len(sparse), 1, *sparse.shape[2:]):
        raise ValueError(f"sparse must be (T, 2, H, W) and mask (T, 1, H, W), got {sparse.shape} and {mask.shape}")
    from_hw = sparse.shape[2:]
    ratios_xy = _ratios_xy(from_hw, size_hw)
    height, width = size_hw
    t, y, x = np.nonzero(mask[:, 0] > 0)
    if not np.isfinite(sparse[t, :, y, x]).all():
        raise ValueError("sparse must be finite where the mask is, got NaN or infinity")
    # Whole-number arithmetic: (y + 0.5) * height / H, rounded down.
    rows, columns = (2 * y + 1) * height // (2 * from_hw[0]), (2 * x + 1) * width // (2 * from_hw[1])
    total, count = np.zeros((len(sparse), height, width, 2)), np.zeros((len(sparse), height, width, 1))
    np.add.at(total, (t, rows, columns), sparse[t, :, y, x] * ratios_xy)
    np.add.at(count, (t, rows, columns), 1)
    mean = (total / np.maximum(count, 1)).astype(np.float32)
    return np.ascontiguousarray(mean.transpose(0, 3, 1, 2)), (count > 0).astype(np.float32).transpose(0, 3, 1, 2)


def resize_flow_batch(flow: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Dense flow (S, 2, H, W) px at another size, bilinear, u by the ratio of widths, v by that of heights; float32.

    Raises:
        ValueError: flow is not floating (S, 2, H, W), or a side is below 1.
    """
    if not isinstance(flow, torch.Tensor) or flow.ndim != 4 or flow.shape[1] != 2 or not flow.is_floating_point():
        got = f"{flow.dtype} {tuple(flow.shape)}" if isinstance(flow, torch.Tensor) else type(flow).__name__
        raise ValueError(f"flow must be a floating tensor (S, 2, H, W), got {got}")
    ratios = torch.tensor(_ratios_xy(tuple(flow.shape[2:]), size_hw), dtype=torch.float32, device=flow.device)
    resized = F.interpolate(flow.float(), size=tuple(size_hw), mode="bilinear", align_corners=False)
    return resized * ratios.view(1, 2, 1, 1)


def _ratios_xy(from_hw: tuple[int, int], to_hw: tuple[int, int]) -> np.ndarray:
    from_hw, to_hw = _as_size(from_hw), _as_size(to_hw)
    return np.array([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]])


def _as_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    try:
        height, width = map(operator.index, size_hw)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sizes must be whole numbers (height, width), got {size_hw!r}") from error
    if min(height, width) < 1:
        raise ValueError(f"sizes must be at least 1 px, got {(height, width)}")
    return height, width


def _as_numbers(values, name: str) -> np.ndarray:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from error
