"""Propagation as a component: an image and some motion in, the motion of every pixel out.

Legend: N images, T guidance sets, S results (S = max(N, T)), H W image pixels.
"""

import threading
import uuid
import warnings
from collections.abc import Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from cmp.engine.peer_checkpoint import load_network
from cmp.inference.inputs import MAX_PIXELS, as_guidance, as_image_batch, points_to_guidance
from cmp.models import CMP, DirectFlow
from cmp.models.backbones import ImageFeatures

NORMALIZATIONS = ("imagenet", "unit")
# Guidance sets are decoded in groups of so many pixels at most, which bounds the memory. A CPU is fastest when one set
# of 384 x 384 stays in its caches.
PIXELS_AT_ONCE = {"cpu": 1 << 17}
PIXELS_AT_ONCE_ELSEWHERE = 1 << 22


class EncodedImage(NamedTuple):
    """What `MotionPropagator.encode` made of images: takes an image's place in any number of its own predictions."""

    features: ImageFeatures  # as the decoder prepared them
    num_images: int
    size_hw: tuple[int, int]
    made_by: str  # the propagator's mark: features of another network mean something else


def load_propagator(
    path: str | PathLike,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    normalize: str = "imagenet",
    max_flow_px: float = 50.0,
    alexnet_stride: int = 32,
) -> "MotionPropagator":
    """Load a checkpoint, ours or the authors', torch file or safetensors, ready to predict.

    Args:
        path: the file; which of them it is shows in its content. Nothing in it is run.
        device: where to compute.
        dtype: float32, bfloat16 or float16 for image encoder and decoder. The small encoder of the guidance stays in
            float32: in bfloat16 40.2 px is 40.25 already before the first layer.
        normalize: see `MotionPropagator`.
        max_flow_px, alexnet_stride: what a file of the authors does not tell (`load_peer_model`); ours does.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken or does not fit a known network, or an argument is none of those offered.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating torch.dtype, got {dtype!r}")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # each backend has its own
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device must be one that torch can use here, got {device!r}: {reason}") from error
    network = load_network(path, max_flow_px=max_flow_px, alexnet_stride=alexnet_stride)
    propagator = MotionPropagator(network, normalize=normalize)
    network.image_encoder.to(dtype)
    network.decoder.to(dtype)
    return propagator.to(device)


class MotionPropagator(nn.Module):
    """A trained network behind two calls, for images of any size; in eval mode, without gradients, from any thread.

    Images are padded at the right and the bottom (by their last pixels) to multiples of the network's stride, results
    are cropped back; an image whose sides are multiples is not padded. One image with T guidance sets, or T identical
    images, is encoded once. Guidance beyond what the bins can express is used as it is, with one warning a propagator.

    Args:
        network: a `CMP`; it is put in eval mode.
        normalize: "imagenet": by the mean and std that the network was trained with; "unit": x * 2 - 1, which is what
            MOFA-Video and DisPose feed, whose own networks were trained on the result.
        max_pixels: larger images are refused.

    Raises:
        ValueError: normalize is unknown or max_pixels is below 1.
    """

    def __init__(self, network: CMP, *, normalize: str = "imagenet", max_pixels: int = MAX_PIXELS) -> None:
        super().__init__()
        if normalize not in NORMALIZATIONS:
            raise ValueError(f"normalize must be one of {NORMALIZATIONS}, got {normalize!r}")
        if max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {max_pixels}")
        self.network = network.eval().requires_grad_(False)
        self.normalize, self.max_pixels = normalize, max_pixels
        # Plain tensors, not buffers: .to(bfloat16) must not round them.
        self._mean, self._std = network.mean.float().cpu().clone(), network.std.float().cpu().clone()
        self._mark = uuid.uuid4().hex  # copies share it
        self._warned, self._warning = False, threading.Lock()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    @property
    def stride_px(self) -> int:
        """Sides that are multiples of this need no padding (very small images apart)."""
        return self.network.motion_encoder.stride

    @property
    def max_flow_px(self) -> float:
        """The largest motion that can come out, px (49.49 for the published bins); infinite for a regression."""
        quantizer = self.network.quantizer
        if isinstance(quantizer, DirectFlow):
            return float("inf")
        centers = quantizer.centers
        return float((centers[1] if isinstance(centers, tuple) else centers).max())

    def train(self, mode: bool = True) -> "MotionPropagator":
        """Stay in eval mode, also as a part of a network that is being trained: batch statistics would change flow."""
        return super().train(False)

    def compile(self, *args, **kwargs) -> None:
        """`torch.compile` the three parts in place; arguments as for it."""
        for part in (self.network.image_encoder, self.network.motion_encoder, self.network.decoder):
            part.compile(*args, **kwargs)

    @torch.no_grad()
    def encode(self, image: torch.Tensor | np.ndarray | Image.Image) -> EncodedImage:
        """Encode images once for many predictions.

        Args:
            image: RGB; a PIL image of any mode; a tensor (3, H, W) or (N, 3, H, W); an array (H, W, 3), (N, H, W, 3) or
                channels first as a tensor. uint8, or floating in 0..1.

        Raises:
            ValueError: another type, shape or dtype, NaN, floats far outside 0..1, an empty or a too large image.
        """
        return self._encode(as_image_batch(image, self.max_pixels))

    def _encode(self, image: torch.Tensor) -> EncodedImage:
        num_images, size_hw = len(image), tuple(image.shape[2:])
        if num_images > 1 and bool((image[1:] == image[:1]).all()):
            image = image[:1]  # callers repeat a frame for each of its guidance sets
        image = self._normalized(image.to(self.device))
        bottom, right = self._padding(size_hw)
        if bottom or right:
            image = F.pad(image, (0, right, 0, bottom), mode="replicate")
        encoder, decoder = self.network.image_encoder, self.network.decoder
        return EncodedImage(decoder.prepare(encoder(image.to(_dtype(encoder)))), num_images, size_hw, self._mark)

    def predict_dense(
        self,
        image: torch.Tensor | np.ndarray | Image.Image | EncodedImage,
        sparse: torch.Tensor | np.ndarray,
        mask: torch.Tensor | np.ndarray,
        *,
        return_confidence: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Flow from motion given on the pixel grid.

        Args:
            image: see `encode`, or what it returned.
            sparse: (2, H, W) or (T, 2, H, W) px, channel 0 to the right, 1 down, 0 where nothing is given. Any real
                dtype.
            mask: (T, 1, H, W), 1 where motion is given, else 0; bool or number, with sparse's other dimensions. Two
                channels are taken where they are equal. An all-zero mask (no guidance) is allowed.
            return_confidence: also return how sure the network is.

        Returns:
            (S, 2, H, W) float32 px on the propagator's device, S = T for one image, else S = N = T. A tensor whatever
            came in. With return_confidence also (S, 1, H, W) float32 in 0..1: 1 - entropy of the bins / log of their
            number, averaged over x and y; 1 is one bin, 0 all bins alike.

        Raises:
            ValueError: as `encode`; an encoding by another propagator; another shape, NaN or infinity in sparse or
                mask; two mask channels that differ; N and T do not fit; confidence of a network without bins.
        """
        return self._predict(image, lambda size_hw: as_guidance(sparse, mask, size_hw), return_confidence)

    forward = predict_dense

    def predict(
        self,
        image: torch.Tensor | np.ndarray | Image.Image | EncodedImage,
        points_xy: np.ndarray | torch.Tensor | Sequence,
        vectors_xy: np.ndarray | torch.Tensor | Sequence,
        *,
        return_confidence: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Flow from arrows.

        Args:
            image: see `encode`, or what it returned.
            points_xy: (P, 2) positions (x, y), px, pixel centres at whole numbers; rounded to the nearest pixel. Of two
                points on one pixel the later counts. For T guidance sets (T, P, 2), or a list of T arrays (P_t, 2).
            vectors_xy: motion of each point (x right, y down), px; shaped as points_xy.
            return_confidence: see `predict_dense`.

        Returns:
            As `predict_dense`: (S, 2, H, W), so (1, 2, H, W) for one image and one set.

        Raises:
            ValueError: as `predict_dense`; points and vectors do not match; a point lies outside the image, or there is
                none: without any motion given there is nothing to propagate (`predict_dense` takes an empty mask).
        """
        return self._predict(
            image, lambda size_hw: points_to_guidance(points_xy, vectors_xy, size_hw), return_confidence
        )

    @torch.no_grad()
    def _predict(self, image, guidance_for, return_confidence: bool):
        if return_confidence and isinstance(self.network.quantizer, DirectFlow):
            raise ValueError("return_confidence needs a network with bins, got one that regresses flow")
        # Guidance is looked at before the image is encoded: a mistake in it should not take a second to come back.
        if isinstance(image, EncodedImage):
            if image.made_by != self._mark:
                raise ValueError("image must be encoded by this propagator, got an encoding by another one")
            num_images, size_hw = image.num_images, image.size_hw
        else:
            image = as_image_batch(image, self.max_pixels)
            num_images, size_hw = len(image), tuple(image.shape[2:])
        sparse, mask = guidance_for(size_hw)
        if num_images not in (1, len(sparse)):
            raise ValueError(f"image and guidance must be as many, or image one: got {num_images} and {len(sparse)}")
        self._warn_beyond_range(sparse)
        encoded = image if isinstance(image, EncodedImage) else self._encode(image)

        bottom, right = self._padding(size_hw)
        height, width = size_hw[0] + bottom, size_hw[1] + right
        pixels_at_once = PIXELS_AT_ONCE.get(self.device.type, PIXELS_AT_ONCE_ELSEWHERE)
        sets_at_once = max(1, pixels_at_once // (height * width))
        flows, confidences = [], []
        for first in range(0, len(sparse), sets_at_once):
            part = slice(first, first + sets_at_once)
            padded = [F.pad(t[part].to(self.device), (0, right, 0, bottom)) for t in (sparse, mask)]
            features = encoded.features
            if len(features.top) > 1:
                features = ImageFeatures(*(None if f is None else f[part] for f in features))
            logits = self._logits(features, *padded)
            flow = self.network.decode(logits, *padded)
            flows.append(flow[:, :, : size_hw[0], : size_hw[1]])
            if return_confidence:
                confidence = _confidence(self.network.quantizer.split_logits(logits))
                confidence = F.interpolate(confidence, size=(height, width), mode="bilinear", align_corners=True)
                confidences.append(confidence[:, :, : size_hw[0], : size_hw[1]])
        flow = torch.cat(flows).contiguous()
        return (flow, torch.cat(confidences).contiguous()) if return_confidence else flow

    def _logits(self, features: ImageFeatures, sparse: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`CMP.propagate` with each part in its own precision."""
        motion_encoder, decoder = self.network.motion_encoder, self.network.decoder
        dtype = _dtype(motion_encoder)
        motion = motion_encoder(sparse.to(dtype), mask.to(dtype), features)
        return decoder(features, motion.to(_dtype(decoder)), prepared=True)

    def _normalized(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) uint8 or floats 0..1 to what the network reads, float32."""
        if self.normalize == "unit":
            image = image.float() / 255 if image.dtype == torch.uint8 else image
            return (image * 2 - 1).float()  # in the caller's precision first: so it is computed where it is expected
        image = image.float() if image.dtype == torch.uint8 else image.float() * 255
        return (image - self._mean.to(image.device)) / self._std.to(image.device)

    def _padding(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Pixels to add at the bottom and at the right."""
        stride = self.stride_px
        propagation = self.network.decoder.propagation
        least = stride * max(propagation.strides)  # the decoder pools that far
        return tuple(max(-(-side // stride) * stride, least) - side for side in size_hw)

    def _warn_beyond_range(self, sparse: torch.Tensor) -> None:
        if self._warned:
            return
        largest, limit = float(sparse.abs().max()), self.max_flow_px
        if largest <= limit:
            return
        with self._warning:
            if self._warned:
                return
            self._warned = True
        warnings.warn(
            f"guidance of up to {largest:.1f} px is beyond the {limit:.2f} px that this network can predict: "
            "predict at a smaller size and scale the flow up (this is said once)",
            stacklevel=5,
        )

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_warning"}  # locks cannot be copied

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._warning = threading.Lock()


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _confidence(groups: Sequence[torch.Tensor]) -> torch.Tensor:
    """(S, 1, h, w) in 0..1 from the logits of each group of bins."""
    values = []
    for logits in groups:
        log_p = logits.float().log_softmax(dim=1)
        entropy = -(log_p.exp() * log_p).sum(dim=1, keepdim=True)
        values.append(1 - entropy / float(np.log(logits.shape[1])))
    return torch.stack(values).mean(dim=0).clamp(0, 1)
