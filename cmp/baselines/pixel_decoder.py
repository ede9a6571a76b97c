"""PixelCNN with a context: the distribution of every pixel of an image given the pixels before it.

Legend: B batch, C colors, L values of a color, H W pixels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.masked_convolution import Convolve, MaskedConv2d, ResidualMultiplicativeBlock, whole_map


class PixelDecoder(nn.Module):
    """Predicts each color of each pixel from the earlier ones, by masked residual multiplicative blocks.

    The first layer reads the image; the context is added to its output.

    Args:
        colors: C; within a pixel they are predicted in this order.
        levels: L; with 2 there is one logit, that of the value 1, otherwise one logit per value.
        context_channels: channels of the context; every pixel depends on all of them.
        channels: of the multiplicative units; blocks have twice as many.
        blocks: number of blocks.
        first_kernel: side of the first layer's kernel, px, odd.

    Source: Kalchbrenner et al., "Video pixel networks", ICML 2017. The first layer's kernel and the two 1 x 1 layers
    at the end are those of van den Oord et al., "Pixel recurrent neural networks", ICML 2016.
    """

    def __init__(
        self, colors: int, levels: int, context_channels: int, *, channels: int, blocks: int, first_kernel: int = 7
    ) -> None:
        super().__init__()
        self.colors, self.levels = colors, levels
        masked: dict[str, Any] = dict(mask="B", colors=colors)
        self.look = MaskedConv2d(colors, 2 * channels, first_kernel, mask="A", colors=colors)
        self.context = nn.Conv2d(context_channels, 2 * channels, 1)
        self.blocks = nn.ModuleList(ResidualMultiplicativeBlock(channels, **masked) for _ in range(blocks))
        self.hidden = MaskedConv2d(2 * channels, 2 * channels, 1, **masked)
        self.logits = MaskedConv2d(2 * channels, colors * (1 if levels == 2 else levels), 1, **masked)

    def forward(self, image: torch.Tensor, context: torch.Tensor, convolve: Convolve = whole_map) -> torch.Tensor:
        """Compute logits (B, C, 1 or L, H, W) of each color of each pixel given those before it.

        Args:
            image: (B, C, H, W), values 0..1.
            context: (B, context_channels, H, W).
            convolve: how masked layers are applied.
        """
        h = convolve(self.look, image) + self.context(context)
        for block in self.blocks:
            h = block(h, convolve)
        h = convolve(self.hidden, h.relu())
        return convolve(self.logits, h.relu()).unflatten(1, (self.colors, -1))

    def nats(self, logits: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Compute -log of the probability of every color of every pixel, (B, C, H, W).

        Args:
            logits: the output of `forward`.
            image: (B, C, H, W), values 0..1. With 2 levels values in between are allowed: the result is then
                the cross-entropy to a pixel that is 1 with that probability, at least the entropy of that value.
        """
        if self.levels == 2:
            return F.binary_cross_entropy_with_logits(logits[:, :, 0], image, reduction="none")
        target = (image * (self.levels - 1)).round().long()
        return F.cross_entropy(logits.transpose(1, 2), target, reduction="none")

    @torch.no_grad()
    def sample(self, context: torch.Tensor, noise: torch.Tensor, *, cached: bool = True) -> torch.Tensor:
        """Sample an image pixel by pixel, color by color.

        Args:
            context: (B, context_channels, H, W).
            noise: (B, C, H, W), uniform in 0..1: value v is drawn where the noise lies between the probability of all
                values below v and that of all values up to v.
            cached: compute each layer only at the current pixel, from its stored earlier inputs; otherwise on the whole
                image each time. Both draw the same values.

        Returns:
            (B, C, H, W), values 0..1.
        """
        image = torch.zeros_like(noise)
        height, width = noise.shape[2:]
        cache = PixelCache(height, width)
        for y in range(height):
            for x in range(width):
                cache.y, cache.x = y, x
                here = (..., slice(y, y + 1), slice(x, x + 1))
                for color in range(self.colors):
                    if cached:
                        logits = self(image[here], context[here], cache)[:, color, :, 0, 0]
                    else:
                        logits = self(image, context)[:, color, :, y, x]
                    image[:, color, y, x] = self._draw(logits, noise[:, color, y, x])
                if cached:  # only the first layer's input contains the last color: store it
                    cache(self.look, image[here])
        return image

    def _draw(self, logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Draw values 0..1, (B,), by logits (B, 1 or L) and noise (B,)."""
        if self.levels == 2:
            return (noise > (-logits[:, 0]).sigmoid()).float()
        below = logits.double().softmax(dim=1).cumsum(dim=1)[:, :-1]
        return (noise[:, None] > below).sum(dim=1) / (self.levels - 1)


class PixelCache:
    """Applies masked layers at one pixel of an H x W map, and stores the inputs that wider kernels need later.

    A masked layer's output at a pixel depends only on its input at this pixel and earlier ones. Sampling in reading
    order therefore needs one output per layer, pixel and color, instead of a whole map each time.

    Attributes:
        y, x: the current pixel; inputs stored at other pixels are kept.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.y = self.x = 0
        self._stored = {}  # layer: its inputs at all pixels, padded; its weights in the rows that the mask keeps

    def __call__(self, layer: MaskedConv2d, x: torch.Tensor) -> torch.Tensor:
        """Compute a layer's output (B, out_channels, 1, 1) at the pixel from its input (B, in_channels, 1, 1) there."""
        side = layer.kernel_size[0]
        if side == 1:
            return layer(x)
        margin = side // 2
        if layer not in self._stored:
            inputs = x.new_zeros(len(x), x.shape[1], self.height + margin, self.width + 2 * margin)
            self._stored[layer] = inputs, (layer.weight * layer.weight_mask)[:, :, : margin + 1]
        inputs, weight = self._stored[layer]
        inputs[:, :, self.y + margin, self.x + margin] = x[:, :, 0, 0]
        return F.conv2d(inputs[:, :, self.y : self.y + margin + 1, self.x : self.x + side], weight, layer.bias)
