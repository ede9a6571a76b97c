"""Where guides go: choosing the pixels whose motion is given to the model, and what they say on their own."""

from cmp.guidance.dense import guidance_tensors
from cmp.guidance.interpolate import (
    interpolate_edge_aware,
    interpolate_inverse_distance,
    interpolate_nearest,
    interpolate_thin_plate,
)
from cmp.guidance.strategies import STRATEGIES, grid_points, sample_guidance
from cmp.guidance.videos import sample_video_guidance
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
    "sample_video_guidance",
    "thin_points",
    "watershed_map",
]
