"""What an image encoder hands to the decoder.

Legend: B batch, C channels, H W image pixels.
"""

from collections.abc import Callable
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
    nets: tuple[torch.Tensor, ...] | None = None  # of a decoder's `prepare`: the image's part of each propagation net

    def each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "ImageFeatures":
        """The features with a function applied to every map."""
        maps = {name: None if part is None else function(part) for name, part in zip(self._fields, self[:-1])}
        return self._replace(**maps, nets=None if self.nets is None else tuple(map(function, self.nets)))

    @property
    def nbytes(self) -> int:
        """Memory that all maps take."""
        return sum(part.nbytes for part in (*self[:-1], *(self.nets or ())) if part is not None)
