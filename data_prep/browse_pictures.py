"""The images of the page about a pair store: frames, flow in colors, the crop that training draws with its points."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

import cv2
import numpy as np

from cmp.flow.draw import color_wheel_key, draw_guidance, flow_to_color

_WIDTHS_PX = (480, 960)  # smaller images are enlarged to the first width, larger ones reduced to the second
_WHEEL_PX = 96
_LEAST_FULL_PX = 1.0  # motion that gets the full color, at least: so the noise of a still scene stays pale
_FULL_SHARE = 99.0  # percentile of the lengths that gets the full color; a few wild vectors would make the rest pale


def shown_image(image: np.ndarray, caption: str) -> dict:
    """An image (H, W, 3) uint8 RGB for the template, with the line that is shown under it when it is enlarged."""
    return {"url": data_url(resized(image)), "caption": caption, "full_px": None}


def shown_flow(flow: np.ndarray, caption: str) -> dict:
    """Flow (H, W, 2) float32, px, in colors; `full_px` is the length at the rim of the color wheel."""
    lengths = np.hypot(flow[..., 0], flow[..., 1])
    full_px = float(f"{max(_LEAST_FULL_PX, np.percentile(lengths, _FULL_SHARE)):.2g}")
    color = flow_to_color(flow, max_flow_px=full_px)
    return {"url": data_url(resized(color)), "caption": caption, "full_px": full_px}


def shown_crop(sample: dict[str, Any], caption: str) -> dict:
    """The crop of a sample of `PropagationDataset` with an arrow at each of its guidance points.

    Of a sample with several sets of points the first is drawn. `num_points` is their number.
    """
    image = sample["image"].permute(1, 2, 0).numpy()
    mask, guidance = (sample[name].reshape(-1, *sample[name].shape[-3:])[0].numpy() for name in ("mask", "guidance"))
    points_yx = np.argwhere(mask[0] > 0)
    vectors_xy = guidance[:, points_yx[:, 0], points_yx[:, 1]].T
    large = resized(np.ascontiguousarray(image))
    scale = large.shape[1] / image.shape[1]
    drawn = draw_guidance(large, (points_yx + 0.5) * scale - 0.5, vectors_xy, scale=scale)
    return {"url": data_url(drawn), "caption": caption, "full_px": None, "num_points": len(points_yx)}


@cache
def wheel_url() -> str:
    """The color wheel as a data URL; its rim is the length that gets the full color."""
    wheel = cv2.cvtColor(color_wheel_key(_WHEEL_PX), cv2.COLOR_RGB2BGR)
    return f"data:image/png;base64,{base64.b64encode(cv2.imencode('.png', wheel)[1].tobytes()).decode()}"


def resized(image: np.ndarray) -> np.ndarray:
    """The image at the width at which the page holds it, its ratio of sides kept."""
    height, width = image.shape[:2]
    wanted = min(max(width, _WIDTHS_PX[0]), _WIDTHS_PX[1])
    size = (wanted, max(1, round(height * wanted / width)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if wanted <= width else cv2.INTER_LINEAR)


def data_url(image: np.ndarray) -> str:
    """The image (H, W, 3) uint8 RGB as a JPEG in a data URL."""
    data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
