"""Propagation as a component: an image and some motion in, the motion of every pixel out.

Legend: N images, T guidance sets, S results (S = max(N, T)), H W image pixels.
"""

import threading
import uuid
import warnings
from collections.abc import Iterator, Sequence
from operator import itemgetter
from os import PathLike
from typing import Literal, NamedTuple, TypeAlias, overload

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from cmp.checkpoints import Checkpoint, read_checkpoint
from cmp.inference.inputs import MAX_PIXELS, as_guidance, as_image_batch, points_to_guidance
from cmp.models import CMP, DirectFlow
from cmp.models.backbones import ImageFeatures
from cmp.starter import STARTER
from cmp.weights import can_be_downloaded, download_weights

NORMALIZATIONS = ("imagenet", "unit")
# Guidance sets are decoded in groups of at most this many pixels, which bounds the memory. A CPU is fastest when the
# maps of one set of 384 x 384 px stay in its caches.
PIXELS_AT_ONCE = {"cpu": 1 << 17}
PIXELS_AT_ONCE_ELSEWHERE = 1 << 22


class EncodedImage(NamedTuple):
    """Encoded images, which `MotionPropagator` accepts in place of images in any number of predictions."""

    features: ImageFeatures  # as the decoder prepared them
    num_images: int
    size_hw: tuple[int, int]
    made_by: str  # the propagator's mark: features of another network mean something else


ArrayLike: TypeAlias = np.ndarray | torch.Tensor
ImageLike: TypeAlias = np.ndarray | torch.Tensor | Image.Image | EncodedImage  # see `MotionPropagator.encode`


def load_propagator(
    path: str | PathLike | Checkpoint = STARTER,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    normalize: str = "imagenet",
    max_flow_px: float = 50.0,
    alexnet_stride: int = 32,
    sha256: str | None = None,
) -> "MotionPropagator":
    """Load a checkpoint, ours or Zhan et al.'s, torch file or safetensors, ready to predict.

    Args:
        path: the file, or what `read_checkpoint` read from it. Its content shows what it is. Nothing in it is run. Or
            an address, as text: hf://OWNER/REPO/FILE, or a URL with its hash (`cmp.weights.download_weights`). It is
            downloaded once, with a line on stderr. Default: "starter", the network that comes with the package
            (`cmp.starter`).
        device: where to compute.
        dtype: float32, float64, bfloat16 or float16 for image encoder and decoder. The small encoder of the guidance
            stays in float32: in bfloat16 40.2 px is 40.25 already before the first layer.
        normalize: see `MotionPropagator`.
        max_flow_px, alexnet_stride: what a file of Zhan et al. does not state (`Checkpoint.network`); ours does.
        sha256: of the content at an address.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: a download broke off.
        ValueError: the file is broken or does not fit a known network, or an argument is none of those offered.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating torch.dtype, got {dtype!r}")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # each backend has its own
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device must be one that torch can use here, got {device!r}: {reason}") from error
    if isinstance(path, str) and can_be_downloaded(path):
        path = download_weights(path, sha256=sha256)
    elif sha256 is not None:
        raise ValueError(f"sha256 is for an address (hf://, https://), got it with {path!r}")
    checkpoint = path if isinstance(path, Checkpoint) else read_checkpoint(path)
    network = checkpoint.network(max_flow_px=max_flow_px, alexnet_stride=alexnet_stride)
    propagator = MotionPropagator(network, normalize=normalize)
    network.image_encoder.to(dtype)
    network.decoder.to(dtype)
    return propagator.to(device)


class MotionPropagator(nn.Module):
    """A trained network behind two calls, for images of any size; in eval mode, without gradients, from any thread.

    Images are padded at the right and the bottom (by their last pixels) to multiples of the network's stride, results
    are cropped back; an image whose sides are multiples is not padded. One image with T guidance sets, or T identical
    images, is encoded once. Guidance beyond the range of the bins is used as it is, with one warning per propagator.

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

    @overload
    def predict_dense(
        self, image: ImageLike, sparse: ArrayLike, mask: ArrayLike, *, return_confidence: Literal[False] = False
    ) -> torch.Tensor: ...

    @overload
    def predict_dense(
        self, image: ImageLike, sparse: ArrayLike, mask: ArrayLike, *, return_confidence: bool
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]: ...

    def predict_dense(
        self, image: ImageLike, sparse: ArrayLike, mask: ArrayLike, *, return_confidence: bool = False
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

    @overload
    def predict(
        self,
        image: ImageLike,
        points_xy: ArrayLike | Sequence,
        vectors_xy: ArrayLike | Sequence,
        *,
        return_confidence: Literal[False] = False,
    ) -> torch.Tensor: ...

    @overload
    def predict(
        self,
        image: ImageLike,
        points_xy: ArrayLike | Sequence,
        vectors_xy: ArrayLike | Sequence,
        *,
        return_confidence: bool,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]: ...

    def predict(
        self,
        image: ImageLike,
        points_xy: ArrayLike | Sequence,
        vectors_xy: ArrayLike | Sequence,
        *,
        return_confidence: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Flow from arrows.

        Args:
            image: see `encode`, or what it returned.
            points_xy: (P, 2) positions (x, y), px, pixel centers at whole numbers; rounded to the nearest pixel. Of two
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
    def predict_cells(
        self,
        image: ImageLike,
        points_xy: np.ndarray | torch.Tensor | Sequence,
        vectors_xy: np.ndarray | torch.Tensor | Sequence,
        *,
        moving_px: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Flow from arrows in the network's own resolution: for many sets of arrows over one image.

        Upsampling many flows takes longer than predicting them. `upsample_cells` brings what was made of them to the
        size of the image. The flow is not corrected at the points (`CMP.guide_reach_px`).

        Args:
            image: see `encode`, or what it returned; one image.
            points_xy, vectors_xy: see `predict`.
            moving_px: also return the probability that a cell moves by more than this.

        Returns:
            flow (S, 2, h, w) float32 px, and (S, 1, h, w) float32 in 0..1, None without moving_px.

        Raises:
            ValueError: as `predict`, or moving_px is negative or not finite.
        """
        encoded, sparse, mask = self._prepare(image, lambda size_hw: points_to_guidance(points_xy, vectors_xy, size_hw))
        quantizer = self.network.quantizer
        flows, shares = [], []
        for logits, _, _ in self._logits_of_sets(encoded, sparse, mask):
            flows.append(quantizer.expectation(logits).float())
            if moving_px is not None:
                shares.append(quantizer.share_beyond(logits, moving_px))
        return torch.cat(flows), torch.cat(shares) if shares else None

    def upsample_cells(self, cells: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
        """Bring (S, C, h, w) maps in the network's resolution, of an image of size_hw, to (S, C, H, W) float32."""
        bottom, right = self._padding(size_hw)
        padded_hw = (size_hw[0] + bottom, size_hw[1] + right)
        maps = F.interpolate(cells.float(), size=padded_hw, mode="bilinear", align_corners=True)
        return maps[:, :, : size_hw[0], : size_hw[1]]

    @torch.no_grad()
    def _predict(self, image, guidance_for, return_confidence: bool):
        if return_confidence and isinstance(self.network.quantizer, DirectFlow):
            raise ValueError("return_confidence needs a network with bins, got one that regresses flow")
        encoded, sparse, mask = self._prepare(image, guidance_for)
        size_hw = encoded.size_hw
        flows, confidences = [], []
        for logits, *padded in self._logits_of_sets(encoded, sparse, mask):
            flow = self.network.decode(logits, *padded)
            flows.append(flow[:, :, : size_hw[0], : size_hw[1]])
            if return_confidence:
                confidence = _confidence(self.network.quantizer.split_logits(logits))
                confidences.append(self.upsample_cells(confidence, size_hw))
        flow = torch.cat(flows).contiguous()
        return (flow, torch.cat(confidences).contiguous()) if return_confidence else flow

    def _prepare(self, image, guidance_for) -> tuple[EncodedImage, torch.Tensor, torch.Tensor]:
        """Check what a caller gave: the encoded image, and sparse (T, 2, H, W) and mask (T, 1, H, W)."""
        # Guidance is checked before the image is encoded, so that a mistake in it is reported at once.
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
        return image if isinstance(image, EncodedImage) else self._encode(image), sparse, mask

    def _logits_of_sets(
        self, encoded: EncodedImage, sparse: torch.Tensor, mask: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """The logits of some sets after others, with their guidance and mask, padded as the image was."""
        size_hw = encoded.size_hw
        bottom, right = self._padding(size_hw)
        pixels_at_once = PIXELS_AT_ONCE.get(self.device.type, PIXELS_AT_ONCE_ELSEWHERE)
        sets_at_once = max(1, pixels_at_once // ((size_hw[0] + bottom) * (size_hw[1] + right)))
        for first in range(0, len(sparse), sets_at_once):
            part = slice(first, first + sets_at_once)
            padded = [F.pad(t[part].to(self.device), (0, right, 0, bottom)) for t in (sparse, mask)]
            features = encoded.features
            if len(features.top) > 1:
                features = features.each(itemgetter(part))
            yield self._logits(features, *padded), *padded

    def _logits(self, features: ImageFeatures, sparse: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`CMP.propagate` with each part in its own precision."""
        motion_encoder, decoder = self.network.motion_encoder, self.network.decoder
        dtype = _dtype(motion_encoder)
        motion = motion_encoder(sparse.to(dtype), mask.to(dtype), features._replace(top=features.top.to(dtype)))
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
            "predict at a smaller size and scale the flow up (this warning is printed once)",
            stacklevel=6,
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
