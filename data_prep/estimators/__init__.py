"""Optical flow estimators behind one small protocol, made by name.

| name | what | needs |
| --- | --- | --- |
| `dis-ultrafast`, `dis-fast`, `dis-medium` | dense inverse search (OpenCV) | nothing |
| `farneback` | polynomial expansion (OpenCV) | nothing |
| `raft-small`, `raft-large` | RAFT (torchvision) | weights |
| `ptlflow:NAME` | any model of the ptlflow package | that package, in an environment of its own; weights |
| `files:FOLDER` | flow computed before: see `PrecomputedFlow` | one file a pair |

Modules that import torch are loaded when one of their estimators is made.
"""

from __future__ import annotations

from data_prep.estimators.classical import DIS_PRESETS, DisEstimator, FarnebackEstimator
from data_prep.estimators.precomputed import PrecomputedFlow
from data_prep.estimators.protocol import FlowEstimator

CLASSICAL = (*DIS_PRESETS, "farneback")
RAFT = ("raft-small", "raft-large")
DEFAULT_ESTIMATOR = "dis-medium"  # why: docs/estimators.md

__all__ = [
    "CLASSICAL",
    "DEFAULT_ESTIMATOR",
    "RAFT",
    "FlowEstimator",
    "PrecomputedFlow",
    "check_estimator",
    "create_estimator",
]


def check_estimator(name: str, weights: str | None = None) -> None:
    """Raise ValueError unless `name` is one of the names above, and one that takes weights if some are given."""
    kind, _, rest = name.partition(":")
    if name not in CLASSICAL + RAFT and not (kind in ("ptlflow", "files") and rest):
        names = ", ".join(CLASSICAL + RAFT)
        raise ValueError(f"estimator must be one of {names}, ptlflow:NAME or files:FOLDER, got {name!r}")
    if weights is not None and (name in CLASSICAL or kind == "files"):
        raise ValueError(f"estimator {name} takes no weights, got {weights}")


def create_estimator(
    name: str = DEFAULT_ESTIMATOR, *, weights: str | None = None, device: str = "auto"
) -> FlowEstimator:
    """Make an estimator by its name.

    Args:
        name: see the module; not files:FOLDER, which belongs to a video.
        weights: a local file of weights for RAFT and ptlflow; None for the library's own.
        device: "cpu", "cuda", "cuda:1", ... or "auto"; the classical ones always use the CPU.

    Raises:
        ValueError: another name, or weights that are not the model's.
        FileNotFoundError: the weights are not there.
        ModuleNotFoundError: the package ptlflow is not installed.
    """
    check_estimator(name, weights)
    kind, _, rest = name.partition(":")
    if name in DIS_PRESETS:
        return DisEstimator(name)
    if name == "farneback":
        return FarnebackEstimator()
    if kind == "files":
        raise ValueError(f"{name} reads files of a video: use PrecomputedFlow")
    if kind == "ptlflow":
        from data_prep.estimators.ptlflow_models import PtlflowEstimator

        return PtlflowEstimator(rest, weights=weights, device=device)
    from data_prep.estimators.raft import RaftEstimator

    return RaftEstimator(name, weights=weights, device=device)
