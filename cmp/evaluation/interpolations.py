"""Dense flow from guidance points without a network: the methods that an evaluation compares a network with.

Each method takes points_yx (N, 2), vectors_xy (N, 2), px, and the size (H, W) or, for edge_aware, the image (H, W, 3);
it returns (H, W, 2) float32 flow, px.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from cmp.guidance import (
    interpolate_edge_aware,
    interpolate_inverse_distance,
    interpolate_nearest,
    interpolate_thin_plate,
)

# The name that a user gives, to the name of its metric and the method.
INTERPOLATIONS: dict[str, tuple[str, Callable[..., np.ndarray]]] = {
    "nearest": ("epe_nearest_guide", interpolate_nearest),
    "inverse_distance": ("epe_inverse_distance", interpolate_inverse_distance),
    # The strongest of all where most of an image does not move: docs/results.md.
    "fading": ("epe_fading", partial(interpolate_inverse_distance, power=4.0, reach_px=20.0)),
    "thin_plate": ("epe_thin_plate", interpolate_thin_plate),
    "edge_aware": ("epe_edge_aware", interpolate_edge_aware),  # the only one that reads the image
}
