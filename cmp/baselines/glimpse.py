"""A differentiable window of N x N Gaussian filters that reads a part of an image or paints into it.

Legend: B batch, C channels, H W image pixels, N filters per side.
"""

from typing import NamedTuple

import torch

EPSILON = 1e-8  # smallest divisor when a filter is normalized: far outside the image all its values vanish


class Window(NamedTuple):
    """Position and scale of a window on each image of a batch, (B,) each."""

    center_y: torch.Tensor  # px; the first row is 1
    center_x: torch.Tensor
    distance: torch.Tensor  # between neighboring filters, px
    variance: torch.Tensor  # of each filter, px^2
    intensity: torch.Tensor

    def filters(self, size: int, length_y: int, length_x: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the filters along both axes, (B, N, H) and (B, N, W); each sums to 1, or to 0 far outside the image.

        Source: DRAW, eqs. 19, 20, 25 and 26; filter i of N is (i - N/2 - 1/2) distances from the center.
        """
        return (
            gaussian_filters(self.center_y, self.distance, self.variance, size, length_y),
            gaussian_filters(self.center_x, self.distance, self.variance, size, length_x),
        )

    def read(self, image: torch.Tensor, size: int) -> torch.Tensor:
        """Read images (B, C, H, W) through the window: (B, C, N, N)."""
        rows, columns = self.filters(size, *image.shape[2:])
        return self.intensity[:, None, None, None] * (rows[:, None] @ image @ columns[:, None].mT)

    def write(self, patch: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Paint patches (B, C, N, N) through the window: (B, C, H, W), 0 away from the window."""
        rows, columns = self.filters(patch.shape[2], height, width)
        return (rows[:, None].mT @ patch @ columns[:, None]) / self.intensity[:, None, None, None]


def gaussian_filters(
    center: torch.Tensor, distance: torch.Tensor, variance: torch.Tensor, size: int, length: int
) -> torch.Tensor:
    """Compute Gaussian filters along one axis; pixels are counted from 1.

    Args:
        center, distance, variance: (B,) px, px, px^2.
        size: number of filters.
        length: number of pixels.

    Returns:
        (B, size, length): the weight of each pixel in each filter.
    """
    offsets = torch.arange(size, dtype=center.dtype, device=center.device) - (size - 1) / 2
    means = center[:, None] + offsets * distance[:, None]  # (B, N)
    pixels = torch.arange(1, length + 1, dtype=center.dtype, device=center.device)
    values = (-(pixels - means[:, :, None]).square() / (2 * variance[:, None, None])).exp()
    return values / values.sum(dim=2, keepdim=True).clamp(min=EPSILON)


def window_from(numbers: torch.Tensor, size: int, height: int, width: int) -> Window:
    """Convert five numbers per image to a window; zeros spread its filters over the whole image.

    Args:
        numbers: (B, 5): center x and y, where -1..1 spans the image, and the logarithms of variance, distance and
            intensity; a distance of 1 spreads the filters over the image's longer side.
        size: N. With a single filter the distance is the longer side and has no effect.
        height, width: of the image, px.

    Raises:
        ValueError: size is below 1.

    Source: DRAW, eqs. 21 to 24. Its distance divides by N - 1; the case N = 1 is ours.
    """
    if size < 1:
        raise ValueError(f"a window needs at least 1 filter per side, got {size}")
    x, y, log_variance, log_distance, log_intensity = numbers.unbind(dim=1)
    return Window(
        center_y=(height + 1) / 2 * (y + 1),
        center_x=(width + 1) / 2 * (x + 1),
        distance=(max(height, width) - 1) / max(size - 1, 1) * log_distance.exp(),
        variance=log_variance.exp(),
        intensity=log_intensity.exp(),
    )
