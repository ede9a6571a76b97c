"""Files of weights read without running anything in them, and loaded without overlooking a key.

Knows no network: `cmp.checkpoints` interprets the content, `cmp.engine` resumes runs from it.
"""

from cmp.weights.download import can_be_downloaded, download_weights
from cmp.weights.load import RandomWeightsSkipped, check_finite, check_fit, check_size, load_strictly
from cmp.weights.read import MAX_JSON, WeightFile, parse_json, read_weight_file, without_wrapper, without_wrappers

__all__ = [
    "MAX_JSON",
    "RandomWeightsSkipped",
    "WeightFile",
    "can_be_downloaded",
    "check_finite",
    "check_fit",
    "check_size",
    "download_weights",
    "load_strictly",
    "parse_json",
    "read_weight_file",
    "without_wrapper",
    "without_wrappers",
]
