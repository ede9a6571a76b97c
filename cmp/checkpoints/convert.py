"""Turn checkpoints of Zhan et al. into ours, and ours into theirs.

Their file is a dict of `step`, `state_dict` and `optimizer`. Their tool for extracting weights writes the image encoder
alone, as a plain state dict without any prefix.
"""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from cmp.checkpoints.checkpoint import Checkpoint, read_checkpoint, read_peer_checkpoint
from cmp.checkpoints.peer_keys import to_peer_key
from cmp.files import NewFile, check_paths, move_into_place, staging_folder, write_file
from cmp.models import CMP, AlexNetFCN
from cmp.models.backbones import build_encoder
from cmp.weights import load_strictly

TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".bin")
LAYOUTS = ("cmp", "peer", "peer-backbone")
PREFIX = "image_encoder."


def convert_checkpoint(
    source: str | PathLike,
    out: str | PathLike,
    *,
    to: str = "cmp",
    alexnet_stride: int = 32,
    max_flow_px: float = 50.0,
    ema: bool = False,
    half: bool = False,
) -> str:
    """Write a checkpoint in our layout or in Zhan et al.'s; out gets its name when it is whole, replacing another file.

    The source is read once. Its step and the state of an SGD are kept; a safetensors file has no place for the latter.

    Args:
        source: a whole network, or an image encoder alone, in either layout.
        out: file to write. With to="cmp" a name ending in .safetensors gives that format, else a torch file.
        to: "cmp": our layout. "peer": Zhan et al.'s. "peer-backbone": the image encoder alone, as their tool writes it.
        alexnet_stride, max_flow_px: see `Checkpoint.network`.
        ema: take the moving average of the weights that a run with `WeightAverage` keeps; the optimizer's state, which
            does not belong to it, is left out.
        half: write the weights of convolutions as float16, half the size; biases and batch norms stay float32. Only
            with to="cmp". The optimizer's state is left out.

    Returns:
        What was written, in a few words.

    Raises:
        FileNotFoundError: there is no source.
        ValueError: it is broken or of neither layout, its network has layers or bins that Zhan et al.'s does not have,
            `to` is unknown, half is asked for a layout other than ours or a weight is too large for float16, or a torch
            layout is to be written under a safetensors name.
    """
    if to not in LAYOUTS:
        raise ValueError(f"to must be 'cmp', 'peer' or 'peer-backbone', got {to!r}")
    out = Path(out)
    check_paths(reads={"IN": source}, writes={"OUT": out})
    as_safetensors = out.suffix == ".safetensors"
    if not as_safetensors and out.suffix not in TORCH_SUFFIXES:
        raise ValueError(f"{out}: OUT must end in .safetensors or, for a torch file, {', '.join(TORCH_SUFFIXES)}")
    if as_safetensors and to != "cmp":
        raise ValueError(f"{out}: the layout of Zhan et al. is a torch file, not safetensors; name it .pth.tar")

    if half and to != "cmp":
        raise ValueError(f"half is for to='cmp' only: Zhan et al.'s code expects float32, got to={to!r}")

    checkpoint = read_checkpoint(source, ema=ema)
    step = checkpoint.step
    if checkpoint.kind in ("network", "peer"):
        network = checkpoint.network(alexnet_stride=alexnet_stride, max_flow_px=max_flow_px)
        state_dict = network.state_dict()
        what = f"whole network, {network.describe()['encoder']}, {type(network.decoder).__name__}"
    else:
        if to == "peer":
            raise ValueError(f"{source} contains an image encoder alone: a whole network is needed for to='peer'")
        state_dict, network, what = _encoder_state_dict(checkpoint), None, "image encoder alone"

    if to == "peer-backbone":
        inner = {key.removeprefix(PREFIX): value for key, value in state_dict.items() if key.startswith(PREFIX)}
        _save_whole(out, inner)
        return f"image encoder alone, {len(inner)} tensors, as Zhan et al.'s tool extracts it"
    if to == "peer":
        with staging_folder(out) as folder:
            unproven = folder / out.name
            write_peer_checkpoint(unproven, state_dict, step=step or 0, optimizer=checkpoint.optimizer)
            assert network is not None  # an image encoder alone was refused above
            _prove_same_network(unproven, network, source)
            move_into_place(unproven, out)
        return f"{what}, {len(state_dict)} tensors, in the layout of Zhan et al."
    optimizer = None if ema or half else checkpoint.optimizer
    _write_ours(out, _halved(state_dict, source) if half else state_dict, _meta(checkpoint, network, step), optimizer)
    return f"{what}, {len(state_dict)} tensors, in our layout{', float16' if half else ''}"


def write_peer_checkpoint(
    path: str | PathLike,
    state_dict: Mapping[str, torch.Tensor],
    *,
    step: int,
    optimizer: dict | None = None,
) -> None:
    """Write weights under our keys as a file that Zhan et al.'s code loads.

    The file gets its name when it is whole, replacing another.

    Args:
        path: where; they name theirs ckpt_iter_{step}.pth.tar.
        state_dict: of a `CMP` whose layers their network has too.
        step: optimizer updates done.
        optimizer: state dict of a torch SGD over the whole network's `parameters()`. Without one, their code can load
            the file but cannot resume from it.

    Raises:
        ValueError: a layer does not exist in their network.
    """
    content = {"step": step, "state_dict": {to_peer_key(key): value for key, value in state_dict.items()}}
    if optimizer is not None:
        content["optimizer"] = optimizer
    _save_whole(path, content)


def _encoder_state_dict(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """An image encoder alone, under our keys `image_encoder.*`, with the projection (`conv5`, `conv8`).

    Raises:
        ValueError: it is not a known encoder, or keys are missing (but for `num_batches_tracked`), left over or
            misshapen: all are listed.
    """
    if checkpoint.kind != "encoder":
        raise ValueError(
            f"{checkpoint.path} contains neither a network nor an image encoder in our layout or Zhan et al.'s, got "
            f"{sorted(checkpoint.state_dict)[:4]}"
        )
    weights = {key.removeprefix(PREFIX): value for key, value in checkpoint.state_dict.items()}
    name = checkpoint.encoder_name
    encoder = build_encoder(name)
    load_strictly(encoder, weights, source=f"{checkpoint.path} ({name})")
    # In the encoder's order, which safetensors files do not keep.
    return {f"{PREFIX}{key}": weights[key] for key in encoder.state_dict() if key in weights}


def _meta(checkpoint: Checkpoint, network: CMP | None, step: int | None) -> dict:
    """What our layout states about the weights."""
    meta: dict[str, Any] = {}
    if network is not None:
        meta["cmp"] = network.describe()
        if checkpoint.short_side_px:
            meta["short_side_px"] = checkpoint.short_side_px
    if step is not None:
        meta["iter"] = step
    return meta


def _halved(state_dict: Mapping[str, torch.Tensor], source: str | PathLike) -> dict[str, torch.Tensor]:
    """The weights with all tensors of two or more axes as float16.

    Raises:
        ValueError: a value is beyond the range of float16.
    """
    halved = {key: value.half() if value.ndim > 1 else value for key, value in state_dict.items()}
    beyond = [key for key, value in halved.items() if value.dtype == torch.float16 and not value.isfinite().all()]
    if beyond:
        raise ValueError(f"{source} has weights beyond the range of float16: {beyond}")
    return halved


def _write_ours(out: Path, state_dict: Mapping[str, torch.Tensor], meta: dict, optimizer: dict | None) -> None:
    if out.suffix == ".safetensors":
        metadata = {"format": "pt"} | {k: v if isinstance(v, str) else json.dumps(v) for k, v in meta.items()}
        weights = {key: value.contiguous() for key, value in state_dict.items()}
        write_file(out, safetensors.torch.save(weights, metadata))
    else:
        content = dict(state_dict=dict(state_dict), meta=meta)
        _save_whole(out, content | ({"optimizer": optimizer} if optimizer else {}))


def _prove_same_network(peer_file: Path, network: CMP, source: str | PathLike) -> None:
    """Raise ValueError unless their network with these weights predicts what ours does."""
    image_encoder = network.image_encoder
    stride = image_encoder.strides["top"] if isinstance(image_encoder, AlexNetFCN) else 32
    max_flow_px = getattr(network.quantizer, "max_flow_px", 50.0)
    try:
        theirs = read_peer_checkpoint(peer_file).network(alexnet_stride=stride, max_flow_px=max_flow_px)
    except ValueError as error:
        reason = str(error).partition("\n")[2].strip() or str(error)
        raise ValueError(f"Zhan et al. do not have a network with the layers of {source}: {reason}") from error
    random = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 128, 160, generator=random) * 255  # the fewest cells that every decoder can pool
    mask = (torch.rand(1, 1, 128, 160, generator=random) < 0.01).float()
    guidance = mask * max_flow_px * (2 * torch.rand(1, 2, 128, 160, generator=random) - 1)
    with torch.no_grad():
        ours, same = (model(image, guidance, mask, mode="predict") for model in (network, theirs))
    if not torch.allclose(ours, same, rtol=1e-4, atol=1e-4, equal_nan=True):
        raise ValueError(
            f"the network of Zhan et al. with the weights of {source} predicts something else (by up to "
            f"{float((ours - same).abs().max()):.3g} px): something that keys do not show differs (bins, strides, "
            "normalization)"
        )


def _save_whole(path: str | PathLike, content: dict) -> None:
    """torch.save into a file that gets its name when it is whole."""
    try:
        with NewFile(path) as file:
            torch.save(content, file)
    except RuntimeError as error:  # torch's own, of a zip that does not come out right
        raise OSError(f"{path} cannot be written: {error}") from error
