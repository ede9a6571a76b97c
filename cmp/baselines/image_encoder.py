"""Builds and describes the image encoder of a baseline, so that it can be exported in the same way as CMP's."""

from collections.abc import Mapping

import torch
from torch import nn

from cmp.models.cmp import PUBLISHED_MEAN, PUBLISHED_STD
from cmp.models.description import PARTS


def build_image_encoder(image_encoder: Mapping) -> nn.Module:
    """Build an image encoder from a dict.

    Args:
        image_encoder: under "type" a class that CMP accepts as image encoder, or its name, with or without the module
            path; the other entries are the class's arguments.

    Raises:
        ValueError: "type" is missing or does not name such a class.
    """
    arguments = dict(image_encoder.items())
    name = _name(arguments.pop("type", None))
    known = {kind.__name__: kind for kind in PARTS["image_encoder"]}
    if name not in known:
        raise ValueError(f"image_encoder needs a 'type' of {sorted(known)}, got {dict(image_encoder)}")
    return known[name](**arguments)


def describe_image_encoder(image_encoder: Mapping) -> dict:
    """Return the part of a baseline's `describe` for its encoder: its arguments, and its input's mean and std."""
    plain = {key: _name(value) if key == "type" else value for key, value in image_encoder.items()}
    return dict(image_encoder=plain, mean=list(PUBLISHED_MEAN), std=list(PUBLISHED_STD))


def normalize_frames(frames: torch.Tensor) -> torch.Tensor:
    """Normalize RGB (B, 3, H, W), uint8 or floats in 0..255, to the float32 input of image encoders."""
    mean, std = (torch.tensor(v, device=frames.device).view(1, 3, 1, 1) for v in (PUBLISHED_MEAN, PUBLISHED_STD))
    return (frames.float() - mean) / std


def _name(kind: type | str | None) -> str | None:
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", None)
