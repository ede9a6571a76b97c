"""From an image file and arrows or tracks to a video file: what `cmp-motion animate` does."""

import tempfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from cmp.checkpoints import read_checkpoint
from cmp.datasets.list_file import read_json_file
from cmp.files import check_paths
from cmp.inference.animate import animate, animate_flows, flow_of_arrows, flows_of_tracks
from cmp.inference.arrows import parse_arrows
from cmp.inference.inputs import MAX_PHOTO_PIXELS, MAX_PIXELS, default_short_side, read_image, resize_image
from cmp.inference.propagator import load_propagator
from cmp.inference.trajectories import interpolate_tracks, resize_tracks
from cmp.video import check_video_path, write_video
from cmp.video.writers import check_gif_size

PathValue = str | PathLike
MAX_FRAMES = 100_000
MAX_ARROWS_BYTES = 1 << 20  # of a file of arrows
MAX_POSITIONS = 1 << 24  # tracks x frames


class Animation(NamedTuple):
    """What was written."""

    num_frames: int
    size_hw: tuple[int, int]  # of the video
    shrunk: bool  # whether the image was larger


def animate_file(
    image: PathValue,
    out: PathValue,
    checkpoint: PathValue,
    *,
    arrows: Sequence[Sequence[float]] | None = None,
    arrows_file: PathValue | None = None,
    tracks: PathValue | None = None,
    method: str = "splat",
    uncovered: PathValue | None = None,
    short_side_px: int | None = None,
    frames: int = 25,
    fps: float = 12.5,
    device: str = "cpu",
) -> Animation:
    """Animate an image and write the video.

    Args:
        image: any image that Pillow reads.
        out: .mp4 or .gif, in an existing folder.
        checkpoint: the network: ours or Zhan et al.'s, torch file or safetensors; or "starter" (`cmp.starter`).
        arrows: x0, y0, x1, y1 px of each; give these, arrows_file or tracks.
        arrows_file: JSON file of arrows, as the playground writes it; see `cmp.inference.arrows.parse_arrows`.
        tracks: JSON file with a list of tracks, each a list of [x, y] over the whole time.
        method: one of `cmp.inference.animate.METHODS`.
        uncovered: file of a second video that is white where `out` shows what the image does not.
        short_side_px: size of the image for the network; None: what it was trained at.
        frames: of the video, 2 to MAX_FRAMES.
        fps: frames per second.
        device: where to compute.

    Raises:
        FileNotFoundError, OSError, ValueError: an input cannot be used or an output cannot be written; it is named.
    """
    if not 2 <= frames <= MAX_FRAMES:
        raise ValueError(f"--frames must be at least 2 and at most {MAX_FRAMES}, got {frames}")
    if sum(motion is not None for motion in (arrows, arrows_file, tracks)) != 1:
        raise ValueError("give arrows, arrows_file or tracks, one of them")
    outputs = [check_video_path(path) for path in (out, uncovered) if path]
    check_paths(
        reads={"IMAGE": image, "--checkpoint": checkpoint, "--arrows": arrows_file, "--tracks": tracks},
        writes={"OUT": out, "--uncovered": uncovered},
    )
    photo = read_image(image, MAX_PHOTO_PIXELS)
    if arrows_file is not None:
        paths = read_arrows(arrows_file, photo.shape[:2]).reshape(-1, 2, 2)  # each its start and its end
    else:
        paths = np.array(arrows, float).reshape(-1, 2, 2) if tracks is None else read_tracks(tracks, frames)
        check_positions(paths, photo.shape[:2], None if tracks is None else str(tracks))
    shown = resize_image(photo, fitting_size(photo.shape[:2]))
    if shown is not photo:
        paths = resize_tracks(paths, photo.shape[:2], shown.shape[:2])
    for path in outputs:
        check_gif_size(path, frames, shown.shape[:2])
    read = read_checkpoint(checkpoint)
    if short_side_px is None:
        short_side_px = default_short_side(read.short_side_px, shown.shape[:2])
    propagator = load_propagator(read, device=device)
    how: dict[str, Any] = dict(method=method, return_uncovered=True)
    if tracks is not None:
        moved = animate_flows(shown, flows_of_tracks(propagator, shown, paths, short_side_px=short_side_px), **how)
    else:
        vectors = paths[:, 1] - paths[:, 0]
        flow = flow_of_arrows(propagator, shown, paths[:, 0], vectors, short_side_px=short_side_px)
        moved = animate(shown, flow.transpose(1, 2, 0), frames, **how)
    bar = tqdm(moved, total=frames, unit="frame", disable=None)
    write_videos(out, uncovered, bar, shown.shape[:2], fps)
    return Animation(frames, shown.shape[:2], shown is not photo)


def read_arrows(path: PathValue, size_hw: tuple[int, int]) -> np.ndarray:
    """The arrows in a JSON file, as (N, 4) px of an image of that size.

    Raises:
        FileNotFoundError, ValueError: the file cannot be used; it is named.
    """
    num_bytes = Path(path).stat().st_size
    if num_bytes > MAX_ARROWS_BYTES:
        raise ValueError(f"{path}: a file of arrows has at most {MAX_ARROWS_BYTES} bytes, got {num_bytes}")
    content = read_json_file(path)
    try:
        return parse_arrows(content, size_hw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_tracks(path: PathValue, frames: int) -> np.ndarray:
    """The tracks in a JSON file, as (N, frames, 2) px.

    Raises:
        FileNotFoundError, ValueError: the file cannot be used; it is named.
    """
    tracks = read_json_file(path)
    if not isinstance(tracks, list) or not tracks:
        raise ValueError(f"{path} must contain a list of tracks [[[x, y], ...], ...] that is not empty")
    if len(tracks) * frames > MAX_POSITIONS:
        raise ValueError(
            f"{path}: {len(tracks)} tracks over {frames} frames are more than {MAX_POSITIONS:,} positions; "
            "give fewer of either"
        )
    try:
        return interpolate_tracks(tracks, frames)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_positions(tracks: np.ndarray, size_hw: tuple[int, int], source: str | None = None) -> None:
    """Raise ValueError, naming the arrow or track, if a position is not in the image.

    Args:
        tracks: (N, T, 2) px; of arrows T is 2.
        size_hw: of the image.
        source: name of the file of tracks; None for arrows.
    """
    nearest = np.floor(tracks + 0.5)
    inside = (nearest >= 0).all(axis=2) & (nearest < size_hw[::-1]).all(axis=2)  # NaN is not
    if inside.all():
        return
    number, time = np.argwhere(~inside)[0]
    x, y = tracks[number, time]
    if source is None:
        name = "--arrow " + ",".join(f"{value:g}" for value in tracks[number].ravel())
        what = "ends" if time else "starts"
    else:
        name, what = f"{source}: track {number} (counted from 0)", f"is in frame {time}"
    raise ValueError(
        f"{name} {what} at x={x:g}, y={y:g}, outside the image of {size_hw[1]} x {size_hw[0]} px (width x height); "
        "give positions inside it"
    )


def fitting_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    """The size of the video: the image's, or smaller if it has more than MAX_PIXELS."""
    ratio = min(1.0, (MAX_PIXELS / (size_hw[0] * size_hw[1])) ** 0.5)
    if ratio == 1:
        return size_hw
    height, width = (int(side * ratio) // 2 * 2 for side in size_hw)
    return height, width


def write_videos(
    out: PathValue, uncovered: PathValue | None, frames: Iterable, size_hw: tuple[int, int], fps: float
) -> None:
    """Write a video, and one of the uncovered pixels if a path is given, without keeping their frames in memory.

    Args:
        out, uncovered: the files.
        frames: pairs of a frame and its mask of uncovered pixels (H, W) bool.
        size_hw: of the frames.
        fps: frames per second.
    """
    if not uncovered:
        write_video(out, (frame for frame, _ in frames), fps)
        return
    with tempfile.TemporaryFile(dir=Path(uncovered).parent) as spool:  # masks, until OUT is written
        sizes = array("Q")

        def spooled() -> Iterator[np.ndarray]:
            for frame, mask in frames:
                packed = zlib.compress(np.packbits(mask).tobytes(), 1)
                sizes.append(spool.write(packed))
                yield frame

        def masks() -> Iterator[np.ndarray]:
            spool.seek(0)
            for size in sizes:
                bits = np.frombuffer(zlib.decompress(spool.read(size)), np.uint8)
                mask = np.unpackbits(bits, count=size_hw[0] * size_hw[1]).reshape(size_hw)
                yield np.repeat(255 * mask[..., None], 3, axis=2)

        write_video(out, spooled(), fps)
        write_video(uncovered, masks(), fps)
