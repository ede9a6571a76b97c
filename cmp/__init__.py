"""Conditional Motion Propagation: self-supervised pretraining from video."""

from cmp.version import __version__

__all__ = ["__version__"]
