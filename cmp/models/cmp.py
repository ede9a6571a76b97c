"""Conditional Motion Propagation: from one image and a few motion vectors to the motion of every pixel.

Legend: B batch, H W image pixels, h w cells of the logits.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.utils import get_object_from_string
from torch import nn

from cmp.flow import FlowQuantizer, JointFlowQuantizer, PolarFlowQuantizer
from cmp.models.backbones import AlexNetFCN, ImageFeatures, PyramidResNet, ResNet, TimmEncoder
from cmp.models.guide_correction import correct_at_guides
from cmp.models.initialisation import initialise
from cmp.models.losses import DirectFlow, DiscreteLoss, RegressionLoss
from cmp.models.motion_encoder import MotionEncoder
from cmp.models.propagation_decoder import PropagationDecoder, SkipPropagationDecoder

PUBLISHED_MEAN = (123.675, 116.28, 103.53)
PUBLISHED_STD = (58.395, 57.12, 57.375)

# What a description in a checkpoint may name: a file from a stranger builds these and nothing else.
BUILDABLE = {
    "image_encoder": (ResNet, PyramidResNet, AlexNetFCN, TimmEncoder),
    "motion_encoder": (MotionEncoder,),
    "decoder": (PropagationDecoder, SkipPropagationDecoder),
    "quantizer": (FlowQuantizer, JointFlowQuantizer, PolarFlowQuantizer, DirectFlow),
    "loss": (DiscreteLoss, RegressionLoss),
}


class CMP(BaseModel):
    """An image encoder, a motion encoder for the guidance, and a decoder that propagates one over the other.

    A part is a ready module, or a dict with its class under "type" and the class's arguments; what follows from another
    part is filled in here: the motion encoder's stride, the decoder's input and output widths, the loss's quantizer.

    Args:
        image_encoder: what is pretrained (`ResNet`, `AlexNetFCN`, `TimmEncoder`).
        motion_encoder: what reads the guidance (`MotionEncoder`).
        decoder: `PropagationDecoder` or `SkipPropagationDecoder`.
        quantizer: flow to bins and back (`cmp.flow.FlowQuantizer`), or `DirectFlow` for regression.
        loss: `DiscreteLoss` or `RegressionLoss`.
        mean, std: three values each: normalisation of RGB images with values 0..255.
        init: "published" or "default" (see `initialise`); a pretrained image encoder keeps its weights under both.
        guide_reach_px: how far around a guide the prediction is corrected by what it lacks there, px (see
            `correct_at_guides`); no part of training. None, as published: a prediction need not obey its guides.
        data_preprocessor: what a batch passes before training steps (`DeviceGuidance`); None only moves it to the
            device. No part of the network, and not in its description.

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
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        parts = dict(image_encoder=image_encoder, motion_encoder=motion_encoder, decoder=decoder)
        parts |= dict(quantizer=quantizer, loss=loss)
        self._description = {name: _describe(part) for name, part in parts.items()}
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
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean and std must be three values each, std above 0, got {mean} and {std}")
        if guide_reach_px is not None and not 0 < guide_reach_px < math.inf:
            raise ValueError(f"guide_reach_px must be above 0 and finite, or None, got {guide_reach_px}")
        self.guide_reach_px = guide_reach_px
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

        initialise(self, init)
        if init != "default" and getattr(self.image_encoder, "pretrained", None) is not None:
            self.image_encoder.load_pretrained(self.image_encoder.pretrained)  # the redraw went over it

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
            guidance: (B, 2, H, W) motion at the guides and 0 elsewhere, px; channel 0 is x (right), 1 is y (down).
            mask: (B, 1, H, W), 1 where guidance is and 0 elsewhere.
            flow: (B, 2, H, W) target, px; mode "loss" needs it.
            valid: (B, 1, H, W), above 0 where the target is known; for losses that ignore the rest.
            mode: "tensor", "loss" or "predict".
            _: what else a sample carries (names, indices) is not read.

        Returns:
            "tensor": logits (B, num_logits, h, w). "loss": {"loss": scalar}. "predict": flow (B, 2, H, W) float32, px.

        Raises:
            ValueError: shapes do not fit, or mode is unknown.
        """
        features = self.encode_image(image)
        logits = self.propagate(features, guidance, mask)
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
        """Encode (B, 3, H, W) RGB images, 0..255; one encoding serves any number of `propagate`."""
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"image must be (B, 3, H, W), got {tuple(image.shape)}")
        stride = self.motion_encoder.stride
        if image.shape[2] % stride or image.shape[3] % stride:
            raise ValueError(f"image sides must be multiples of {stride} px, got {tuple(image.shape[2:])}: crop or pad")
        return self.image_encoder((image.to(self.mean.dtype) - self.mean) / self.std)

    def propagate(self, features: ImageFeatures, guidance: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_logits, h, w) from image features and guidance; one image's features serve B guidance sets.

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
        return self.decoder(features, motion)

    def decode(self, logits: torch.Tensor, guidance: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Flow (B, 2, H, W) float32, px, from logits (B, num_logits, h, w) and the guidance they were predicted from.

        Expectation first, upsampling after; then, with a `guide_reach_px`, the flow is made to obey the guides.
        """
        flow, size_hw = self.quantizer.expectation(logits).float(), guidance.shape[2:]
        if flow.shape[2:] != size_hw:
            flow = F.interpolate(flow, size=size_hw, mode="bilinear", align_corners=True)
        if self.guide_reach_px is None:
            return flow
        return correct_at_guides(flow, guidance, mask, reach_px=self.guide_reach_px)

    def describe(self) -> dict:
        """The constructor's arguments as plain values, for a checkpoint: `from_description` rebuilds the network.

        A class stands there under its name, a part that was given as a module too, without arguments.
        """
        return {**self._description, "encoder": getattr(self.image_encoder, "name", type(self.image_encoder).__name__)}

    @classmethod
    def from_description(cls, description: Mapping) -> "CMP":
        """Build the network that `describe` described, with fresh weights; only classes of this project are built.

        Raises:
            ValueError: a part is missing, was given as a module, or is of an unknown class or with an unknown argument.
        """
        arguments = {key: value for key, value in description.items() if key != "encoder"}
        for name, classes in BUILDABLE.items():
            part = arguments.get(name)
            known = {kind.__name__: kind for kind in classes}
            if not isinstance(part, Mapping) or part.get("type") not in known or "given_as_module" in part:
                raise ValueError(f"cannot rebuild {name} from its description {part!r}: want one of {sorted(known)}")
            arguments[name] = {**part, "type": known[part["type"]]}
        # The file behind `pretrained` has done its part and may be gone: weights come from the checkpoint.
        arguments["image_encoder"].pop("pretrained", None)
        try:
            return cls(**arguments)
        except TypeError as error:  # an argument that this version does not have
            raise ValueError(f"cannot rebuild the network from its description: {error}") from error


def _build(part: dict | object, **derived):
    """A ready part as it is; a dict with "type" (a class or its dotted name) called with its other entries."""
    if not isinstance(part, Mapping):
        return part
    arguments = dict(part.items())
    kind = arguments.pop("type", None)
    if isinstance(kind, str):
        kind = get_object_from_string(kind)
    if not callable(kind):
        raise ValueError(f"a part's dict needs a class under 'type', got {dict(part)}")
    stated_twice = sorted(derived.keys() & arguments.keys())
    if stated_twice:
        raise ValueError(f"{stated_twice} of {kind.__name__} follow from the other parts: leave them out")
    return kind(**derived, **arguments)


def _describe(part: dict | object) -> dict:
    if not isinstance(part, Mapping):
        return {"type": type(part).__name__, "given_as_module": True}
    kind = part.get("type")
    name = kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    return {"type": name} | {key: _plain(value) for key, value in part.items() if key != "type"}


def _plain(value):
    """Value with every sequence a list and everything but numbers, strings and None a string."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
