"""Flow estimators without weights: OpenCV's DIS and Farneback, on one thread, one pair at a time."""

from __future__ import annotations

import cv2
import numpy as np

from data_prep.estimators.protocol import FlowEstimator, check_frames

DIS_PRESETS = {
    "dis-ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "dis-fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "dis-medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
_MIN_SIDE_PX = 32  # DIS refuses sides below 12 and has too few scales below this


class DisEstimator(FlowEstimator):
    """OpenCV's dense inverse search. The same pair always gives the same bits.

    Frames with a side below 32 px are enlarged by a whole factor, and their flow is reduced again.

    Source: Kroeger et al., ECCV 2016.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._dis = cv2.DISOpticalFlow_create(DIS_PRESETS[name])

    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        gray_first, gray_second = _gray_pair(first, second)
        height, width = gray_first.shape
        factor = -(-_MIN_SIDE_PX // min(height, width))
        if factor == 1:
            return self._dis.calc(gray_first, gray_second, None)
        size = (width * factor, height * factor)
        enlarged = [cv2.resize(gray, size, interpolation=cv2.INTER_CUBIC) for gray in (gray_first, gray_second)]
        flow = self._dis.calc(*enlarged, None)
        return cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) / np.float32(factor)

    def describe(self) -> dict:
        return {"name": self._name, "version": f"opencv {cv2.__version__}", "settings": {"min_side_px": _MIN_SIDE_PX}}


class FarnebackEstimator(FlowEstimator):
    """OpenCV's polynomial expansion. Source: Farneback, SCIA 2003."""

    _settings = dict(pyr_scale=0.5, levels=5, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, flags=0)

    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return cv2.calcOpticalFlowFarneback(*_gray_pair(first, second), None, **self._settings)

    def describe(self) -> dict:
        return {"name": "farneback", "version": f"opencv {cv2.__version__}", "settings": dict(self._settings)}


def _gray_pair(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    check_frames(first, second)
    return cv2.cvtColor(first, cv2.COLOR_RGB2GRAY), cv2.cvtColor(second, cv2.COLOR_RGB2GRAY)
