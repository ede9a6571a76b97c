"""Conditional Motion Propagation: from one image and a few motion vectors to the motion of every pixel.

Legend: B batch, H W image pixels, h w cells of the logits.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cmp.models.backbones import ImageFeatures
from cmp.models.description import checked_arguments, shown
from cmp.models.guidance_correction import correct_at_points
from cmp.models.initialization import initialize

PUBLISHED_MEAN = (123.675, 116.28, 103.53)
PUBLISHED_STD = (58.395, 57.12, 57.375)


class CMP(nn.Module):
    """An image encoder, a motion encoder for the guidance, and a decoder that propagates one over the other.

    A part is a module, or a dict with its class under "type" and the class's arguments. What follows from other parts
    is filled in here: the motion encoder's stride, the decoder's input and output widths, the loss's quantizer.

    Args:
        image_encoder: what is pretrained (`ResNet`, `AlexNetFCN`, `TimmEncoder`).
        motion_encoder: what reads the guidance (`MotionEncoder`).
        decoder: `PropagationDecoder` or `SkipPropagationDecoder`.
        quantizer: flow to bins and back (`cmp.flow.FlowQuantizer`), or `DirectFlow` for regression.
        loss: `DiscreteLoss` or `RegressionLoss`.
        mean, std: three values each, to normalize RGB images with values 0..255.
        init: "published" or "default" (see `initialize`); a pretrained image encoder keeps its weights under both.
        guide_reach_px: how far around a guidance point the prediction is corrected by its error at the point, px (see
            `correct_at_points`); not used in training. None, as published: the prediction may differ from its points.

    Raises:
        ValueError: parts do not fit each other, a dict lacks "type", or a value is out of range.

    Source: Zhan et al., "Self-Supervised Learning via Conditional Motion Propagation", CVPR 2019.
    """

    def __init__(
        self,
        image_encoder: dict | nn.Module,
        motion_encoder: dict | nn.Module,
        decoder: dict | nn.Module,
        quantizer: dict | object,
        loss: dict | nn.Module,
        *,
        mean: Sequence[float] = PUBLISHED_MEAN,
        std: Sequence[float] = PUBLISHED_STD,
        init: str = "published",
        guide_reach_px: float | None = None,
    ) -> None:
        super().__init__()
        parts = dict(image_encoder=image_encoder, motion_encoder=motion_encoder, decoder=decoder)
        parts |= dict(quantizer=quantizer, loss=loss)
        self._description: dict[str, Any] = {name: _describe(part) for name, part in parts.items()}
        self._description |= dict(mean=[float(v) for v in mean], std=[float(v) for v in std], init=init)
        self._description |= dict(guide_reach_px=guide_reach_px)

        self.image_encoder = _build(image_encoder)
        self.motion_encoder = _build(
            motion_encoder, stride=self.image_encoder.strides["top"], image_channels=self.image_encoder.channels
        )
        self.quantizer = _build(quantizer)
        self.decoder = _build(
            decoder,
            image_channels=self.image_encoder.channels,
            motion_channels=self.motion_encoder.out_channels,
            num_logits=self.quantizer.num_logits,
        )
        self.loss = _build(loss, quantizer=self.quantizer)

        image_stride, motion_stride = self.image_encoder.strides["top"], self.motion_encoder.stride
        if motion_stride != image_stride:
            raise ValueError(f"motion_encoder has stride {motion_stride}, image_encoder {image_stride}")
        logits, needed = self.decoder.head.out_channels, self.quantizer.num_logits
        if logits != needed:
            raise ValueError(f"decoder puts out {logits} channels, quantizer needs {needed}")
        if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ValueError(f"mean and std must be three finite values each, std above 0, got {mean} and {std}")
        if guide_reach_px is not None and not 0 < guide_reach_px < math.inf:
            raise ValueError(f"guide_reach_px must be above 0 and finite, or None, got {guide_reach_px}")
        self.guide_reach_px = guide_reach_px
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

        initialize(self, init)
        if init != "default" and getattr(self.image_encoder, "pretrained", None) is not None:
            self.image_encoder.load_pretrained(self.image_encoder.pretrained)  # the new weights replaced it

    def forward(
        self,
        image: torch.Tensor,
        guidance: torch.Tensor,
        mask: torch.Tensor,
        flow: torch.Tensor | None = None,
        valid: torch.Tensor | None = None,
        mode: str = "tensor",
        **_,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Predict the dense flow of a batch, or its loss.

        Args:
            image: (B, 3, H, W) RGB, 0..255, uint8 or float; H and W multiples of the image encoder's stride.
            guidance: (B, 2, H, W) motion at the guidance points and 0 elsewhere, px; channel 0 is x (right), 1 is y
                (down). Or (B, S, 2, H, W): S sets of points per image, which is then encoded once for all of them.
            mask: (B, 1, H, W) or (B, S, 1, H, W), 1 where guidance is and 0 elsewhere.
            flow: (B, 2, H, W) target, px; mode "loss" needs it.
            valid: (B, 1, H, W), above 0 where the target is known; for losses that ignore the rest.
            mode: "tensor", "loss" or "predict".
            _: other entries of a sample (names, indices) are not read.

        Returns:
            "tensor": logits (B, num_logits, h, w). "loss": {"loss": scalar}. "predict": flow (B, 2, H, W) float32, px.
            With S sets per image there are B * S items instead of B, the sets of an image one after another.

        Raises:
            ValueError: shapes do not fit, or mode is unknown.
        """
        features = self.encode_image(image)
        features, guidance, mask, flow, valid = _one_set_per_item(features, guidance, mask, flow, valid)
        motion = self.encode_guidance(features, guidance, mask)
        propagated = self.decoder.propagate(features, motion)
        logits = self.decoder.classify(propagated)
        if mode == "tensor":
            return logits
        if mode == "predict":
            return self.decode(logits, guidance, mask)
        if mode == "loss":
            if flow is None:
                raise ValueError("mode 'loss' needs the target flow")
            return {"loss": self.loss(logits, flow, valid)}
        raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', got {mode!r}")

    def encode_image(self, image: torch.Tensor) -> ImageFeatures:
        """Encode (B, 3, H, W) RGB images, 0..255; the features serve any number of calls of `propagate`."""
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"image must be (B, 3, H, W), got {tuple(image.shape)}")
        stride = self.motion_encoder.stride
        if image.shape[2] % stride or image.shape[3] % stride:
            raise ValueError(f"image sides must be multiples of {stride} px, got {tuple(image.shape[2:])}: crop or pad")
        return self.image_encoder((image.to(self.mean.dtype) - self.mean) / self.std)

    def encode_guidance(self, features: ImageFeatures, guidance: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Encode (B, 2, H, W) guidance and its (B, 1, H, W) mask to (B, C, h, w), the size of the features' top.

        Args:
            features: of the B images, or of one image for B sets of guidance; attention reads them.
            guidance: px, 0 where the mask is 0.
            mask: 1 at the guidance points.

        Raises:
            ValueError: guidance is not (B, 2, H, W), mask not (B, 1, H, W), or they do not fit the features.
        """
        if guidance.ndim != 4 or guidance.shape[1] != 2 or mask.shape != (len(guidance), 1, *guidance.shape[2:]):
            raise ValueError(
                f"guidance must be (B, 2, H, W) and mask (B, 1, H, W), got {tuple(guidance.shape)}, {tuple(mask.shape)}"
            )
        motion = self.motion_encoder(guidance.to(self.mean.dtype), mask.to(self.mean.dtype), features)
        if motion.shape[2:] != features.top.shape[2:]:
            raise ValueError(f"guidance of {tuple(guidance.shape[2:])} px does not have the image's size")
        if features.top.shape[0] not in (1, len(guidance)):
            raise ValueError(f"features of {features.top.shape[0]} images do not fit {len(guidance)} guidance sets")
        return motion

    def propagate(self, features: ImageFeatures, guidance: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_logits, h, w) from the features of B images, or of one image, and B sets of guidance.

        Raises:
            ValueError: as `encode_guidance`.
        """
        return self.decoder(features, self.encode_guidance(features, guidance, mask))

    def decode(self, logits: torch.Tensor, guidance: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Flow (B, 2, H, W) float32, px, from logits (B, num_logits, h, w) and the guidance they were predicted from.

        The expectation is taken first and upsampled; with `guide_reach_px` the flow is then corrected at the points.
        """
        flow, size_hw = self.quantizer.expectation(logits).float(), guidance.shape[2:]
        if flow.shape[2:] != size_hw:
            flow = F.interpolate(flow, size=size_hw, mode="bilinear", align_corners=True)
        if self.guide_reach_px is None:
            return flow
        return correct_at_points(flow, guidance, mask, reach_px=self.guide_reach_px)

    @property
    def loss_unit(self) -> str:
        """The name of the loss, with its unit."""
        return self.loss.unit

    def describe(self) -> dict:
        """The constructor's arguments as plain values, for a checkpoint: `from_description` rebuilds the network.

        A class is given by its name. A part that was passed as a module is given by the name of its class alone.
        """
        return {**self._description, "encoder": getattr(self.image_encoder, "name", type(self.image_encoder).__name__)}

    @classmethod
    def from_description(cls, description: Mapping) -> "CMP":
        """Build the network that `describe` described, with fresh weights.

        Nothing but the classes, keys and values listed in `cmp.models.description` is accepted, so that a description
        from a stranger's file runs nothing and opens nothing. A `pretrained` in it is ignored.

        Raises:
            ValueError: a part is missing or was given as a module, a class or key is unknown, a value is of another
                type or out of range, or the parts do not fit each other.
        """
        return cls(**checked_arguments(description))


def _one_set_per_item(
    features: ImageFeatures,
    guidance: torch.Tensor,
    mask: torch.Tensor,
    flow: torch.Tensor | None,
    valid: torch.Tensor | None,
) -> tuple[ImageFeatures, torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """A batch with one set of guidance points per item: S sets per image become S items in a row, with repeated images.

    Guidance (B, S, 2, H, W) and mask (B, S, 1, H, W) get the first axis B * S, and features, flow and valid of each
    image are repeated S times. Guidance of four axes is one set per image: nothing changes.
    """
    if guidance.ndim != 5:
        return features, guidance, mask, flow, valid
    features, flow, valid = _repeat((features, flow, valid), guidance.shape[1])
    return features, guidance.flatten(0, 1), mask.flatten(0, 1), flow, valid


def _repeat(parts: tuple, times: int) -> tuple:
    """Tensors, or image features, with every item of the batch `times` times in a row; None stays."""
    repeated = []
    for part in parts:
        if isinstance(part, ImageFeatures):
            part = part.each(lambda maps: maps.repeat_interleave(times, dim=0))
        elif part is not None:
            part = part.repeat_interleave(times, dim=0)
        repeated.append(part)
    return tuple(repeated)


def _build(part: dict | object, **derived):
    """A module as it is; of a dict the class under "type", called with the other entries."""
    if not isinstance(part, Mapping):
        return part
    arguments = dict(part.items())
    kind = arguments.pop("type", None)
    if not callable(kind):
        raise ValueError(f"a part's dict needs a class under 'type', got {shown(dict(part))}")
    stated_twice = sorted(derived.keys() & arguments.keys())
    if stated_twice:
        raise ValueError(f"{stated_twice} of {kind.__name__} follow from the other parts: leave them out")
    return kind(**derived, **arguments)


def _describe(part: dict | object) -> dict:
    if not isinstance(part, Mapping):
        return {"type": type(part).__name__, "given_as_module": True}
    kind = part.get("type")
    arguments = {key: _plain(value) for key, value in part.items() if key != "type"}
    return {"type": getattr(kind, "__name__", str(kind)), **arguments}


def _plain(value):
    """Value with every sequence a list and everything but numbers, strings and None a string."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
