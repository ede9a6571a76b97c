"""Optical flow estimators with one protocol, created by name.

| name | what | needs |
| --- | --- | --- |
| `dis-ultrafast`, `dis-fast`, `dis-medium` | dense inverse search (OpenCV) | nothing |
| `farneback` | polynomial expansion (OpenCV) | nothing |
| `raft-small`, `raft-large` | RAFT (torchvision) | weights |
| `ptlflow:NAME` | any model of the ptlflow package | that package, in a separate environment; weights |
| `files:FOLDER` | flow computed before: see `PrecomputedFlow` | one file per pair |

Modules that import OpenCV or torch are loaded when one of their estimators is created.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_prep.estimators.precomputed import PrecomputedFlow
    from data_prep.estimators.protocol import FlowEstimator

DIS = ("dis-ultrafast", "dis-fast", "dis-medium")
CLASSICAL = (*DIS, "farneback")
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


_LATE = {"FlowEstimator": "protocol", "PrecomputedFlow": "precomputed"}


def __getattr__(name: str):
    if name in _LATE:
        return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def check_estimator(name: str, weights: str | None = None) -> None:
    """Raise ValueError for a name that is not in the table above, or for weights that the estimator does not take."""
    kind, _, rest = name.partition(":")
    if name not in CLASSICAL + RAFT and not (kind in ("ptlflow", "files") and rest):
        names = ", ".join(CLASSICAL + RAFT)
        raise ValueError(f"estimator must be one of {names}, ptlflow:NAME or files:FOLDER, got {name!r}")
    if weights is not None and (name in CLASSICAL or kind == "files"):
        raise ValueError(f"estimator {name} does not take weights, got {weights}")


def create_estimator(
    name: str = DEFAULT_ESTIMATOR, *, weights: str | None = None, device: str = "auto"
) -> FlowEstimator:
    """Create an estimator by its name.

    Args:
        name: see the module; not files:FOLDER, which belongs to a video.
        weights: a local file of weights for RAFT and ptlflow; None for the library's own.
        device: "cpu", "cuda", "cuda:1", ... or "auto"; the classical ones always use the CPU.

    Raises:
        ValueError: an unknown name, or weights of another model.
        FileNotFoundError: the weights do not exist.
        ModuleNotFoundError: the package ptlflow is not installed.
    """
    check_estimator(name, weights)
    kind, _, rest = name.partition(":")
    if name in CLASSICAL:
        from data_prep.estimators.classical import DisEstimator, FarnebackEstimator

        return FarnebackEstimator() if name == "farneback" else DisEstimator(name)
    if kind == "files":
        raise ValueError(f"{name} reads files of a video: use PrecomputedFlow")
    if kind == "ptlflow":
        from data_prep.estimators.ptlflow_models import PtlflowEstimator

        return PtlflowEstimator(rest, weights=weights, device=device)
    from data_prep.estimators.raft import RaftEstimator

    return RaftEstimator(name, weights=weights, device=device)
