"""A picture's pixels one after another, each with its distribution given those before: PixelCNN with a context.

Legend: B batch, C colours, L values of a colour, H W pixels.
"""

import torch
import torch.nn.functional as F
from torch import nn

from cmp.baselines.masked_convolution import Convolve, MaskedConv2d, ResidualMultiplicativeBlock, whole_map


class PixelDecoder(nn.Module):
    """Masked residual multiplicative blocks over the picture itself, after a first layer that adds the context.

    Args:
        colours: C; within a pixel they come in this order.
        levels: L; with 2, one logit says how likely 1 is, otherwise there is one for each value.
        context_channels: of the context, all of which every pixel sees.
        channels: of the units; blocks are twice as wide.
        blocks: how many.
        first_kernel: side of the first layer's, px.

    Source: Kalchbrenner et al., "Video pixel networks", ICML 2017. The first layer's kernel and the two 1 x 1 layers
    at the end are those of van den Oord et al., "Pixel recurrent neural networks", ICML 2016.
    """

    def __init__(
        self, colours: int, levels: int, context_channels: int, *, channels: int, blocks: int, first_kernel: int = 7
    ) -> None:
        super().__init__()
        self.colours, self.levels = colours, levels
        masked = dict(mask="B", colours=colours)
        self.look = MaskedConv2d(colours, 2 * channels, first_kernel, mask="A", colours=colours)
        self.context = nn.Conv2d(context_channels, 2 * channels, 1)
        self.blocks = nn.ModuleList(ResidualMultiplicativeBlock(channels, **masked) for _ in range(blocks))
        self.hidden = MaskedConv2d(2 * channels, 2 * channels, 1, **masked)
        self.logits = MaskedConv2d(2 * channels, colours * (1 if levels == 2 else levels), 1, **masked)

    def forward(self, picture: torch.Tensor, context: torch.Tensor, convolve: Convolve = whole_map) -> torch.Tensor:
        """Logits (B, C, 1 or L, H, W) of each colour of each pixel, given those before it.

        Args:
            picture: (B, C, H, W), values 0..1.
            context: (B, context_channels, H, W).
            convolve: how masked layers are applied.
        """
        h = convolve(self.look, picture) + self.context(context)
        for block in self.blocks:
            h = block(h, convolve)
        h = convolve(self.hidden, h.relu())
        return convolve(self.logits, h.relu()).unflatten(1, (self.colours, -1))

    def nats(self, logits: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        """-log of the probability of every colour of every pixel, (B, C, H, W).

        Args:
            logits: of `forward`.
            picture: (B, C, H, W), values 0..1. With 2 levels it may be grey: then this is the cross-entropy to a
                pixel that is 1 with that probability, which no model brings below the grey values' own entropy.
        """
        if self.levels == 2:
            return F.binary_cross_entropy_with_logits(logits[:, :, 0], picture, reduction="none")
        target = (picture * (self.levels - 1)).round().long()
        return F.cross_entropy(logits.transpose(1, 2), target, reduction="none")

    @torch.no_grad()
    def sample(self, context: torch.Tensor, noise: torch.Tensor, *, cached: bool = True) -> torch.Tensor:
        """Draw a picture colour by colour, pixel by pixel.

        Args:
            context: (B, context_channels, H, W).
            noise: (B, C, H, W), uniform in 0..1: value v is drawn where it lies between the probabilities of all
                values below v and of those up to v.
            cached: work each layer at the one pixel that is due, from what it left of the earlier ones; otherwise on
                the whole picture each time. Both draw the same.

        Returns:
            (B, C, H, W), values 0..1.
        """
        picture = torch.zeros_like(noise)
        height, width = noise.shape[2:]
        cache = PixelCache(height, width)
        for y in range(height):
            for x in range(width):
                cache.y, cache.x = y, x
                here = (..., slice(y, y + 1), slice(x, x + 1))
                for colour in range(self.colours):
                    if cached:
                        logits = self(picture[here], context[here], cache)[:, colour, :, 0, 0]
                    else:
                        logits = self(picture, context)[:, colour, :, y, x]
                    picture[:, colour, y, x] = self._draw(logits, noise[:, colour, y, x])
                if cached:  # of what is kept, the first layer's input alone holds the last colour
                    cache(self.look, picture[here])
        return picture

    def _draw(self, logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Values 0..1, (B,), of logits (B, 1 or L) and noise (B,)."""
        if self.levels == 2:
            return (noise > (-logits[:, 0]).sigmoid()).float()
        below = logits.double().softmax(dim=1).cumsum(dim=1)[:, :-1]
        return (noise[:, None] > below).sum(dim=1) / (self.levels - 1)


class PixelCache:
    """Applies masked layers at one pixel of an H x W map, and keeps what wider ones have seen of the others.

    A masked layer's output depends on its input at this pixel and those before, so a map that is worked through in
    reading order needs every layer once a pixel (and colour), not once a pixel for the whole map.

    Attributes:
        y, x: the pixel; what was put in at another one stays.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.y = self.x = 0
        self._kept = {}  # layer: its input with what is beside it, and its weights as far as the mask lets them see

    def __call__(self, layer: MaskedConv2d, x: torch.Tensor) -> torch.Tensor:
        """The layer's output (B, out_channels, 1, 1) at the pixel, of its input (B, in_channels, 1, 1) there."""
        side = layer.kernel_size[0]
        if side == 1:
            return layer(x)
        margin = side // 2
        if layer not in self._kept:
            seen = x.new_zeros(len(x), x.shape[1], self.height + margin, self.width + 2 * margin)
            self._kept[layer] = seen, (layer.weight * layer.seen)[:, :, : margin + 1]
        seen, weight = self._kept[layer]
        seen[:, :, self.y + margin, self.x + margin] = x[:, :, 0, 0]
        return F.conv2d(seen[:, :, self.y : self.y + margin + 1, self.x : self.x + side], weight, layer.bias)
