"""Measure how well pixels are classified, over a whole set at full resolution."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric


def confusion_matrix(truth: torch.Tensor, predicted: torch.Tensor, num_classes: int) -> np.ndarray:
    """Count pixels by true class (row) and predicted class (column).

    Args:
        truth: any shape, integers; pixels outside [0, num_classes) are left out.
        predicted: the same shape, integers in [0, num_classes).

    Returns:
        (num_classes, num_classes) int64.
    """
    truth, predicted = truth.long().flatten(), predicted.long().flatten()
    counted = (truth >= 0) & (truth < num_classes)
    cells = truth[counted] * num_classes + predicted[counted]
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes).cpu().numpy()


def scores(matrix: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Percentages from a confusion matrix.

    Returns:
        miou: mean of the IoUs of all classes that occur, in truth or prediction; pixel_accuracy; iou/NAME of each
        class, NaN for one that does not occur. All are NaN where nothing was counted.
    """
    right = np.diag(matrix).astype(np.float64)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - right
    iou = np.full(len(names), np.nan)
    iou[union > 0] = 100 * right[union > 0] / union[union > 0]
    total = matrix.sum()
    result = {"miou": float(np.nanmean(iou)) if (union > 0).any() else float("nan")}
    result["pixel_accuracy"] = float(100 * right.sum() / total) if total else float("nan")
    return result | {f"iou/{name}": float(value) for name, value in zip(names, iou)}


class SegmentationMetric(BaseMetric):
    """`scores` of a whole set; one confusion matrix per image is kept, so that several processes count each image once.

    Args:
        names: of the classes.
    """

    default_prefix = ""  # without a prefix, and without a warning about that

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(collect_device="gpu")  # through messages between processes, on CPUs too
        self.names = tuple(names)

    def process(self, data_batch: dict, data_samples: Sequence[torch.Tensor]) -> None:
        """Count one batch; data_samples has the predicted classes (H, W) of each image."""
        for truth, predicted in zip(data_batch["label"], data_samples):
            self.results.append(confusion_matrix(truth.cpu(), predicted.cpu(), len(self.names)))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """`scores`, and how many images and pixels were counted."""
        matrix = np.sum(results, axis=0)
        return scores(matrix, self.names) | {"images": len(results), "pixels": int(matrix.sum())}


def scores_table(metrics: dict[str, float]) -> str:
    """One line of text per class, then the means; a dash for a class that does not occur."""
    rows = [(key.removeprefix("iou/"), value) for key, value in metrics.items() if key.startswith("iou/")]
    rows += [("mean IoU", metrics["miou"]), ("pixel accuracy", metrics["pixel_accuracy"])]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {'-' if np.isnan(value) else format(value, '.2f'):>6}" for name, value in rows)
