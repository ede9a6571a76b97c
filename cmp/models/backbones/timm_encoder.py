"""Any image encoder of the package timm, brought to the stride that the decoder wants. An extra: pip install ".[timm]".

Legend: B batch, C channels, H W image pixels.
"""

import difflib
from collections.abc import Mapping
from os import PathLike

import torch
import torch.nn.functional as F
from torch import nn

from cmp.models.backbones.features import ImageFeatures
from cmp.weights import check_finite, read_weight_file

# What lets a network of one image size take others; the first that the model's constructor knows is used.
ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class TimmEncoder(nn.Module):
    """A timm model through `features_only`, and above it what makes one map of its features: `top`.

    A network of stages (ResNet, ConvNeXt, Swin) gives its last map of each stride from top_stride on; each goes through
    a 1x1 convolution, and coarse ones are added to finer ones on the way up, as in `PyramidResNet`. A network of one
    stride (ViT) gives four maps from evenly spaced depths; where that stride is coarser than top_stride, transposed
    convolutions of stride 2 bring their sum there.

    Images are padded at the right and the bottom (by their last pixels) to multiples of the coarsest stride, and top is
    cropped back: patches would lose the rest. Weights are drawn as timm draws them; nothing is fetched from a network.

    Args:
        name: of the model in timm, "convnext_atto".
        top_stride: stride of `top`, px: 4, 8 or 16.
        out_channels: channels of `top`.
        pretrained: a file of weights under timm's keys (classifier and last norm may be there or missing), or None.

    Attributes:
        channels, strides: channels and stride in px of `top` and `stage4`, the maps in its `ImageFeatures`.
        feature_info: channels (num_chs), stride in px (reduction) and name in timm (module) of each map that `maps`
            returns.
        taps, timm_options: which of the model's maps are used, and what it was built with besides its name.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: timm does not know the model, or it has no feature maps, takes one image size only, or has strides
            that are not powers of two times the top's; top_stride is not offered; the pretrained file does not fit.
        FileNotFoundError: the pretrained file does not exist.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017; for one stride Li et al., "Exploring
    Plain Vision Transformer Backbones for Object Detection", ECCV 2022, whose last map only we replace by four.
    """

    ABOVE = ("laterals.", "rise.")  # keys of the layers above the backbone start so: no export has them

    def __init__(
        self,
        name: str,
        top_stride: int = 8,
        out_channels: int = 256,
        pretrained: str | PathLike | None = None,
    ) -> None:
        super().__init__()
        if top_stride not in (4, 8, 16):
            raise ValueError(f"top_stride must be 4, 8 or 16, got {top_stride}")
        if out_channels < 1:
            raise ValueError(f"out_channels must be at least 1, got {out_channels}")
        plain, self.timm_options = _build(name)
        strides = [entry["reduction"] for entry in getattr(plain, "feature_info", None) or ()]
        taps = _choose_taps(strides, top_stride)
        if not taps:
            raise ValueError(f"timm's {name} offers no feature maps of stride {top_stride} or coarser, only {strides}")
        try:
            self.net, _ = _build(name, features_only=True, feature_cls="getter", out_indices=taps)
        except (RuntimeError, AttributeError, AssertionError) as error:
            raise ValueError(f"timm's {name} offers no feature maps: {error}") from error
        widths, strides = self.net.feature_info.channels(), self.net.feature_info.reduction()
        ratios = [max(stride, top_stride) / min(stride, top_stride) for stride in strides]
        if any(ratio not in (1, 2, 4, 8, 16) for ratio in ratios):
            raise ValueError(f"timm's {name} has maps of strides {strides}: no powers of two times {top_stride}")
        self.coarsest = max(strides)
        self.laterals = nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in widths)
        rise = []
        for _ in range((min(strides) // top_stride).bit_length() - 1):  # one for each factor of two
            rise += [nn.ConvTranspose2d(out_channels, out_channels, 2, stride=2), nn.ReLU(inplace=True)]
        self.rise = nn.Sequential(*rise)

        self.name, self.top_stride, self.taps = name, top_stride, tuple(taps)
        self.channels = {"top": out_channels, "stage4": widths[-1]}
        self.strides = {"top": top_stride, "stage4": strides[-1]}
        self._check_maps(widths, strides)
        self.feature_info = [
            dict(num_chs=width, reduction=stride, module=module)
            for width, stride, module in zip(widths, strides, self.net.feature_info.module_name(), strict=True)
        ]
        self.pretrained = pretrained
        if pretrained is not None:
            self.load_pretrained(pretrained)

    def forward(self, image: torch.Tensor) -> ImageFeatures:
        """Encode (B, 3, H, W) normalized images."""
        height, width = image.shape[2:]
        maps = self.maps(image)
        top = None
        for lateral, finer in reversed(list(zip(self.laterals, maps))):
            x = lateral(finer)
            if top is not None:
                if top.shape[2:] != x.shape[2:]:
                    top = F.interpolate(top, size=x.shape[2:], mode="bilinear", align_corners=False)
                x = x + top
            top = x
        top = F.relu(self.rise(top))
        top = top[:, :, : -(-height // self.top_stride), : -(-width // self.top_stride)]
        return ImageFeatures(top, stage4=maps[-1])

    def maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The network's own maps of (B, 3, H, W) normalized images, padded; the last has stride `strides["stage4"]`."""
        bottom, right = (-side % self.coarsest for side in image.shape[2:])
        if bottom or right:
            image = F.pad(image, (0, right, 0, bottom), mode="replicate")
        return self.net(image)

    def load_pretrained(self, path: str | PathLike) -> None:
        """Load backbone weights from a file under timm's keys; layers above the last feature map are left alone.

        Raises:
            ValueError: the file is broken or lacks, adds or misshapes a key.
            FileNotFoundError: the file does not exist.
        """
        self.load_timm_state_dict(read_weight_file(path).content, source=str(path))

    def load_timm_state_dict(self, weights: Mapping[str, torch.Tensor], *, source: str) -> None:
        """As `load_pretrained`, with weights that were read from a source to be named in errors."""
        own = self._net_state_dict()
        optional = {key for key in own if key.endswith(".num_batches_tracked")}
        wrong = sorted(own.keys() - optional - weights.keys())
        wrong += sorted(weights.keys() - _build(self.name)[0].state_dict().keys())
        wrong += [k for k in own.keys() & weights.keys() if getattr(weights[k], "shape", None) != own[k].shape]
        if wrong:
            raise ValueError(
                f"{source} is not a {self.name} in timm's layout: {len(wrong)} keys are missing, extra or misshapen, "
                f"first {wrong[:5]}"
            )
        known = {f"model.{key}": weights[key] for key in own if key in weights}
        check_finite(self.net, known, source=source)
        self.net.load_state_dict(known, strict=False)

    def timm_state_dict(self) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
        """The backbone under timm's own keys: `timm.create_model(name, num_classes=0)` loads it strictly.

        Returns:
            The state dict, and which of its keys training has not touched, because they come after the last feature
            map (a last norm, a pooling's layers): those are as timm draws them from one fixed seed.
        """
        own = self._net_state_dict()
        whole = _build(self.name, num_classes=0)[0].state_dict()
        return whole | own, tuple(key for key in whole if key not in own)

    def _net_state_dict(self) -> dict[str, torch.Tensor]:
        return {key.removeprefix("model."): value for key, value in self.net.state_dict().items()}

    @torch.no_grad()
    def _check_maps(self, widths: list[int], strides: list[int]) -> None:
        """One small image through the network: some take only the size they were made for, or say false strides."""
        height, width = 2 * self.coarsest, 3 * self.coarsest
        training = self.net.training
        try:
            maps = self.net.eval()(torch.zeros(1, 3, height, width))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(f"timm's {self.name} does not take images of any size: {error}") from error
        self.net.train(training)
        expected = [(1, channels, height // stride, width // stride) for channels, stride in zip(widths, strides)]
        if [tuple(feature.shape) for feature in maps] != expected:
            raise ValueError(f"timm's {self.name} gives maps of {[tuple(m.shape) for m in maps]}, not {expected}")


def _build(name: str, **arguments) -> tuple[nn.Module, dict[str, bool]]:
    """A model without pretrained weights, and its entry of ANY_SIZE.

    It is drawn from torch's generator where it gives features, else from seed 0, without touching the generator.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise ModuleNotFoundError(
            f'the image encoder {name!r} comes from the package timm, which is not installed: pip install ".[timm]"',
            name="timm",
        ) from error
    # Only names of its own list: timm also takes addresses of models to be fetched, which a stranger's file could name.
    if not isinstance(name, str) or not timm.is_model(name):
        known = timm.list_models()
        near = [other for other in known if other.startswith(str(name))][:3]
        near += difflib.get_close_matches(str(name), set(known) - set(near), n=5 - len(near), cutoff=0.5)
        raise ValueError(f"timm {timm.__version__} has no model {name!r}; near it: {', '.join(near) or 'none'}")
    drawn = "features_only" in arguments
    with torch.random.fork_rng(devices=[], enabled=not drawn):
        if not drawn:
            torch.manual_seed(0)
        for any_size in ANY_SIZE:
            try:
                return timm.create_model(name, pretrained=False, **any_size, **arguments), any_size
            except TypeError as error:
                if not any_size or next(iter(any_size)) not in str(error):
                    raise
    raise AssertionError("the last of ANY_SIZE is empty")


def _choose_taps(strides: list[int], top_stride: int) -> list[int]:
    """Which of a model's maps are used, by position: see `TimmEncoder`."""
    if len(strides) > 1 and len(set(strides)) == 1:
        return sorted({-(-len(strides) * quarter // 4) - 1 for quarter in (1, 2, 3, 4)})
    last = {stride: i for i, stride in enumerate(strides)}
    return sorted(i for stride, i in last.items() if stride >= top_stride)
