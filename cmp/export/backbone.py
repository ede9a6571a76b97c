"""The image encoder of a checkpoint, and what its user must know.

Its weights have torchvision's own keys, without prefix, projection (`conv5`), decoder or optimizer; timm's ResNets have
the same keys, and a `TimmEncoder` has timm's. Dilation leaves no trace in weights: they are the ordinary network's, and
features are compared with it at stride 32.
"""

import hashlib
import json
from os import PathLike
from typing import NamedTuple

import torch

from cmp.checkpoints import Checkpoint, read_checkpoint
from cmp.models import BareEncoder, TimmEncoder
from cmp.models.backbones import TIMM
from cmp.version import __version__

PREFIX = "image_encoder."
UNKNOWN = "unknown"


class Backbone(NamedTuple):
    """An image encoder with weights, and what its user must know."""

    name: str  # resnet18 ... resnet152, alexnet_fcn, or a model of timm
    encoder: BareEncoder  # eval mode; a ResNet has output stride 32, as other libraries build it
    metadata: dict[str, str]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """State dict without the projection, float32."""
        return self.encoder.library_weights()


def read_backbone(path: str | PathLike, *, ema: bool = False) -> Backbone:
    """Take the image encoder out of a checkpoint, ours or Zhan et al.'s.

    Args:
        path: any file that `read_checkpoint` reads, with keys under `image_encoder.`.
        ema: take the moving average of the weights.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is broken, contains no image encoder or an unknown or incomplete one, or weights that are
            not finite.
    """
    checkpoint = read_checkpoint(path, ema=ema)
    if not any(key.startswith(PREFIX) for key in checkpoint.state_dict):
        raise ValueError(f"{path} does not contain an image encoder: no key starts with {PREFIX!r}")
    encoder = checkpoint.encoder()
    metadata = _metadata(checkpoint)
    if isinstance(encoder.net, TimmEncoder):
        metadata["pretraining_stride"] = str(encoder.feature_info.reduction()[-1])
        metadata["not_pretrained"] = json.dumps(encoder.net.timm_state_dict()[1])
    if ema:
        metadata["weights"] = "exponential moving average"
    return Backbone(encoder.name.removeprefix(TIMM), encoder, metadata)


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """What the user of the weights must know, as strings; "unknown" where the checkpoint does not state it."""
    about, meta = checkpoint.description, checkpoint.meta
    config = meta.get("cfg") or (json.dumps(about, sort_keys=True) if "image_encoder" in about else None)
    try:
        mean, std = checkpoint.mean, checkpoint.std
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: its mean or std cannot be used: {error}") from None
    encoder = about.get("image_encoder")
    encoder = encoder if isinstance(encoder, dict) else {}
    # Of the exported layers, not of the pyramid above them.
    stride = 32 if encoder.get("type") == "PyramidResNet" else encoder.get("output_stride")
    metadata = {
        "format": "pt",
        "encoder": checkpoint.encoder_name.removeprefix(TIMM),
        "input": UNKNOWN if mean is None or std is None else "RGB, values 0..255, normalized as (x - mean) / std",
        "mean": UNKNOWN if mean is None or std is None else json.dumps(list(mean)),
        "std": UNKNOWN if mean is None or std is None else json.dumps(list(std)),
        "pretrained_with": about.get("system", "conditional motion propagation"),
        "pretraining_stride": stride,
        "steps": meta.get("iter"),
        "config": meta.get("experiment_name"),
        "config_sha256": hashlib.sha256(config.encode()).hexdigest() if isinstance(config, str) else None,
        "written_by": f"cmp-motion {__version__}",
    }
    return {key: _one_line(value) for key, value in metadata.items()}


def _one_line(value: object) -> str:
    """What a checkpoint states, as it may be written into a model card: short text or a number, else "unknown"."""
    text = str(value) if isinstance(value, (str, int, float)) else ""
    return text if 0 < len(text) <= 1000 and text.isprintable() else UNKNOWN
