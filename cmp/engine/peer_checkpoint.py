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

Their tool for extracting weights writes the image encoder alone, as a plain state dict without any prefix.

Source: the authors' code of Zhan et al., CVPR 2019.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import BinaryIO, NamedTuple

import safetensors.torch
import torch

from cmp.engine.checkpoint import load_model, load_strictly, read_checkpoint
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
    if len(state_dict) < len(theirs):
        twice = [key for key in theirs if not key.startswith("module.") and f"module.{key}" in theirs]
        raise ValueError(f"{path} holds {len(twice)} weights twice, with and without 'module.': {twice}")
    step = content.get("step")
    if step is not None:
        try:
            step = int(step)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} must hold a whole number as its step, got {step!r}") from error
    return PeerCheckpoint(state_dict, step, content.get("optimizer"))


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
    if head is None or head.ndim == 0 or not strides or len(head) % 2:
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
    _save_whole(path, content)


def read_peer_backbone(path: str | PathLike) -> dict[str, torch.Tensor]:
    """Read the image encoder that the authors' tool extracted (convert_iter_{step}.pth.tar), onto the CPU.

    The same encoder under our keys, as `convert_checkpoint` writes it, is read too.

    Returns:
        State dict under our keys, `image_encoder.*`, with the projection (`conv5`, `conv8`) that their tool keeps.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, of no known encoder, or keys are missing (but for `num_batches_tracked`), left
            over or misshapen: all are listed.
    """
    weights = {key.removeprefix("image_encoder."): value for key, value in read_checkpoint(path).state_dict.items()}
    try:
        name = recognise_encoder(weights)
    except ValueError as error:
        raise ValueError(f"{path} holds neither a network nor an image encoder of the authors: {error}") from error
    encoder = AlexNetFCN() if name == "alexnet_fcn" else ResNet(int(name.removeprefix("resnet")))
    load_strictly(encoder, weights, source=f"{path} ({name})")
    # In the encoder's order, which safetensors files do not keep.
    return {f"image_encoder.{key}": weights[key] for key in encoder.state_dict() if key in weights}


def load_network(path: str | PathLike, *, alexnet_stride: int = 32, max_flow_px: float = 50.0) -> CMP:
    """The network in a checkpoint, ours or the authors', torch file or safetensors, told apart by what is in it.

    Args:
        path: the file.
        alexnet_stride, max_flow_px: what a file of the authors does not tell (`load_peer_model`); ours say it
            themselves.

    Returns:
        The network with its weights, on the CPU, in eval mode.

    Raises:
        FileNotFoundError, ValueError: as `load_model` and `load_peer_model`.
    """
    checkpoint = read_checkpoint(path)
    if is_peer_state_dict(checkpoint.state_dict):
        return load_peer_model(path, alexnet_stride=alexnet_stride, max_flow_px=max_flow_px)
    return load_model(path)


def convert_checkpoint(
    source: str | PathLike,
    out: str | PathLike,
    *,
    to: str = "cmp",
    alexnet_stride: int = 32,
    max_flow_px: float = 50.0,
) -> str:
    """Write a checkpoint, ours or the authors', in one layout or the other; out appears when whole, replacing another.

    Args:
        source: a whole network, or an image encoder alone, in either layout.
        out: file to write. With to="cmp" a name ending in .safetensors gives that format, else a torch file.
        to: "cmp": ours. "peer": the authors'. "peer-backbone": the image encoder alone, as their tool extracts it.
        alexnet_stride, max_flow_px: see `load_peer_model`.

    Returns:
        What was written, in a few words.

    Raises:
        FileNotFoundError: there is no source.
        ValueError: it is broken or of neither layout, its network has layers or bins that the authors' has not, `to` is
            unknown, or a torch layout is to go under a safetensors name.

    The step and an SGD's state go along; a safetensors file has no place for the latter.
    """
    if to not in ("cmp", "peer", "peer-backbone"):
        raise ValueError(f"to must be 'cmp', 'peer' or 'peer-backbone', got {to!r}")
    out = Path(out)
    as_safetensors = out.suffix == ".safetensors"
    if as_safetensors and to != "cmp":
        raise ValueError(f"the authors' layout is a torch file, which {out.name} would belie: name it .pth.tar")

    checkpoint, content = read_checkpoint(source), read_weight_file(source)
    step, optimizer = checkpoint.meta.get("iter"), content.get("optimizer")
    # An encoder alone has no prefix in their layout, and no key without it in ours.
    if len({key.startswith("image_encoder.") for key in checkpoint.state_dict}) == 2:
        network = load_network(source, alexnet_stride=alexnet_stride, max_flow_px=max_flow_px)
        state_dict, description = network.state_dict(), network.describe()
        if is_peer_state_dict(checkpoint.state_dict):
            step = read_peer_checkpoint(source).step
        what = f"whole network, {description['encoder']}, {type(network.decoder).__name__}"
    else:
        if to == "peer":
            raise ValueError(f"{source} holds an image encoder alone: a whole network is needed for to='peer'")
        state_dict, description, network = read_peer_backbone(source), None, None
        what = "image encoder alone"

    if to == "peer-backbone":
        inner = {k.removeprefix("image_encoder."): v for k, v in state_dict.items() if k.startswith("image_encoder.")}
        _save_whole(out, inner)
        return f"image encoder alone, {len(inner)} tensors, as the authors' tool extracts it"
    if to == "peer":
        unproven = out.with_name(f"{out.name}.unproven")
        try:
            write_peer_checkpoint(unproven, state_dict, step=int(step or 0), optimizer=_plain_sgd(optimizer))
            _prove_same_network(unproven, network, source)
            os.replace(unproven, out)
        finally:
            unproven.unlink(missing_ok=True)
        return f"{what}, {len(state_dict)} tensors, in the authors' layout"
    meta = {} if description is None else {"cmp": description}
    if step is not None:
        meta["iter"] = int(step)
    if as_safetensors:
        metadata = {"format": "pt"} | {k: v if isinstance(v, str) else json.dumps(v) for k, v in meta.items()}
        weights = {k: v.contiguous() for k, v in state_dict.items()}
        with _appearing_whole(out) as file:
            file.write(safetensors.torch.save(weights, metadata))
    else:
        optimizer = _plain_sgd(optimizer)
        _save_whole(out, dict(state_dict=dict(state_dict), meta=meta) | ({"optimizer": optimizer} if optimizer else {}))
    return f"{what}, {len(state_dict)} tensors, in our layout"


def _prove_same_network(peer_file: Path, network: CMP, source: str | PathLike) -> None:
    """Raise ValueError unless their network with these weights predicts what ours does."""
    image_encoder = network.image_encoder
    stride = image_encoder.strides["top"] if isinstance(image_encoder, AlexNetFCN) else 32
    max_flow_px = getattr(network.quantizer, "max_flow_px", 50.0)
    try:
        theirs = load_peer_model(peer_file, alexnet_stride=stride, max_flow_px=max_flow_px)
    except ValueError as error:
        reason = str(error).partition("\n")[2].strip() or str(error)
        raise ValueError(f"the authors have no network with the layers of {source}: {reason}") from error
    random = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 128, 160, generator=random) * 255  # the fewest cells that every decoder can pool
    mask = (torch.rand(1, 1, 128, 160, generator=random) < 0.01).float()
    guidance = mask * max_flow_px * (2 * torch.rand(1, 2, 128, 160, generator=random) - 1)
    with torch.no_grad():
        ours, same = (model(image, guidance, mask, mode="predict") for model in (network, theirs))
    if not torch.allclose(ours, same, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise ValueError(
            f"the authors' network with the weights of {source} predicts something else (by up to "
            f"{float((ours - same).abs().max()):.3g} px): what no key tells differs (bins, strides, normalisation)"
        )


def _plain_sgd(optimizer) -> dict | None:
    """A torch optimizer's state dict without what a wrapper put beside it; None where there is none."""
    if not isinstance(optimizer, Mapping) or not {"state", "param_groups"} <= optimizer.keys():
        return None
    return {key: optimizer[key] for key in ("state", "param_groups")}


def _save_whole(path: str | PathLike, content: dict) -> None:
    """torch.save under a name that the file gets when it is whole."""
    with _appearing_whole(Path(path)) as file:
        torch.save(content, file)


@contextlib.contextmanager
def _appearing_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when it is whole and leaves nothing behind when it is not."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, a file is to be written")
    partial = path.with_name(f"{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, path)
    except RuntimeError as error:  # what torch makes of a full disk
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
