"""The keys of Zhan et al.'s checkpoints, and ours for the same layers.

Their network has the same layers as ours in the same order, so parameters correspond one to one, and an SGD state by
parameter number carries over unchanged. Only keys differ:

    theirs                                       ours
    module.image_encoder.*                       image_encoder.*
    module.flow_encoder.features.*               motion_encoder.features.*
    module.flow_decoder.decoder{S}.{i}           decoder.propagation.nets.{S}.{i - 1}   (their layer 0 is the pooling;
    module.flow_decoder.decoder1.{i}             decoder.propagation.nets.1.{i}          pooling by 1 has none)
    module.flow_decoder.fusion8 / skipconv4 / fusion4 / skipconv2 / fusion2
                                                 decoder.fuse_top / skip_stage1 / fuse_stage1 / skip_stem / fuse_stem
    module.flow_decoder.head                     decoder.head

Source: the code of Zhan et al., CVPR 2019, https://github.com/XiaohangZhan/conditional-motion-propagation.
"""

import re
from collections.abc import Iterable

from cmp.weights import without_wrapper

PARTS = {"image_encoder": "image_encoder", "flow_encoder": "motion_encoder", "flow_decoder": "decoder"}
DECODER_LAYERS = {
    "fusion8": "fuse_top",
    "skipconv4": "skip_stage1",
    "fusion4": "fuse_stage1",
    "skipconv2": "skip_stem",
    "fusion2": "fuse_stem",
    "head": "head",
}
PROPAGATION = "propagation.nets."


def from_peer_key(key: str) -> str | None:
    """Return our key for a key of Zhan et al., whose wrapper prefixes are ignored; None if their network lacks it."""
    part, _, rest = without_wrapper(key).partition(".")
    if part not in PARTS or not rest:
        return None
    if part == "flow_decoder":
        layer, _, rest = rest.partition(".")
        net = re.fullmatch(r"decoder(\d+)", layer)
        if net:
            index, _, name = rest.partition(".")
            if not index.isdecimal():
                return None
            rest = f"{PROPAGATION}{net[1]}.{int(index) - (net[1] != '1')}.{name}"
        elif layer in DECODER_LAYERS:
            rest = f"{DECODER_LAYERS[layer]}.{rest}"
        else:
            return None
    return f"{PARTS[part]}.{rest}"


def to_peer_key(key: str) -> str:
    """Their key, with "module.", for one of ours.

    Raises:
        ValueError: their network does not have such a layer.
    """
    part, _, rest = key.partition(".")
    theirs = {ours: peer for peer, ours in PARTS.items()}.get(part)
    if theirs == "flow_decoder":
        if rest.startswith(PROPAGATION):
            stride, index, name = rest.removeprefix(PROPAGATION).split(".", 2)
            rest = f"decoder{stride}.{int(index) + (stride != '1')}.{name}"
        else:
            layer, _, name = rest.partition(".")
            peer_layer = {ours: peer for peer, ours in DECODER_LAYERS.items()}.get(layer)
            theirs, rest = (theirs, f"{peer_layer}.{name}") if peer_layer else (None, rest)
    if theirs is None:
        raise ValueError(f"the network of Zhan et al. does not have a layer for {key}")
    return f"module.{theirs}.{rest}"


def is_peer_state_dict(keys: Iterable[str]) -> bool:
    """Whether the keys are those of a whole network of Zhan et al."""
    return PARTS.keys() <= {without_wrapper(key).partition(".")[0] for key in keys}
