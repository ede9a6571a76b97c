"""Sheets of predictions: image with guidance points, and flows in colors, side by side."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cmp.flow import color_wheel_key, draw_guidance, flow_to_color
from cmp.guidance import interpolate_nearest

TITLE_PX = 22
GAP_PX = 4
MIN_SIDE_PX = 192
KEY_PX = 40


def choose_rows(chosen: list[dict], batch: dict, outputs: Sequence[dict], max_rows: int) -> list[dict]:
    """Choose the rows of a sheet from batches one after another: as many videos as possible, each about equally often.

    Args:
        chosen: what was chosen from the batches before; not written to.
        batch: of `PropagationDataset` samples. outputs: one dict per sample with `flow` (2, H, W), a tensor.
        max_rows: how many rows to have at most.

    Returns:
        Rows for `prediction_sheet`, each with its `video`, at most max_rows.
    """
    rows = list(chosen)
    for i, output in enumerate(outputs):
        row = {name: batch[name][i].cpu().numpy() for name in ("image", "flow", "mask")}
        row |= {"predicted": output["flow"].float().cpu().numpy(), "video": batch["video"][i]}
        counts = Counter(other["video"] for other in rows)
        most = max(counts, key=lambda video: counts[video], default=None)
        if len(rows) < max_rows:
            rows.append(row)
        elif most is not None and counts[most] > counts[row["video"]] + 1:
            rows[max(k for k, other in enumerate(rows) if other["video"] == most)] = row
    return rows


class SheetRow(NamedTuple):
    """One row of a sheet: an image with its guidance points, and flows in colors."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    points_yx: np.ndarray  # (N, 2) pixels; N may be 0
    vectors_xy: np.ndarray  # (N, 2) px
    flows: dict[str, np.ndarray]  # title of the column to flow (H, W, 2) px; the same titles in every row
    full_color_px: float  # the length that has the full color in this row; longer vectors look the same


def prediction_sheet(rows: Sequence[dict]) -> np.ndarray:
    """Draw one row per sample: image with points, motion of the nearest point, predicted flow, target flow.

    Args:
        rows: dicts of numpy arrays, channels first: image (3, H, W) uint8, flow and predicted (2, H, W) px,
            mask (1, H, W).

    Returns:
        As `flow_sheet`. The longest vector of a row's target has the full color.

    Raises:
        ValueError: there are no rows.
    """
    drawn = []
    for row in rows:
        flow, predicted = (row[name].transpose(1, 2, 0) for name in ("flow", "predicted"))
        points_yx = np.argwhere(row["mask"][0] > 0)
        vectors_xy = flow[points_yx[:, 0], points_yx[:, 1]]
        nearest = interpolate_nearest(points_yx, vectors_xy, flow.shape[:2])
        flows = {"nearest point": nearest, "network": predicted, "target": flow}
        image = np.ascontiguousarray(row["image"].transpose(1, 2, 0))
        drawn.append(SheetRow(image, points_yx, vectors_xy, flows, max(1.0, float(np.hypot(*row["flow"]).max()))))
    return flow_sheet(drawn)


def flow_sheet(rows: Sequence[SheetRow]) -> np.ndarray:
    """Draw one row per image: the image with its points, then its flows, all on the color scale of the row.

    Returns:
        (rows' height, columns' width, 3) uint8 RGB, with a line of titles. The color wheel in the last column of each
        row is the key: its rim has the length that is written under it, px.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("a sheet needs at least one row")
    drawn = []
    for row in rows:
        scale = max(1, round(MIN_SIDE_PX / min(row.image.shape[:2])))
        with_points = draw_guidance(
            _enlarge(row.image, scale), row.points_yx * scale + scale // 2, row.vectors_xy * scale
        )
        colors = [_enlarge(flow_to_color(flow, max_flow_px=row.full_color_px), scale) for flow in row.flows.values()]
        _add_key(colors[-1], row.full_color_px)
        drawn.append(_join([with_points, *colors], axis=1))
    width = max(picture.shape[1] for picture in drawn)
    sheet = _join([_widened(picture, width) for picture in drawn], axis=0)
    column = (drawn[0].shape[1] + GAP_PX) // (1 + len(rows[0].flows))
    titles = np.full((TITLE_PX, width, 3), 255, np.uint8)
    for i, title in enumerate(("image and points", *rows[0].flows)):
        cv2.putText(titles, title, (i * column + 4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([titles, sheet])


class PredictionPictures(Hook):
    """Add a sheet of predictions to the run's vis_data/vis_image and to TensorBoard after each validation.

    Args:
        max_rows: how many samples to show.
    """

    def __init__(self, max_rows: int = 6) -> None:
        self.max_rows, self.rows = max_rows, []

    def before_val_epoch(self, runner: Runner) -> None:
        self.rows = []

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs: list[dict]) -> None:
        self.rows = choose_rows(self.rows, data_batch, outputs, self.max_rows)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if self.rows and is_main_process():
            runner.visualizer.add_image("predictions", prediction_sheet(self.rows), step=runner.iter)


def _add_key(picture: np.ndarray, full_color_px: float) -> None:
    """Draw the color wheel, and the length of its rim under it, into the top right corner."""
    side = min(KEY_PX, picture.shape[0] // 4, picture.shape[1] // 4)
    corner = np.full((side + 14, max(side, 44), 3), 255, np.uint8)[: picture.shape[0], : picture.shape[1]]
    left = (corner.shape[1] - side) // 2
    corner[:side, left : left + side] = color_wheel_key(side)
    text = f"{full_color_px:.1f} px"
    cv2.putText(corner, text, (2, side + 10), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0, 0, 0), 1, cv2.LINE_AA)
    picture[: corner.shape[0], picture.shape[1] - corner.shape[1] :] = corner


def _widened(picture: np.ndarray, width: int) -> np.ndarray:
    return np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)


def _enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
    return np.repeat(np.repeat(picture, scale, axis=0), scale, axis=1)


def _join(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    shape = list(pictures[0].shape)
    shape[axis] = GAP_PX
    gap = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis=axis)
