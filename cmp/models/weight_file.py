"""Reading a file of weights without running anything that it says."""

import re
from os import PathLike
from pathlib import Path

import torch
from safetensors import safe_open


def read_weight_file(path: str | PathLike) -> dict:
    """Read a file by torch.save (today's zip format or that of 2019) or by safetensors, onto the CPU.

    Only tensors and plain Python values are accepted, so a file from a stranger cannot run code.

    Args:
        path: `.safetensors` by its name, anything else is taken for a torch file.

    Returns:
        The dict in the file: a state dict {key: tensor}, or a checkpoint around one. The metadata of a safetensors
        file is not part of it (`read_safetensors_metadata`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or malformed, holds other objects, or is not a dict.
    """
    path = _existing(path)
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}
        except Exception as error:
            raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes surface as almost any exception in torch's readers
        # Not torch's own words where it sees other objects: they advise to run the file.
        said = re.search(r"Unsupported \w+ \d+|unsupported GLOBAL [\w.]+", str(error))
        reason = said[0] if said else str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"{path} cannot be read as a torch file of tensors and plain values: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a dict, got {type(content).__name__}")
    return content


def read_safetensors_metadata(path: str | PathLike) -> dict[str, str]:
    """The metadata of a safetensors file; {} where it has none.

    Raises:
        FileNotFoundError, ValueError: as `read_weight_file`.
    """
    path = _existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error


def _existing(path: str | PathLike) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    return path
