"""Guidance points: the pixels whose motion is given to the network, and the flow that follows from them alone.

`sample_guidance` chooses points; the table of its seven strategies, with when to use each, is the docstring of
`cmp.guidance.strategies`. `guidance_tensors` makes the network's input of them. `cmp.guidance.batched` does both for
whole batches on a GPU. The `interpolate_` functions spread the motion of points without a network.
"""

from cmp.guidance.dense import guidance_tensors
from cmp.guidance.interpolate import (
    interpolate_edge_aware,
    interpolate_inverse_distance,
    interpolate_nearest,
    interpolate_thin_plate,
)
from cmp.guidance.strategies import STRATEGIES, grid_points, sample_guidance
from cmp.guidance.watershed import local_maxima, motion_edges, thin_points, watershed_map

__all__ = [
    "STRATEGIES",
    "grid_points",
    "guidance_tensors",
    "interpolate_edge_aware",
    "interpolate_inverse_distance",
    "interpolate_nearest",
    "interpolate_thin_plate",
    "local_maxima",
    "motion_edges",
    "sample_guidance",
    "thin_points",
    "watershed_map",
]
