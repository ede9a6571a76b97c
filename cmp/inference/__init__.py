"""What a trained network is used for: dense flow from a few motion vectors, and what is made of it."""

from cmp.inference.propagator import EncodedImage, MotionPropagator, load_propagator

__all__ = ["EncodedImage", "MotionPropagator", "load_propagator"]
