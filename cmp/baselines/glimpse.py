"""A window of N x N Gaussian filters that looks at a part of a picture and paints there, gradients included.

Legend: B batch, C channels, H W picture pixels, N filters to a side.
"""

from typing import NamedTuple

import torch

EPSILON = 1e-8  # what a filter's values are divided by at least: far outside the picture they all vanish


class Window(NamedTuple):
    """Where a window stands on each picture of a batch, (B,) each."""

    centre_y: torch.Tensor  # px, the first row is 1
    centre_x: torch.Tensor
    distance: torch.Tensor  # between neighbouring filters, px
    variance: torch.Tensor  # of each filter, px^2
    intensity: torch.Tensor

    def filters(self, size: int, length_y: int, length_x: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Filters (B, N, H) along the rows and (B, N, W) along the columns; each sums to 1, or to 0 far outside.

        Source: DRAW, eqs. 19, 20, 25 and 26; filter i of N stands (i - N/2 - 1/2) distances from the centre.
        """
        return (
            gaussian_filters(self.centre_y, self.distance, self.variance, size, length_y),
            gaussian_filters(self.centre_x, self.distance, self.variance, size, length_x),
        )

    def read(self, picture: torch.Tensor, size: int) -> torch.Tensor:
        """What the window sees of (B, C, H, W): (B, C, N, N)."""
        rows, columns = self.filters(size, *picture.shape[2:])
        return self.intensity[:, None, None, None] * (rows[:, None] @ picture @ columns[:, None].mT)

    def write(self, patch: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The picture (B, C, H, W) that a patch (B, C, N, N) becomes, 0 away from the window."""
        rows, columns = self.filters(patch.shape[2], height, width)
        return (rows[:, None].mT @ patch @ columns[:, None]) / self.intensity[:, None, None, None]


def gaussian_filters(
    centre: torch.Tensor, distance: torch.Tensor, variance: torch.Tensor, size: int, length: int
) -> torch.Tensor:
    """(B, size, length): filter i's weight of pixel a; pixels are counted from 1.

    Args:
        centre, distance, variance: (B,) px, px, px^2.
        size: filters.
        length: pixels.
    """
    offsets = torch.arange(size, dtype=centre.dtype, device=centre.device) - (size - 1) / 2
    means = centre[:, None] + offsets * distance[:, None]  # (B, N)
    pixels = torch.arange(1, length + 1, dtype=centre.dtype, device=centre.device)
    values = (-(pixels - means[:, :, None]).square() / (2 * variance[:, None, None])).exp()
    return values / values.sum(dim=2, keepdim=True).clamp(min=EPSILON)


def window_from(numbers: torch.Tensor, size: int, height: int, width: int) -> Window:
    """The window that five numbers ask for; zeros ask for its filters all over the picture.

    Args:
        numbers: (B, 5): centre x and y with -1..1 for the picture's sides, and the logarithms of variance, distance
            and intensity; a distance of 1 spreads the filters over the picture's longer side.
        size: N. A single filter has no neighbour: its distance is that side and plays no part.
        height, width: of the picture, px.

    Raises:
        ValueError: size is below 1.

    Source: DRAW, eqs. 21 to 24. Its distance divides by N - 1; what it means for N = 1 is ours.
    """
    if size < 1:
        raise ValueError(f"a window needs at least 1 filter to a side, got {size}")
    x, y, log_variance, log_distance, log_intensity = numbers.unbind(dim=1)
    return Window(
        centre_y=(height + 1) / 2 * (y + 1),
        centre_x=(width + 1) / 2 * (x + 1),
        distance=(max(height, width) - 1) / max(size - 1, 1) * log_distance.exp(),
        variance=log_variance.exp(),
        intensity=log_intensity.exp(),
    )
