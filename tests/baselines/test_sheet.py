import numpy as np
import torch

from cmp.baselines.sheet import picture_grid


def test_pictures_stand_row_by_row_between_grey_lines_and_are_cut_to_0_to_1():
    pictures = torch.tensor([-1.0, 0.2, 3.0]).view(3, 1, 1, 1).expand(3, 1, 4, 5)
    expected = np.full((2 + 2 * (4 + 2), 2 + 2 * (5 + 2), 3), 128, np.uint8)
    for y, x, grey in ((2, 2, 0), (2, 9, 51), (8, 2, 255)):
        expected[y : y + 4, x : x + 5] = grey
    expected[8:12, 9:14] = picture_grid(pictures, columns=2)[8:12, 9:14]  # where no picture stands
    assert np.array_equal(picture_grid(pictures, columns=2), expected)
    colours = torch.tensor([1.0, 0.0, 0.4]).view(1, 3, 1, 1).expand(1, 3, 2, 3)
    assert (picture_grid(colours, columns=1)[2:4, 2:5] == (255, 0, 102)).all()
