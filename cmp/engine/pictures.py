"""Pictures of what the network predicts: image, guides, predicted flow and target flow side by side."""

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np

from cmp.flow import color_wheel_key, draw_guidance, flow_to_color

TITLE_PX = 22
GAP_PX = 4
LEAST_SIDE_PX = 192


def choose_rows(chosen: list[dict], batch: dict, outputs: Sequence[dict], max_rows: int) -> list[dict]:
    """Choose what a sheet shows while batches go by: as many videos as there are, about equally often each.

    Args:
        chosen: what was chosen from the batches before; not written to.
        batch: of `PropagationDataset` samples. outputs: a dict a sample with `flow` (2, H, W), a tensor.
        max_rows: how many rows to have at most.

    Returns:
        Rows for `prediction_sheet`, each with its `video`, at most max_rows.
    """
    rows = list(chosen)
    for i, output in enumerate(outputs):
        row = {name: batch[name][i].cpu().numpy() for name in ("image", "flow", "mask")}
        row |= {"predicted": output["flow"].float().cpu().numpy(), "video": batch["video"][i]}
        counts = Counter(other["video"] for other in rows)
        most = max(counts, key=counts.get, default=None)
        if len(rows) < max_rows:
            rows.append(row)
        elif most is not None and counts[most] > counts[row["video"]] + 1:
            rows[max(k for k, other in enumerate(rows) if other["video"] == most)] = row
    return rows


def prediction_sheet(rows: Sequence[dict]) -> np.ndarray:
    """One row a sample: image with guides, predicted flow, target flow, colours on the target's scale in each row.

    Args:
        rows: dicts of numpy arrays, channels first: image (3, H, W) uint8, flow and predicted (2, H, W) px,
            mask (1, H, W).

    Returns:
        (rows' height, 3 columns' width, 3) uint8 RGB, with a line of titles and the colour wheel's key.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("a sheet needs at least one row")
    drawn = []
    for row in rows:
        flow, predicted = (row[name].transpose(1, 2, 0) for name in ("flow", "predicted"))
        fastest = max(1.0, float(np.hypot(*row["flow"]).max()))
        scale = max(1, round(LEAST_SIDE_PX / min(flow.shape[:2])))
        points_yx = np.argwhere(row["mask"][0] > 0)
        vectors_xy = flow[points_yx[:, 0], points_yx[:, 1]]
        image = _enlarge(np.ascontiguousarray(row["image"].transpose(1, 2, 0)), scale)
        guided = draw_guidance(image, points_yx * scale + scale // 2, vectors_xy * scale)
        colours = [_enlarge(flow_to_color(f, max_flow_px=fastest), scale) for f in (predicted, flow)]
        drawn.append(_join([guided, *colours], axis=1))
    sheet = _join(drawn, axis=0)
    column = (sheet.shape[1] + GAP_PX) // 3
    key = color_wheel_key(min(48, column // 4))
    sheet[: len(key), -len(key[0]) :] = key
    titles = np.full((TITLE_PX, sheet.shape[1], 3), 255, np.uint8)
    for i, title in enumerate(("image and guides", "predicted flow", "target flow")):
        cv2.putText(titles, title, (i * column + 4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([titles, sheet])


def _enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
    return np.repeat(np.repeat(picture, scale, axis=0), scale, axis=1)


def _join(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    shape = list(pictures[0].shape)
    shape[axis] = GAP_PX
    gap = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis=axis)
