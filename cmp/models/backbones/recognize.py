"""Recognize the image encoder that a set of weights belongs to by its keys alone."""

from collections.abc import Iterable

from torchvision.models.resnet import BasicBlock, Bottleneck

from cmp.models.backbones.resnet import LAYOUTS


def recognize_encoder(keys: Iterable[str]) -> str:
    """Name the image encoder with these keys, without a prefix; files of Zhan et al. have the same keys as ours.

    Strides and dilations leave no trace in weights, so the name does not tell them.

    Returns:
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152" or "alexnet_fcn".

    Raises:
        ValueError: the keys are of none of them.
    """
    keys = set(keys)
    if any(key.startswith("fc6.0.") for key in keys):
        return "alexnet_fcn"
    block = Bottleneck if any(key.endswith(".conv3.weight") for key in keys) else BasicBlock
    blocks = tuple(len({key.split(".")[1] for key in keys if key.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4))
    for depth, layout in LAYOUTS.items():
        if layout == (block, blocks):
            return f"resnet{depth}"
    raise ValueError(f"these keys are of no known image encoder: {sorted(keys)[:4]} ...")
