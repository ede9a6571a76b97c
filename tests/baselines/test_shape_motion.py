import torch

from cmp.baselines.shape_motion import shape_motions


def square(dx=0, dy=0):
    frame = torch.zeros(3, 12, 14)
    frame[:, 5 + dy : 8 + dy, 6 + dx : 9 + dx] = 1
    return frame


def test_each_prediction_is_compared_with_the_motions_that_the_shape_can_have():
    image = square().expand(4, -1, -1, -1)
    axis = torch.tensor([(1, 0), (1, 0), (0, 1), (1, 1)])
    predicted = torch.stack(
        (
            torch.stack((square(2), square(1), square(2), square(1, 1))),
            torch.stack((square(-1), square(2), square(), square(2, 2))),
            torch.stack((square(1, 1), 0.9 * square(2), square(0, -2), square(-2, -2))),
        )
    )
    measures = shape_motions(image, predicted, axis, 2)
    assert measures["fits"].tolist() == [torch.tensor(n / 3).item() for n in (2, 3, 1, 3)]
    assert measures["both_ways"].tolist() == [1, 0, 0, 1]
    cells = 12 * 14
    # Moved by (1, 1), it overlaps (1, 0) in 2 x 3 pixels: 3 + 3 pixels differ.
    expected = (6 / cells / 3, 0.01 * 9 / cells / 3)
    torch.testing.assert_close(measures["nearest_error"][:2], torch.tensor(expected))
    # Moved by (2, 0), it overlaps (0, 1) and (0, -1) in 1 x 2 pixels: 7 + 7 differ; unmoved, 3 + 3 differ from (0, 1).
    torch.testing.assert_close(measures["nearest_error"][2], torch.tensor((14 + 6 + 0) / cells / 3))
    assert measures["nearest_error"][3] == 0
