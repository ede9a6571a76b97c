"""What is in a checkpoint: ours, one of Zhan et al., an exported backbone, or any other file of weights."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

import torch

from cmp.checkpoints.peer_keys import from_peer_key, is_peer_state_dict
from cmp.checkpoints.peer_network import build_peer_network
from cmp.models import CMP
from cmp.models.backbones import ENCODERS, TIMM, AlexNetFCN, BareEncoder, PyramidResNet, TimmEncoder, recognize_encoder
from cmp.models.cmp import PUBLISHED_MEAN, PUBLISHED_STD
from cmp.models.description import OPTIONS, checked_part, shown
from cmp.starter import STARTER, starter_path
from cmp.weights import (
    MAX_JSON,
    RandomWeightsSkipped,
    WeightFile,
    check_size,
    load_strictly,
    parse_json,
    read_weight_file,
    without_wrapper,
)

PEER_SHORT_SIDE_PX = 416  # what Zhan et al. trained at
MAX_SHORT_SIDE_PX = 4096  # a larger number in a file is not taken for a size
MAX_STEP = 2**53
ENCODER_PREFIXES = ("image_encoder.", "backbone.")  # of checkpoints, ours and Zhan et al.'s; of exports for OpenMMLab


@dataclass(frozen=True)
class Checkpoint:
    """What one file contains. Facts that the file does not state are None.

    Attributes:
        path: the file, for messages.
        kind: "network": a whole network in our layout. "peer": a whole network of Zhan et al. "encoder": an image
            encoder alone, such as an exported backbone. "other": any other weights, such as a segmentation network.
        state_dict: the weights on the CPU. A whole network has our keys, also if it is Zhan et al.'s.
        description: what the file states about its network: the dict of `CMP.describe`, or the metadata of an exported
            backbone; {} where it states nothing. Nothing in it has been checked.
        meta: what else the file states: of our runs the config's text under "cfg", the step under "iter", ...; of a
            file of Zhan et al. only "iter".
        optimizer: the state dict of a torch optimizer, or None.
    """

    path: str
    kind: str
    state_dict: dict[str, torch.Tensor]
    description: Mapping
    meta: Mapping
    optimizer: dict | None = None

    @property
    def step(self) -> int | None:
        """Optimizer updates that the weights have seen; ValueError if the file states anything but a whole number."""
        return _step(self.path, self.meta.get("iter"))

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Images are fed as (RGB 0..255 - mean) / std: three values; ValueError if the file states anything else."""
        return PUBLISHED_MEAN if self.kind == "peer" else self._three_numbers("mean")

    @property
    def std(self) -> tuple[float, ...] | None:
        """As `mean`."""
        return PUBLISHED_STD if self.kind == "peer" else self._three_numbers("std")

    @property
    def short_side_px(self) -> int | None:
        """The short side of the images that the network was trained on, px.

        Files of Zhan et al. do not state it; they trained at 416. In our older files the config's text is searched.
        """
        if self.kind == "peer":
            return PEER_SHORT_SIDE_PX
        found = self.meta.get("short_side_px")
        if found is None and isinstance(self.meta.get("cfg"), str):
            match = re.search(r"train_dataloader\b.*?\bshort_side_px=(\d{1,5})\b", self.meta["cfg"], re.DOTALL)
            found = match and match[1]
        text = str(found)
        valid = text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= MAX_SHORT_SIDE_PX
        return int(text) if valid else None

    @cached_property
    def encoder_name(self) -> str:
        """Name of the image encoder for `build_encoder`: resnet18 ... resnet152, alexnet_fcn, or timm:NAME.

        Raises:
            ValueError: the file contains no image encoder, or one that is not known here, or it names a network of
                timm that its weights do not fit.
        """
        weights = self._encoder_weights()
        described = self._described_encoder()
        if described.get("type") == "TimmEncoder":
            arguments = self._checked(described)
            check_size(lambda: TimmEncoder(**arguments), weights, source=f"{self.path} ({arguments['name']})")
            return TIMM + arguments["name"]
        try:
            return recognize_encoder(weights)
        except ValueError as error:
            # Keys alone do not distinguish the networks of timm: an export of one names it.
            name = self.description.get("encoder")
            if not isinstance(name, str) or name in ENCODERS:
                raise ValueError(f"{self.path}: {error}") from error
            self._check_timm_size(name, weights)
            return TIMM + name

    def network(self, *, alexnet_stride: int = 32, max_flow_px: float = 50.0) -> CMP:
        """Build the whole network with its weights, on the CPU and in eval mode.

        Args:
            alexnet_stride: of an AlexNet of Zhan et al., px: 32 or 8. The two variants have the same weights.
            max_flow_px: range of the bins of a network of Zhan et al., which its weights do not show; 50 in all
                published recipes. Our files state both.

        Raises:
            ValueError: the file does not contain a whole network, does not describe it, or does not fit it: missing
                (but for `num_batches_tracked`), left over and misshapen keys are all listed.
        """
        if self.kind == "peer":
            with RandomWeightsSkipped():
                model = build_peer_network(
                    self.state_dict, source=self.path, alexnet_stride=alexnet_stride, max_flow_px=max_flow_px
                )
        else:
            described = self.meta.get("cmp")
            if not isinstance(described, Mapping):
                raise ValueError(f"{self.path} does not describe its network: there is no 'cmp' in its meta")
            try:
                check_size(lambda: CMP.from_description(described), self.state_dict, source=self.path)
                with RandomWeightsSkipped():
                    model = CMP.from_description(described)
            except ValueError as error:
                if str(error).startswith(self.path):
                    raise
                raise ValueError(
                    f"{self.path} describes a network that cannot be built here ({error}): it is damaged, or another "
                    "version wrote it; take another checkpoint, or that version"
                ) from error
        load_strictly(model, self.state_dict, source=self.path)
        return model.eval()

    def encoder(self, output_stride: int | None = None) -> BareEncoder:
        """Build the image encoder alone, without its projection, with its weights, on the CPU and in eval mode.

        Args:
            output_stride: see `build_encoder`. Dilation leaves no trace in weights.

        Raises:
            ValueError: as `encoder_name`; or the encoder is not offered with this stride, or keys are missing, left
                over or misshapen, or values are not finite.
            ModuleNotFoundError: it is a network of timm, which is not installed.
        """
        name, weights = self.encoder_name, self._encoder_weights()
        # What is above a backbone: the projection of pretraining, or a classifier. Only a file of a backbone alone may
        # have a classifier; conv5 is a projection in a ResNet, but a layer of the AlexNet.
        above = {"alexnet_fcn": AlexNetFCN.ABOVE}.get(name, PyramidResNet.ABOVE)
        above = TimmEncoder.ABOVE if name.startswith(TIMM) else above
        if self.kind == "encoder" and name.startswith("resnet"):
            above = ("fc.", *above)
        weights = {key.removeprefix("net.model."): value for key, value in weights.items() if not key.startswith(above)}
        encoder = BareEncoder(name, output_stride)  # draws weights, so that what is drawn next does not depend on files
        encoder.load_library_weights(weights, source=f"{self.path} ({name.removeprefix(TIMM)})")
        return encoder.eval()

    def _encoder_weights(self) -> dict[str, torch.Tensor]:
        """The weights under the encoder's own keys; all weights where none has a prefix of an encoder."""
        for prefix in ENCODER_PREFIXES:
            found = {k.removeprefix(prefix): v for k, v in self.state_dict.items() if k.startswith(prefix)}
            if found:
                return found
        return self.state_dict

    def _described_encoder(self) -> Mapping:
        encoder = self.description.get("image_encoder")
        return encoder if isinstance(encoder, Mapping) else {}

    def _checked(self, described: Mapping) -> dict:
        """The arguments of an image encoder that a file describes."""
        try:
            arguments = checked_part("image_encoder", described)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
        return {key: value for key, value in arguments.items() if key != "type"}

    def _check_timm_size(self, name: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Raise ValueError if a file names a network of timm that is larger than the weights in it."""
        arguments = self._checked({"type": "TimmEncoder", "name": name, "top_stride": 16, "out_channels": 1})
        try:
            with torch.device("meta"):
                needed = sum(value.numel() for value in TimmEncoder(**arguments).net.state_dict().values())
        except (NotImplementedError, RuntimeError):  # some operations in timm's networks cannot run without memory
            return
        found = sum(value.numel() for value in weights.values())
        if needed > 2 * found:
            raise ValueError(f"{self.path} states that it is timm's {name}, of {needed} weights, but has {found}")

    def _three_numbers(self, key: str) -> tuple[float, ...] | None:
        value = self.description.get(key, "unknown")
        if value == "unknown":
            return None
        try:
            value = parse_json(value, source=f"{self.path}: {key}") if isinstance(value, str) else value
            return tuple(map(float, OPTIONS[key](value)))
        except ValueError as error:
            raise ValueError(f"{self.path} states {key} {shown(value)}: expected three numbers ({error})") from None


def read_checkpoint(path: str | PathLike, *, ema: bool = False) -> Checkpoint:
    """Read a file of weights once, onto the CPU, without running anything in it.

    Args:
        path: a checkpoint of our runs, a file of Zhan et al. (also one of 2019, saved from a GPU), an export, or any
            torch or safetensors file of tensors alone. Of an export as a torch file, PATH.json is read too.
            "starter" is the network that comes with the package; a file of that name is "./starter".
        ema: take the moving average of the weights that a run with `WeightAverage` keeps.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is broken, would run code on loading, contains no tensors, or no moving average where one
            is asked for; or it is a network of Zhan et al. with keys that their network does not have.
    """
    file = read_weight_file(starter_path() if path == STARTER else path)
    state_dict, optimizer = file.state_dict(ema=ema), _plain_optimizer(file.content.get("optimizer"))
    if is_peer_state_dict(state_dict):
        meta = {"iter": _step(file.path, file.content.get("step"))}
        return Checkpoint(file.path, "peer", _from_peer_keys(file.path, state_dict), {}, meta, optimizer)
    stated = file.meta
    if file.metadata and "cmp" in stated:  # a safetensors file has it as text
        stated["cmp"] = parse_json(stated["cmp"], source=f"{path}: the description of its network")
    description = _description(file, stated)
    return Checkpoint(file.path, _kind(state_dict, description), state_dict, description, stated, optimizer)


def read_network_checkpoint(path: str | PathLike) -> Checkpoint:
    """As `read_checkpoint`, for a file that must contain a whole network, ours or Zhan et al.'s.

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint`; or the file contains something else.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.kind not in ("network", "peer"):
        raise ValueError(f"{path} does not contain a whole network, got {sorted(checkpoint.state_dict)[:3]}")
    return checkpoint


def read_peer_checkpoint(path: str | PathLike) -> Checkpoint:
    """As `read_checkpoint`, for a file that must be a whole network of Zhan et al.

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint`; or the file is something else.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.kind != "peer":
        raise ValueError(
            f"{path} is not a network of Zhan et al.: expected keys under image_encoder, flow_encoder and "
            f"flow_decoder, got {sorted(checkpoint.state_dict)[:3]}"
        )
    return checkpoint


def _kind(keys: Iterable[str], description: Mapping) -> str:
    """The kind of weights that are not a network of Zhan et al."""
    # In our layout an encoder alone has the prefix at every key, in theirs at none.
    if len({key.startswith("image_encoder.") for key in keys}) == 2:
        return "network"
    prefix = next((p for p in ENCODER_PREFIXES if all(key.startswith(p) for key in keys)), "")
    try:
        recognize_encoder(key.removeprefix(prefix) for key in keys)
    except ValueError:
        return "encoder" if isinstance(description.get("encoder"), str) else "other"
    return "encoder"


def _description(file: WeightFile, meta: Mapping) -> Mapping:
    """What a file, or the JSON file that an export wrote next to it, states about its network."""
    about = meta.get("cmp", meta)
    about = about if isinstance(about, Mapping) else {}
    beside = Path(f"{file.path}.json")
    if "cmp" in meta or "mean" in about or not beside.is_file():
        return about
    if beside.stat().st_size > MAX_JSON:
        raise ValueError(f"{beside} has {beside.stat().st_size} bytes: at most {MAX_JSON} of JSON are read")
    try:
        about = parse_json(beside.read_text("utf-8"), source=str(beside))
    except UnicodeDecodeError as error:
        raise ValueError(f"{beside} is not valid JSON: {error}") from error
    return about if isinstance(about, Mapping) else {}


def _from_peer_keys(path: str, theirs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    own = {key: from_peer_key(key) for key in theirs}
    unknown = [key for key, name in own.items() if name is None]
    if unknown:
        raise ValueError(f"{path} has {len(unknown)} entries that the network of Zhan et al. does not have: {unknown}")
    state_dict = {name: theirs[key] for key, name in own.items() if name is not None}
    if len(state_dict) < len(theirs):
        twice = [key for key in theirs if (plain := without_wrapper(key)) != key and plain in theirs]
        prefix = twice[0].removesuffix(without_wrapper(twice[0])) if twice else "a prefix"
        number = len(theirs) - len(state_dict)
        raise ValueError(f"{path} has {number} weights twice, with and without {prefix!r}: {twice}")
    return state_dict


def _step(path: str, value: object) -> int | None:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    # safetensors has only text
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 17:
        value = int(value)
    if value is not None and (not isinstance(value, (int, float)) or not 0 <= value <= MAX_STEP or value % 1):
        raise ValueError(f"{path} must have a whole number as its step, got {shown(value)}")
    return None if value is None else int(value)


def _plain_optimizer(optimizer: object) -> dict | None:
    """A torch optimizer's state dict without what a wrapper added to it; None where there is none."""
    if not isinstance(optimizer, Mapping) or not {"state", "param_groups"} <= optimizer.keys():
        return None
    return {key: optimizer[key] for key in ("state", "param_groups")}
