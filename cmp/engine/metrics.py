"""How far predicted flow is from the target, over a whole validation set, beside what needs no network at all.

Legend: B batch, H W image pixels.
"""

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np
import torch
from mmengine.evaluator import BaseMetric

from cmp.guidance import (
    interpolate_edge_aware,
    interpolate_inverse_distance,
    interpolate_nearest,
    interpolate_thin_plate,
)

INTERPOLATIONS = {
    "nearest": ("epe_nearest_guide", interpolate_nearest),
    "inverse_distance": ("epe_inverse_distance", interpolate_inverse_distance),
    # The strongest of all where most of a picture stands still: docs/results.md.
    "fading": ("epe_fading", partial(interpolate_inverse_distance, power=4.0, reach_px=20.0)),
    "thin_plate": ("epe_thin_plate", interpolate_thin_plate),
    "edge_aware": ("epe_edge_aware", interpolate_edge_aware),  # the only one that sees the image
}


class FlowMetric(BaseMetric):
    """Mean endpoint error (EPE, px) over all valid pixels of all images.

    For the network's prediction: `epe`, `epe_moving` (pixels whose target moves by more than moving_px) and
    `epe_within_A_B_px` by distance to the nearest guide. For each control that the loop predicted, and for each answer
    that takes no network (zero flow, the nearest guide, inverse-distance interpolation from the same guides):
    `epe_NAME`. A control that could not be made for an image is averaged over the others.

    Args:
        moving_px: target motion above which a pixel counts as moving.
        distances_px: rising bounds of the distance ranges.
        interpolations: which to judge too, of nearest, inverse_distance, fading, thin_plate (10 ms a picture of 128 px)
            and edge_aware (half a second).

    Raises:
        ValueError: an interpolation is unknown.
    """

    default_prefix = ""  # none, and no warning about it

    def __init__(
        self,
        moving_px: float = 1.0,
        distances_px: Sequence[float] = (8, 16, 32, 64),
        interpolations: Sequence[str] = ("nearest", "inverse_distance"),
    ) -> None:
        if unknown := set(interpolations) - INTERPOLATIONS.keys():
            raise ValueError(f"interpolations must be of {list(INTERPOLATIONS)}, got {sorted(unknown)}")
        super().__init__(collect_device="gpu")  # by messages, on CPUs too; "cpu" needs a folder that all machines share
        self.moving_px, self.interpolations = moving_px, tuple(interpolations)
        bounds = [0, *distances_px, np.inf]
        self.ranges = {f"epe_within_{a}_{b}_px": (a, b) for a, b in zip(bounds[:-1], bounds[1:])}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Sum up the errors of one batch; data_samples has a dict a picture: `flow` and the controls' `flow_NAME`.

        An empty dict judges what takes no network alone.
        """
        for i, predicted in enumerate(data_samples):
            target = data_batch["flow"][i].float().cpu().numpy()  # (2, H, W)
            valid = data_batch["valid"][i, 0].bool().cpu().numpy()
            mask = data_batch["mask"][i, 0].cpu().numpy() > 0
            sums = {}
            if "flow" in predicted:
                sums["loss"] = (float(predicted["loss"]), 1)
                error = _endpoint_error(predicted["flow"].float().cpu().numpy(), target)
                sums["epe"] = _sum(error, valid)
                sums["epe_moving"] = _sum(error, valid & (np.hypot(*target) > self.moving_px))
                distance = _distance_to_guides(mask)
                for name, (near, far) in self.ranges.items():
                    sums[name] = _sum(error, valid & (distance >= near) & (distance < far))
            for name, flow in predicted.items():
                if name.startswith("flow_") and flow is not None:
                    error = _endpoint_error(flow.float().cpu().numpy(), target)
                    sums[f"epe_{name.removeprefix('flow_')}"] = _sum(error, valid)
            sums["epe_zero_flow"] = _sum(np.hypot(*target), valid)
            points_yx = np.argwhere(mask)
            vectors_xy = target[:, points_yx[:, 0], points_yx[:, 1]].T
            for interpolation in self.interpolations:
                name, method = INTERPOLATIONS[interpolation]
                where = mask.shape
                if interpolation == "edge_aware":
                    where = data_batch["image"][i].cpu().numpy().transpose(1, 2, 0)
                guess = method(points_yx, vectors_xy, where).transpose(2, 0, 1)
                sums[name] = _sum(_endpoint_error(guess, target), valid)
            self.results.append(sums)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Means over the whole set; NaN where nothing was counted."""
        names = list(dict.fromkeys(name for sums in results for name in sums))
        totals = {name: np.sum([sums[name] for sums in results if name in sums], axis=0) for name in names}
        return {name: float(total / count) if count else float("nan") for name, (total, count) in totals.items()}


def _endpoint_error(flow: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.hypot(*(flow - target))


def _sum(error: np.ndarray, where: np.ndarray) -> tuple[float, int]:
    return float(error[where].sum(dtype=np.float64)), int(where.sum())


def _distance_to_guides(mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def controls_table(metrics: dict[str, float]) -> str:
    """The rows that say whether image and guides matter, as text: what was predicted with, and its EPE in px.

    A dash stands where nothing was measured, such as another video's image in a set of one video."""
    rows = {
        "epe": "the network",
        "epe_no_guidance": "guidance dropped",
        "epe_shuffled_image": "image of another video",
        "epe_zero_flow": "zero flow",
        "epe_nearest_guide": "nearest guide",
        "epe_inverse_distance": "inverse-distance interpolation",
        "epe_fading": "inverse distance, fading out",
        "epe_thin_plate": "thin-plate spline",
        "epe_edge_aware": "edge-aware interpolation",
    }
    lines = [f"{'predicted from':32}{'EPE, px':>8}{'/ network':>11}"]
    for name, label in rows.items():
        value = metrics.get(name, np.nan)
        if name not in metrics and name in ("epe_fading", "epe_thin_plate", "epe_edge_aware"):
            continue  # judged only where asked for
        ratio = value / metrics.get("epe", np.nan)
        shown = (f"{number:.{digits}f}" if np.isfinite(number) else "-" for number, digits in ((value, 3), (ratio, 2)))
        lines.append("{:32}{:>8}{:>11}".format(label, *shown))
    return "\n".join(lines)


def other_video(videos: Sequence[str]) -> torch.Tensor:
    """For each picture of a batch the position of one from another video, -1 where the batch holds none.

    Args:
        videos: (B,) names.

    Returns:
        (B,) int64; the next such picture in the batch, so that different pictures get different ones.
    """
    size = len(videos)
    found = [next((k % size for k in range(i + 1, i + size) if videos[k % size] != videos[i]), -1) for i in range(size)]
    return torch.tensor(found)
