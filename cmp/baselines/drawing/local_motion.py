"""Drawing for local motion: frames, labels, expected motion, disappearance and rebuilt frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from cmp.baselines.drawing.grid import image_grid
from cmp.flow import flow_to_color

if TYPE_CHECKING:
    from cmp.baselines.local_motion import LocalMotion


def draw_motion(model: LocalMotion, frames: torch.Tensor, forward: torch.Tensor | None) -> dict[str, np.ndarray]:
    """Draw what the model predicts for clips (B, T, C, H, W), values 0..1; forward: labels (B, h, w), or None.

    Returns:
        `motion`: one row per sample: frames 1, 2 and 3; the labels as flow, if given; for each side the expected flow
        and, if the model predicts it, the disappearance; unless the model is supervised, the rebuilt frames and the
        weight of the forward side (attention). Small images are enlarged by a whole factor.
    """
    rebuilt = model.rebuild(frames)
    columns = [model.to_cells(frames[:, index]) for index in range(3)]
    if forward is not None:
        shifts = torch.stack((forward % (2 * model.max_shift + 1), forward // (2 * model.max_shift + 1)), dim=1)
        columns.append(colored(shifts - model.max_shift, model.max_shift))
    for flow, gone in zip(rebuilt["flow"], rebuilt["disappear"]):
        columns.append(colored(flow, model.max_shift))
        columns += [] if model.disappear == "none" else [gone]
    if not model.supervised:
        columns += [rebuilt[name] for name in ("forward", "backward", "blend", "attention") if name in rebuilt]
    return {"motion": _sheet(columns)}


def draw_occlusion(
    model: LocalMotion, frames: torch.Tensor, covered: torch.Tensor | None, visible_side: torch.Tensor | None
) -> dict[str, np.ndarray]:
    """Draw predicted disappearance and attention for clips (B, T, C, H, W), values 0..1, next to what is true.

    Args:
        covered: (B, 2, h, w) bool, cells of frames 2 and 4 that are covered in frame 3; None if not known.
        visible_side: (B, h, w), 1 and -1 for cells of frame 3 that only frame 2, or only frame 4, shows; None if not
            known.

    Returns:
        `disappear`, if the model predicts it: one row per sample, for each side: the frame, the predicted disappearance
        and, if known, the covered cells (white). `attention`, if the model blends two sides: one row per sample:
        frame 3, the weight of the forward side and, if known, the cells that only this side shows (white), only the
        other (black), or both or none (gray).
    """
    rebuilt, pictures = model.rebuild(frames), {}
    if model.disappear != "none":
        columns = []
        for side, gone in enumerate(rebuilt["disappear"]):
            columns += [model.to_cells(frames[:, (1, 3)[side]]), gone]
            columns += [] if covered is None else [covered[:, side, None].float()]
        pictures["disappear"] = _sheet(columns)
    if "attention" in rebuilt:
        columns = [model.to_cells(frames[:, 2]), rebuilt["attention"]]
        columns += [] if visible_side is None else [0.5 + visible_side[:, None].float() / 2]
        pictures["attention"] = _sheet(columns)
    return pictures


def _sheet(columns: list[torch.Tensor]) -> np.ndarray:
    """Arrange columns (B, 1 or 3, h, w) in one row per sample; small images are enlarged by a whole factor."""
    columns = [column.detach().float().cpu().expand(-1, 3, -1, -1) for column in columns]
    scale = max(1, 64 // columns[0].shape[3])
    images = torch.stack(columns, dim=1).flatten(0, 1)
    return image_grid(F.interpolate(images, scale_factor=scale), columns=len(columns))


def colored(flow: torch.Tensor, max_shift: int) -> torch.Tensor:
    """Color flow (B, 2, h, w), cells: RGB (B, 3, h, w) in 0..1, at full strength for the longest possible shift."""
    flow = flow.detach().float().permute(0, 2, 3, 1).cpu().numpy()
    colors = np.stack([flow_to_color(one, max_flow_px=2**0.5 * max_shift) for one in flow])
    return torch.from_numpy(colors).permute(0, 3, 1, 2) / 255
