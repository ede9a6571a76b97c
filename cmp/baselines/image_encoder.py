"""The image encoder inside a baseline, so that one can be taken out of its checkpoint as out of CMP's."""

from collections.abc import Mapping

import torch
from torch import nn

from cmp.models.cmp import BUILDABLE, PUBLISHED_MEAN, PUBLISHED_STD


def build_image_encoder(image_encoder: Mapping) -> nn.Module:
    """The encoder that a dict asks for.

    Args:
        image_encoder: "type": a class that CMP takes as image encoder, or its name, dotted or not; the class's
            arguments beside it.

    Raises:
        ValueError: there is no such class.
    """
    arguments = dict(image_encoder.items())
    name = _name(arguments.pop("type", None))
    known = {kind.__name__: kind for kind in BUILDABLE["image_encoder"]}
    if name not in known:
        raise ValueError(f"image_encoder needs a 'type' of {sorted(known)}, got {dict(image_encoder)}")
    return known[name](**arguments)


def describe_image_encoder(image_encoder: Mapping) -> dict:
    """What a baseline's `describe` says of its encoder: its arguments, and what its input is normalised with."""
    plain = {key: _name(value) if key == "type" else value for key, value in image_encoder.items()}
    return dict(image_encoder=plain, mean=list(PUBLISHED_MEAN), std=list(PUBLISHED_STD))


def normalise_frames(frames: torch.Tensor) -> torch.Tensor:
    """RGB (B, 3, H, W), uint8 or floats 0..255, as image encoders take it: float32."""
    mean, std = (torch.tensor(v, device=frames.device).view(1, 3, 1, 1) for v in (PUBLISHED_MEAN, PUBLISHED_STD))
    return (frames.float() - mean) / std


def _name(kind: type | str | None) -> str | None:
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", None)
