import numpy as np
import torch

from cmp.baselines.drawing.grid import image_grid


def test_images_are_placed_row_by_row_between_gray_lines_and_clamped_to_0_to_1():
    images = torch.tensor([-1.0, 0.2, 3.0]).view(3, 1, 1, 1).expand(3, 1, 4, 5)
    expected = np.full((2 + 2 * (4 + 2), 2 + 2 * (5 + 2), 3), 128, np.uint8)
    for y, x, gray in ((2, 2, 0), (2, 9, 51), (8, 2, 255)):
        expected[y : y + 4, x : x + 5] = gray
    expected[8:12, 9:14] = image_grid(images, columns=2)[8:12, 9:14]  # the empty place
    assert np.array_equal(image_grid(images, columns=2), expected)
    colors = torch.tensor([1.0, 0.0, 0.4]).view(1, 3, 1, 1).expand(1, 3, 2, 3)
    assert (image_grid(colors, columns=1)[2:4, 2:5] == (255, 0, 102)).all()
