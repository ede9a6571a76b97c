"""Checkpoints in: read without running anything they say, load without passing over anything they lack."""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from cmp.models import CMP
from cmp.models.weight_file import read_safetensors_metadata, read_weight_file


class Checkpoint(NamedTuple):
    """What is in a file of weights."""

    state_dict: dict[str, torch.Tensor]  # keys without a wrapper's "module."
    meta: dict  # our runner's: "cmp" (`CMP.describe`), "cfg" (text), "iter", ...; else empty. Of a safetensors file its
    # strings, but for "cmp", which stands there as JSON and is decoded


def read_checkpoint(path: str | PathLike, *, ema: bool = False) -> Checkpoint:
    """Read one of our checkpoints, a plain state dict, or a safetensors file, onto the CPU.

    Args:
        path: a file by our runner ({"state_dict": ..., "meta": ...}), a torch file of tensors alone, or `.safetensors`.
        ema: the moving average of the weights that the run kept beside them (`WeightAverage`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, would run code on loading, or holds no tensors, or no average where one is
            asked for.
    """
    content = read_weight_file(path)
    if ema:
        if "ema_state_dict" not in content:
            raise ValueError(f"{path} holds no moving average of the weights: the run kept none (hook WeightAverage)")
        content = {**content, "state_dict": content["ema_state_dict"]}
    state_dict, meta = content.get("state_dict", content), content.get("meta", {})
    if str(path).endswith(".safetensors"):
        meta = read_safetensors_metadata(path)
        if "cmp" in meta:
            try:
                meta["cmp"] = json.loads(meta["cmp"])
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} describes its network by something that is no JSON: {error}") from error
    if not isinstance(state_dict, Mapping):
        raise ValueError(f"{path} holds no state dict: got {type(state_dict).__name__}")
    not_tensors = [key for key, value in state_dict.items() if not isinstance(value, torch.Tensor)][:3]
    if not state_dict or not_tensors:
        raise ValueError(f"{path} holds no state dict of tensors: {not_tensors or 'it is empty'}")
    unnamed = [key for key in state_dict if not isinstance(key, str)][:3]
    if unnamed:
        raise ValueError(f"{path} holds no state dict: its keys must be names, got {unnamed}")
    if all(key.startswith("module.") for key in state_dict):
        state_dict = {key.removeprefix("module."): value for key, value in state_dict.items()}
    return Checkpoint(dict(state_dict), dict(meta) if isinstance(meta, Mapping) else {})


def newest_checkpoint(work_dir: str | PathLike) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, whatever happened while the last one was being written.

    Args:
        work_dir: folder with `iter_N.pth` files.

    Returns:
        Its path, None if there is none; and for every newer file why it cannot be read.
    """
    numbered = {}
    for path in Path(work_dir).glob("iter_*.pth"):
        number = path.stem.removeprefix("iter_")
        if number.isdecimal():
            numbered[int(number)] = path
    broken = []
    for _, path in sorted(numbered.items(), reverse=True):
        try:
            read_checkpoint(path)
        except ValueError as error:
            broken.append(str(error))
        else:
            return path, broken
    return None, broken


def load_strictly(model: nn.Module, state_dict: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Load weights into a model in place; only batch norms' `num_batches_tracked`, which nothing reads, may be missing.

    Args:
        model: gets the weights.
        state_dict: its keys and shapes; values are copied.
        source: the file's name, for the error.

    Raises:
        ValueError: keys are missing, left over or misshapen: all are listed, and the model is left as it was.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state_dict and not key.endswith(".num_batches_tracked")]
    extra = [key for key in state_dict if key not in own]
    misshapen = [
        f"{key}: {tuple(state_dict[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state_dict and state_dict[key].shape != own[key].shape
    ]
    if missing or extra or misshapen:
        lines = [f"{source} does not fit the network:"]
        for what, keys in (("missing", missing), ("left over", extra), ("misshapen", misshapen)):
            lines += [f"  {what} ({len(keys)}): " + ", ".join(keys)] if keys else []
        raise ValueError("\n".join(lines))
    model.load_state_dict(state_dict, strict=False)


def load_model(path: str | PathLike) -> CMP:
    """Rebuild the network of one of our checkpoints, with its weights, on the CPU and in eval mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, does not say which network it belongs to (meta "cmp"), or does not fit it.
    """
    checkpoint = read_checkpoint(path)
    if not isinstance(checkpoint.meta.get("cmp"), Mapping):
        raise ValueError(f"{path} does not describe its network: no 'cmp' in its meta")
    model = CMP.from_description(checkpoint.meta["cmp"])
    load_strictly(model, checkpoint.state_dict, source=str(path))
    return model.eval()
