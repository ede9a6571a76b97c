"""Pairs of frames with flow, and the training samples made of them.

Clips and digits, the data of the systems in `cmp.baselines`, are in separate modules that only those import. The names
that need torch are imported on first use, so a worker that only writes pairs uses less memory.
"""

from importlib import import_module

from cmp.datasets.pair_list import PairList
from cmp.datasets.pair_store import PairStore
from cmp.datasets.sources import open_pairs
from cmp.datasets.splits import split_positions

_NEED_TORCH = {
    "EpochSampler": "cmp.datasets.sampler",
    "PairSource": "cmp.datasets.propagation",
    "PropagationDataset": "cmp.datasets.propagation",
} | dict.fromkeys(
    (
        "Color",
        "Crop",
        "Flip",
        "FlowPair",
        "Resize",
        "ResizedCrop",
        "ReverseFlow",
        "ScaledCrop",
        "ScaleFlow",
        "TurnFlow",
    ),
    "cmp.datasets.transforms",
)

__all__ = [
    "Color",
    "Crop",
    "Flip",
    "FlowPair",
    "PairList",
    "EpochSampler",
    "PairSource",
    "PairStore",
    "PropagationDataset",
    "Resize",
    "ResizedCrop",
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
