"""What a trained network is used for: dense flow from a few motion vectors, and what is made of it."""

from cmp.inference.annotate import segment_from_clicks
from cmp.inference.propagator import EncodedImage, MotionPropagator, load_propagator
from cmp.inference.trajectories import (
    interpolate_tracks,
    resize_flow_batch,
    resize_guidance,
    resize_tracks,
    tracks_to_guidance,
)

__all__ = [
    "EncodedImage",
    "MotionPropagator",
    "interpolate_tracks",
    "load_propagator",
    "resize_flow_batch",
    "resize_guidance",
    "resize_tracks",
    "segment_from_clicks",
    "tracks_to_guidance",
]
