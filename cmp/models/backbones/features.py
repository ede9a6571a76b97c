"""What an image encoder hands to the decoder.

Legend: B batch, C channels, H W image pixels.
"""

from typing import NamedTuple

import torch


class ImageFeatures(NamedTuple):
    """Feature maps of one batch of images, coarsest first; a stage that the encoder does not offer is None.

    Each is (B, C, H / stride, W / stride); C and stride are the encoder's `channels[name]` and `strides[name]`.
    """

    top: torch.Tensor  # what is propagated over
    stem: torch.Tensor | None = None
    stage1: torch.Tensor | None = None
    stage2: torch.Tensor | None = None
    stage3: torch.Tensor | None = None
    stage4: torch.Tensor | None = None  # the last map of the backbone itself, before the 1x1 convolution that makes top
