"""Pairs of frames with flow, and the samples that are made of them for training.

Clips and digits, which other systems learn from, have modules of their own that only those import.
The names that need torch are looked up on first use, so a worker that only writes pairs stays small.
"""

from importlib import import_module

from cmp.datasets.pair_list import PairList
from cmp.datasets.pair_store import PairStore
from cmp.datasets.sources import open_pairs
from cmp.datasets.splits import split_positions

_NEED_TORCH = {
    "PairSampler": "cmp.datasets.sampler",
    "PairSource": "cmp.datasets.propagation",
    "PropagationDataset": "cmp.datasets.propagation",
} | dict.fromkeys(
    ("Colour", "Crop", "Flip", "FlowPair", "Resize", "ReverseFlow", "ScaledCrop", "ScaleFlow", "TurnFlow"),
    "cmp.datasets.transforms",
)

__all__ = [
    "Colour",
    "Crop",
    "Flip",
    "FlowPair",
    "PairList",
    "PairSampler",
    "PairSource",
    "PairStore",
    "PropagationDataset",
    "Resize",
    "ReverseFlow",
    "ScaledCrop",
    "ScaleFlow",
    "TurnFlow",
    "open_pairs",
    "split_positions",
]


def __getattr__(name: str):
    if name in _NEED_TORCH:
        return getattr(import_module(_NEED_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
