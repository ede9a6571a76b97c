"""How far predicted flow is from the target, averaged over a validation set.

Legend: B batch, H W image pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmengine.evaluator import BaseMetric

from cmp.evaluation.interpolations import INTERPOLATIONS


class FlowMetric(BaseMetric):
    """Mean endpoint error (EPE, px) over all valid pixels of all images.

    For the network's prediction: `epe`, `epe_moving` (pixels whose target moves by more than moving_px) and
    `epe_within_A_B_px` by distance to the nearest guidance point. For each control that the loop predicted, and for
    each method that needs no network (zero flow, and the interpolations from the same points): `epe_NAME`. A control
    that could not be made for an image is averaged over the other images.

    Args:
        moving_px: target motion above which a pixel counts as moving.
        distances_px: rising bounds of the distance ranges.
        interpolations: which to evaluate too, of nearest, inverse_distance, fading, thin_plate (10 ms per image of
            128 px) and edge_aware (half a second).

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
        """Sum up the errors of one batch; data_samples has one dict per image: `flow`, and `flow_NAME` of each control.

        With an empty dict only the methods that need no network are evaluated.
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
                distance = _distance_to_points(mask)
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


def _distance_to_points(mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def keep_points(batch: dict, num_points: int | None) -> dict:
    """A batch with at most num_points guidance points for each pair; None keeps all.

    Which points are kept follows from the pair's index alone: the first ones of an order that is drawn once for each
    pair, so that a smaller number keeps a subset of a larger one.

    Args:
        batch: of `PropagationDataset` samples with guidance; not written to.
        num_points: at least 1.

    Raises:
        ValueError: num_points is below 1.
    """
    if num_points is None:
        return batch
    if num_points < 1:
        raise ValueError(f"num_points must be at least 1, got {num_points}")
    mask = torch.zeros_like(batch["mask"])
    for i, index in enumerate(batch["index"]):
        places = torch.nonzero(batch["mask"][i, 0].flatten() > 0).flatten()
        order = np.random.default_rng((0, int(index))).permutation(len(places))[:num_points]
        mask[i, 0].view(-1)[places[torch.from_numpy(order).to(places.device)]] = 1
    return {**batch, "mask": mask, "guidance": batch["guidance"] * mask}
