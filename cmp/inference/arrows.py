"""Arrows that a user drew on an image: their checks, still points on the border, and the JSON that keeps them.

An arrow is (x0, y0, x1, y1), px: a point of the image and where it moves to. Where both are the same, the point does
not move: a still point. Legend: N arrows, H W image pixels.
"""

import json
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from cmp.inference.trajectories import resize_tracks
from cmp.pixels import is_inside, nearest_pixel

MAX_ARROWS = 200  # arrows and still points of one image
MAX_TEXT = 32 << 10  # characters of the JSON of arrows: MAX_ARROWS take less
NUM_BORDER = 8
MAX_SIDE = 1 << 20  # of the image that a file of arrows names
_FORMAT = '[[x0, y0, x1, y1], ...] or {"size": [width, height], "arrows": [[x0, y0, x1, y1], ...]}'


def check_arrows(arrows: Sequence | np.ndarray, size_hw: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Convert arrows to points and vectors after checking them.

    Args:
        arrows: N entries (x0, y0, x1, y1), px.
        size_hw: of the image; None if it is not known yet, then positions may be anywhere.

    Returns:
        points_xy and vectors_xy, (N, 2) float64 px; N may be 0.

    Raises:
        ValueError: there are more than MAX_ARROWS entries (found before they are looked at), entries are not four
            finite numbers, start outside the image, or end further from the image than its own width or height.
    """
    if not isinstance(arrows, (list, tuple, np.ndarray)):
        raise ValueError(f"arrows must be a list of entries (x0, y0, x1, y1), got {type(arrows).__name__}")
    if isinstance(arrows, np.ndarray) and arrows.ndim != 2:
        raise ValueError(f"arrows must be (N, 4), entries (x0, y0, x1, y1), got {arrows.shape}")
    check_num_arrows(len(arrows))
    for entry in arrows:
        if not isinstance(entry, (list, tuple, np.ndarray)) or len(entry) != 4:
            raise ValueError("arrows must be entries (x0, y0, x1, y1) of four numbers")
        if not all(isinstance(value, Real) and not isinstance(value, (bool, np.bool_)) for value in entry):
            raise ValueError("arrows must be entries (x0, y0, x1, y1) of four numbers")
    try:
        values = np.array([[float(value) for value in entry] for entry in arrows], np.float64).reshape(-1, 4)
    except OverflowError as error:
        raise ValueError("arrows must be finite, got a number beyond float64") from error
    if not np.isfinite(values).all():
        raise ValueError("arrows must be finite, got NaN or infinity")
    points, ends = values[:, :2], values[:, 2:]
    if size_hw is not None:
        size_xy = np.array(size_hw[::-1])
        inside = is_inside(points, size_hw[::-1])
        if not inside.all():
            raise ValueError(
                f"arrows must start in the image of {size_xy[0]} x {size_xy[1]} px (width x height), "
                f"{_named(points, ~inside)}"
            )
        far = np.any((ends < -size_xy) | (ends > 2 * size_xy), axis=1)
        if far.any():
            raise ValueError(
                "arrows must end in the image or near it: at most its own width and height outside, "
                f"{size_xy[0]} x {size_xy[1]} px, {_named(ends, far)}"
            )
    return points, ends - points


def check_clicks(clicks: Sequence, size_hw: tuple[int, int] | None) -> np.ndarray:
    """Convert clicks, N entries (x, y) in px, to (N, 2) float64 after the checks of `check_arrows`; N may be 0.

    Raises:
        ValueError: there are more than MAX_ARROWS, one is not two finite numbers, or is outside the image.
    """
    if not isinstance(clicks, (list, tuple)) or len(clicks) > MAX_ARROWS:
        raise ValueError(f"clicks must be a list of at most {MAX_ARROWS} entries (x, y)")
    if not all(isinstance(entry, (list, tuple)) and len(entry) == 2 for entry in clicks):
        raise ValueError("clicks must be entries (x, y) of two numbers")
    return check_arrows([[*entry, *entry] for entry in clicks], size_hw)[0]


def _named(positions_xy: np.ndarray, wrong: np.ndarray) -> str:
    number = int(np.flatnonzero(wrong)[0])
    x, y = positions_xy[number]
    return f"got x={x:g}, y={y:g} for arrow {number} (counted from 0)"


def check_num_arrows(count: int) -> None:
    """Raise ValueError if there are more than MAX_ARROWS."""
    if count > MAX_ARROWS:
        raise ValueError(f"arrows must be at most {MAX_ARROWS}, got {count}; draw fewer")


def border_points(size_hw: tuple[int, int]) -> np.ndarray:
    """Place NUM_BORDER points near the border of an image: its corners, and the middles of its sides.

    Returns:
        (NUM_BORDER, 2) float64 px (x, y), a fiftieth of the short side inside the border.
    """
    height, width = size_hw
    inset = round(min(size_hw) / 50)
    x, y = ((inset, (side - 1) // 2, side - 1 - inset) for side in (width, height))
    return np.array([(column, row) for row in y for column in x if (column, row) != (x[1], y[1])], np.float64)


def border_gap_px(size_hw: tuple[int, int]) -> float:
    """Distance within which a border point makes way for an arrow that starts there, px."""
    return min(size_hw) / 10


def with_still_border(
    points_xy: np.ndarray, vectors_xy: np.ndarray, size_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Add still points on the border, except next to points that are there already.

    Args:
        points_xy, vectors_xy: (N, 2) px.
        size_hw: of the image.

    Returns:
        points_xy and vectors_xy (M, 2) px, the N first; M is at most N + NUM_BORDER and MAX_ARROWS.
    """
    border = border_points(size_hw)
    distances = np.linalg.norm(border[:, None] - points_xy[None], axis=2)  # (NUM_BORDER, N)
    border = border[(distances > border_gap_px(size_hw)).all(axis=1)][: MAX_ARROWS - len(points_xy)]
    return np.concatenate((points_xy, border)), np.concatenate((vectors_xy, np.zeros_like(border)))


def without_still_border(arrows: np.ndarray, size_hw: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """Undo `with_still_border`.

    Args:
        arrows: (N, 4) px.
        size_hw: of the image.

    Returns:
        The arrows without those still points that the border has, and whether these were all that it would have.
    """
    still = (arrows[:, :2] == arrows[:, 2:]).all(axis=1)
    on_border = (nearest_pixel(arrows[:, None, :2]) == border_points(size_hw)[None]).all(axis=2).any(axis=1) & still
    drawn = arrows[~on_border]
    wanted, _ = with_still_border(drawn[:, :2], drawn[:, 2:], size_hw)
    held = 0 < len(wanted) - len(drawn) == on_border.sum()
    return (drawn, True) if held else (arrows, False)


def parse_arrows(content: object, size_hw: tuple[int, int]) -> np.ndarray:
    """Read arrows from parsed JSON, in pixels of an image.

    Args:
        content: a list of arrows in pixels of the image; or a dict of the size that the image had when they were drawn,
            [width, height], and the arrows in its pixels, which are scaled to the image.
        size_hw: of the image.

    Returns:
        (N, 4) float64 px; N is at least 1.

    Raises:
        ValueError: the content is another, the image had another shape (its sides differ by more than 2 px from those
            of the image at that width), there is no arrow, or as `check_arrows`.
    """
    arrows: Any = content
    drawn_hw = size_hw
    if isinstance(content, dict):
        if set(content) != {"size", "arrows"}:
            raise ValueError(f"arrows must be {_FORMAT}, got the keys {sorted(map(str, content))[:5]}")
        arrows, drawn_hw = content["arrows"], _checked_size(content["size"])
    elif not isinstance(content, list):
        raise ValueError(f"arrows must be {_FORMAT}, got {type(content).__name__}")
    (height, width), (drawn_height, drawn_width) = size_hw, drawn_hw
    if abs(drawn_height - height * drawn_width / width) > 2 and abs(drawn_width - width * drawn_height / height) > 2:
        raise ValueError(
            f"arrows were drawn on an image of another shape, {drawn_width} x {drawn_height} px (width x height), "
            f"and this one has {width} x {height} px"
        )
    points, vectors = check_arrows(arrows, drawn_hw)
    if not len(points):
        raise ValueError(f"arrows must be {_FORMAT}, got an empty list")
    arrows = np.concatenate((points, points + vectors), axis=1)
    if drawn_hw != tuple(size_hw):
        arrows = resize_tracks(arrows.reshape(-1, 2, 2), drawn_hw, size_hw).astype(np.float64).reshape(-1, 4)
    check_arrows(arrows, size_hw)
    return arrows


def _checked_size(size: object) -> tuple[int, int]:
    """(height, width) of [width, height]."""
    sides = size if isinstance(size, list) else []
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
        raise ValueError(f"size must be [width, height] in whole px, each in 1..{MAX_SIDE}")
    return sides[1], sides[0]


def arrows_as_json(points_xy: np.ndarray, vectors_xy: np.ndarray, size_hw: tuple[int, int]) -> str:
    """Write arrows as JSON that `parse_arrows` reads, positions rounded to a hundredth of a px."""
    arrows = np.concatenate((points_xy, points_xy + vectors_xy), axis=1).round(2).tolist()
    lines = ",\n  ".join(map(json.dumps, arrows))
    return f'{{"size": [{size_hw[1]}, {size_hw[0]}], "arrows": [\n  {lines}\n]}}\n'
