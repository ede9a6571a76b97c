"""ResNet image encoder: torchvision's network and keys, with the dilation rule of Zhan et al.

Legend: B batch, H W image pixels.
"""

from os import PathLike

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet as tv_resnet

from cmp.models.backbones.features import ImageFeatures
from cmp.weights import read_weight_file

# depth: (block, blocks in each stage), as torchvision builds resnet18 ... resnet152
LAYOUTS = {
    18: (tv_resnet.BasicBlock, (2, 2, 2, 2)),
    34: (tv_resnet.BasicBlock, (3, 4, 6, 3)),
    50: (tv_resnet.Bottleneck, (3, 4, 6, 3)),
    101: (tv_resnet.Bottleneck, (3, 4, 23, 3)),
    152: (tv_resnet.Bottleneck, (3, 8, 36, 3)),
}
STAGES = ("stage1", "stage2", "stage3", "stage4")
STAGE_DILATIONS = {32: (1, 1), 16: (1, 2), 8: (2, 4)}  # output stride: dilation of stages 3 and 4; 1 keeps the stride


class ResNet(tv_resnet.ResNet):
    """A torchvision ResNet without its classifier, with a 1x1 convolution `conv5` on top.

    The state dict is torchvision's without `fc.*` and with `conv5.weight`, `conv5.bias`. A dilated stage keeps the
    stride of the stage before, and every 3x3 convolution in it is dilated, the first block's too, which torchvision's
    own switch would leave out; published weights mean something only under this rule.

    Args:
        depth: 18, 34, 50, 101 or 152.
        output_stride: stride of `top`, px: 8 (as published), 16 or 32 (the ordinary classification network).
        out_channels: channels of `top`.
        pretrained: a file of weights under torchvision's keys (`fc.*` and `conv5.*` may be there or missing), or None.

    Attributes:
        channels, strides: channels and stride in px of every map in `ImageFeatures`, by name.
        feature_info: channels (num_chs), stride in px (reduction) and name (module) of each map that `maps` returns.

    Raises:
        ValueError: depth, output_stride or out_channels is not offered, or the pretrained file does not fit.
        FileNotFoundError: there is no pretrained file.

    Source: He et al., CVPR 2016; dilation rule and conv5: the code of Zhan et al., CVPR 2019.
    """

    ABOVE: tuple[str, ...] = ("conv5.",)  # keys of the layers above the backbone start so: no export has them

    def __init__(
        self,
        depth: int = 50,
        output_stride: int = 8,
        out_channels: int = 256,
        pretrained: str | PathLike | None = None,
    ) -> None:
        if depth not in LAYOUTS:
            raise ValueError(f"depth must be one of {sorted(LAYOUTS)}, got {depth}")
        if output_stride not in STAGE_DILATIONS:
            raise ValueError(f"output_stride must be one of {sorted(STAGE_DILATIONS)}, got {output_stride}")
        if out_channels < 1:
            raise ValueError(f"out_channels must be at least 1, got {out_channels}")
        block, layers = LAYOUTS[depth]
        super().__init__(block, list(layers))
        del self.avgpool, self.fc
        for stage, dilation in zip((self.layer3, self.layer4), STAGE_DILATIONS[output_stride]):
            _dilate(stage, dilation)
        self.conv5 = nn.Conv2d(512 * block.expansion, out_channels, kernel_size=1)

        self.name = f"resnet{depth}"
        self.channels = {"stem": 64, "top": out_channels}
        self.channels |= {f"stage{i + 1}": 64 * 2**i * block.expansion for i in range(4)}
        self.strides = {"stem": 2, "top": output_stride, "stage1": 4, "stage2": 8}
        self.strides |= {"stage3": min(16, output_stride), "stage4": output_stride}
        self.feature_info = [
            dict(num_chs=self.channels[name], reduction=self.strides[name], module=name) for name in STAGES
        ]
        self.pretrained = pretrained
        if pretrained is not None:
            self.load_pretrained(pretrained)

    def forward(self, image: torch.Tensor) -> ImageFeatures:
        """Encode (B, 3, H, W) normalized images."""
        stem = self._stem(image)
        stages = self._stages(stem)
        return ImageFeatures(self.conv5(stages[-1]), stem, *stages)

    def maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        """What the backbone itself computes from (B, 3, H, W) normalized images, below conv5: the four stages."""
        return self._stages(self._stem(image))

    def _stem(self, image: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn1(self.conv1(image)))

    def _stages(self, stem: torch.Tensor) -> list[torch.Tensor]:
        stage1 = self.layer1(self.maxpool(stem))
        stage2 = self.layer2(stage1)
        stage3 = self.layer3(stage2)
        return [stage1, stage2, stage3, self.layer4(stage3)]

    def load_pretrained(self, path: str | PathLike) -> None:
        """Load backbone weights from a file under torchvision's keys; `fc.*` in it is left alone.

        Raises:
            ValueError: the file is broken or lacks, adds or misshapes a key.
            FileNotFoundError: the file does not exist.
        """
        weights = {k: v for k, v in read_weight_file(path).content.items() if not k.startswith("fc.")}
        own = self.state_dict()
        optional = {k for k in own if k.startswith(self.ABOVE) or k.endswith(".num_batches_tracked")}
        wrong = sorted((own.keys() - optional) - weights.keys()) + sorted(weights.keys() - own.keys())
        wrong += [k for k in own.keys() & weights.keys() if getattr(weights[k], "shape", None) != own[k].shape]
        if wrong:
            raise ValueError(
                f"{path} is not a {self.name} in torchvision's layout: {len(wrong)} keys are missing, extra or "
                f"misshapen, first {wrong[:5]}"
            )
        self.load_state_dict(weights, strict=False)


class PyramidResNet(ResNet):
    """An ordinary ResNet of stride 32 whose `top` is finer: coarse features are added to finer ones on the way up.

    What a dilated ResNet pays for a stride of 8 in every layer of stages 3 and 4, this pays in a few 1x1 convolutions;
    it is what makes minutes on a CPU enough for the quick start.

    Args:
        depth, out_channels, pretrained: as `ResNet`; the state dict has `laterals.*` on top of ResNet's.
        top_stride: stride of `top`, px: 4, 8 or 16.

    Raises:
        ValueError, FileNotFoundError: as `ResNet`, or top_stride is not offered.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017; not part of the published CMP.
    """

    ABOVE = ("conv5.", "laterals.")

    def __init__(
        self, depth: int = 18, top_stride: int = 4, out_channels: int = 64, pretrained: str | PathLike | None = None
    ) -> None:
        if top_stride not in (4, 8, 16):
            raise ValueError(f"top_stride must be 4, 8 or 16, got {top_stride}")
        super().__init__(depth, 32, out_channels)
        names = [name for name in ("stage3", "stage2", "stage1") if self.strides[name] >= top_stride]
        self.laterals = nn.ModuleDict({name: nn.Conv2d(self.channels[name], out_channels, 1) for name in names})
        self.strides["top"] = top_stride
        self.pretrained = pretrained
        if pretrained is not None:
            self.load_pretrained(pretrained)

    def forward(self, image: torch.Tensor) -> ImageFeatures:
        """Encode (B, 3, H, W) normalized images."""
        features = super().forward(image)
        top = features.top
        for name, lateral in self.laterals.items():
            finer = getattr(features, name)
            top = lateral(finer) + F.interpolate(top, size=finer.shape[2:], mode="bilinear", align_corners=False)
        return features._replace(top=F.relu(top))


def resnet_depth(name: str) -> int:
    """The depth in a name such as "resnet50"; ValueError for any other name."""
    for depth in LAYOUTS:
        if name == f"resnet{depth}":
            return depth
    raise ValueError(f"expected one of {', '.join(f'resnet{depth}' for depth in LAYOUTS)}, got {name!r}")


def _dilate(stage: nn.Sequential, dilation: int) -> None:
    """Trade the stage's stride for a dilation of all its 3x3 convolutions; 1 leaves the stage as it is."""
    if dilation == 1:
        return
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (dilation, dilation)
