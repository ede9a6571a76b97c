"""The authors' checkpoints, in and out.

Their file is a dict of `step`, `state_dict` and `optimizer`. Their network has the same layers as ours in the same
order, so parameters correspond one to one and an SGD state by parameter number carries over as it is; only keys differ:

    theirs                                       ours
    module.image_encoder.*                       image_encoder.*
    module.flow_encoder.features.*               motion_encoder.features.*
    module.flow_decoder.decoder{S}.{i}           decoder.propagation.nets.{S}.{i - 1}   (their layer 0 is the pooling;
    module.flow_decoder.decoder1.{i}             decoder.propagation.nets.1.{i}          pooling by 1 has none)
    module.flow_decoder.fusion8 / skipconv4 / fusion4 / skipconv2 / fusion2
                                                 decoder.fuse_top / skip_stage1 / fuse_stage1 / skip_stem / fuse_stem
    module.flow_decoder.head                     decoder.head

Source: the authors' code of Zhan et al., CVPR 2019.
"""

import os
import re
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch

from cmp.engine.checkpoint import load_strictly
from cmp.flow import FlowQuantizer
from cmp.models import (
    CMP,
    AlexNetFCN,
    DirectFlow,
    DiscreteLoss,
    MotionEncoder,
    PropagationDecoder,
    RegressionLoss,
    ResNet,
    SkipPropagationDecoder,
)
from cmp.models.backbones import recognise_encoder
from cmp.models.weight_file import read_weight_file

ROOMS = {"image_encoder": "image_encoder", "flow_encoder": "motion_encoder", "flow_decoder": "decoder"}
DECODER_LAYERS = {
    "fusion8": "fuse_top",
    "skipconv4": "skip_stage1",
    "fusion4": "fuse_stage1",
    "skipconv2": "skip_stem",
    "fusion2": "fuse_stem",
    "head": "head",
}
PROPAGATION = "propagation.nets."


class PeerCheckpoint(NamedTuple):
    """One of the authors' files, under our keys."""

    state_dict: dict[str, torch.Tensor]
    step: int | None  # None in a file of weights alone
    optimizer: dict | None  # torch's SGD state; parameters have the numbers they have in our network


def from_peer_key(key: str) -> str | None:
    """Our key for one of theirs (with or without "module."), or None where they have no such layer."""
    room, _, rest = key.removeprefix("module.").partition(".")
    if room not in ROOMS or not rest:
        return None
    if room == "flow_decoder":
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
    return f"{ROOMS[room]}.{rest}"


def to_peer_key(key: str) -> str:
    """Their key, with "module.", for one of ours.

    Raises:
        ValueError: their network has no such layer.
    """
    room, _, rest = key.partition(".")
    theirs = {ours: peer for peer, ours in ROOMS.items()}.get(room)
    if theirs == "flow_decoder":
        if rest.startswith(PROPAGATION):
            stride, index, name = rest.removeprefix(PROPAGATION).split(".", 2)
            rest = f"decoder{stride}.{int(index) + (stride != '1')}.{name}"
        else:
            layer, _, name = rest.partition(".")
            peer_layer = {ours: peer for peer, ours in DECODER_LAYERS.items()}.get(layer)
            theirs, rest = (theirs, f"{peer_layer}.{name}") if peer_layer else (None, rest)
    if theirs is None:
        raise ValueError(f"the authors' network has no layer for {key}")
    return f"module.{theirs}.{rest}"


def is_peer_state_dict(keys: Iterable[str]) -> bool:
    """Whether keys are those of a whole network of the authors."""
    rooms = {str(key).removeprefix("module.").partition(".")[0] for key in keys}
    return {"image_encoder", "flow_encoder", "flow_decoder"} <= rooms


def read_peer_checkpoint(path: str | PathLike) -> PeerCheckpoint:
    """Read one of the authors' files (those of 2019, saved from a GPU, too), onto the CPU, without running code in it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, or holds keys that their network does not have: all are listed.
    """
    content = read_weight_file(path)
    theirs = content.get("state_dict", content)
    if not isinstance(theirs, Mapping) or not is_peer_state_dict(theirs):
        found = sorted(map(str, theirs))[:3] if isinstance(theirs, Mapping) else type(theirs).__name__
        raise ValueError(
            f"{path} holds no network of the authors: expected keys under image_encoder, flow_encoder and "
            f"flow_decoder, got {found}"
        )
    unknown = [key for key in theirs if from_peer_key(str(key)) is None or not isinstance(theirs[key], torch.Tensor)]
    if unknown:
        raise ValueError(f"{path} holds {len(unknown)} entries that the authors' network does not have: {unknown}")
    state_dict = {from_peer_key(key): value for key, value in theirs.items()}
    return PeerCheckpoint(state_dict, content.get("step"), content.get("optimizer"))


def load_peer_model(path: str | PathLike, *, alexnet_stride: int = 32, max_flow_px: float = 50.0) -> CMP:
    """Build the network whose weights are in one of the authors' files, recognised by keys and shapes, and load them.

    Args:
        path: their file.
        alexnet_stride: 32 or 8: the two variants of AlexNet have the same weights.
        max_flow_px: range of the bins, which no weight tells; 50 in all published recipes.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, the encoder is not recognised, or keys are missing (but for
            `num_batches_tracked`), left over or misshapen: all are listed.
    """
    state_dict = read_peer_checkpoint(path).state_dict
    encoder = recognise_encoder(
        key.removeprefix("image_encoder.") for key in state_dict if key.startswith("image_encoder.")
    )
    if encoder == "alexnet_fcn":
        image_encoder = dict(type=AlexNetFCN, output_stride=alexnet_stride)
    else:
        image_encoder = dict(type=ResNet, depth=int(encoder.removeprefix("resnet")), output_stride=8)
    strides = sorted({int(key.split(".")[3]) for key in state_dict if key.startswith(f"decoder.{PROPAGATION}")})
    has_skips = any(key.startswith("decoder.fuse_") for key in state_dict)
    head = state_dict.get("decoder.head.weight")
    if head is None or not strides or len(head) % 2:
        raise ValueError(f"{path} is no network of the authors: no propagation nets, or no head of 2 x bins channels")
    if len(head) == 2:
        quantizer, loss = dict(type=DirectFlow), dict(type=RegressionLoss)
    else:
        quantizer = dict(type=FlowQuantizer, num_bins=len(head) // 2, max_flow_px=max_flow_px)
        loss = dict(type=DiscreteLoss)
    model = CMP(
        image_encoder=image_encoder,
        motion_encoder=dict(type=MotionEncoder),
        decoder=dict(type=SkipPropagationDecoder if has_skips else PropagationDecoder, strides=strides),
        quantizer=quantizer,
        loss=loss,
        init="default",
    )
    load_strictly(model, state_dict, source=str(path))
    return model.eval()


def write_peer_checkpoint(
    path: str | PathLike,
    state_dict: Mapping[str, torch.Tensor],
    *,
    step: int,
    optimizer: dict | None = None,
) -> None:
    """Write weights under our keys as a file that the authors' code loads; it appears when whole, replacing another.

    Args:
        path: where; they name theirs ckpt_iter_{step}.pth.tar.
        state_dict: of a `CMP` whose layers the authors have too.
        step: optimizer updates done.
        optimizer: state dict of a torch SGD over the whole network's `parameters()`; without one their code can load
            the file but not resume from it.

    Raises:
        ValueError: a layer does not exist in their network.
    """
    content = {"step": step, "state_dict": {to_peer_key(key): value for key, value in state_dict.items()}}
    if optimizer is not None:
        content["optimizer"] = optimizer
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    torch.save(content, partial)
    os.replace(partial, path)
