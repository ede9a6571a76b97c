"""Conditional Motion Propagation: self-supervised pretraining from video.

`load_propagator` is looked up on first use, so that `import cmp` does not import torch.
"""

from cmp.version import __version__

__all__ = ["__version__", "load_propagator"]


def __getattr__(name: str):
    if name == "load_propagator":
        from cmp.inference import load_propagator

        return load_propagator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
