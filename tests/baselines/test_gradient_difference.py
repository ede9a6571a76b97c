import pytest
import torch

from cmp.baselines.gradient_difference import gradient_difference

TARGET = torch.tensor([[0.0, 1, 3, 3], [0, 0, 0, 2], [5, 5, 4, 4]])
PREDICTED = torch.tensor([[0.0, -1, 1, 1], [0, 0, 0, 0], [2, 2, 2, 2]])
# Along columns: |changes| of the target 0 1 3 1 | 5 5 4 2, of the prediction 0 1 1 1 | 2 2 2 2: 0 0 2 0 | 3 3 2 0
# Along rows: 1 2 0 | 0 0 2 | 0 1 0 against 1 2 0 | 0 0 0 | 0 0 0: 0 0 0 | 0 0 2 | 0 1 0
BY_HAND = {1.0: 10 + 3, 2.0: (4 + 9 + 9 + 4) + (4 + 1)}


@pytest.mark.parametrize("alpha", BY_HAND)
def test_an_image_of_3_x_4_px_by_hand(alpha):
    pair = PREDICTED.expand(2, 3, 3, 4).clone(), TARGET.expand(2, 3, 3, 4).clone()
    pair[0][1] = pair[1][1]
    assert gradient_difference(*pair, alpha).tolist() == [3 * BY_HAND[alpha], 0]


def test_the_sign_of_an_edge_does_not_matter_and_neither_does_brightness():
    assert gradient_difference(7 - TARGET[None, None], TARGET[None, None]).item() == 0


@pytest.mark.parametrize(
    "predicted, target, alpha, message",
    [
        (torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 4, 3), 1, r"\(1, 1, 3, 4\), \(1, 1, 4, 3\)"),
        (torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4), 1, "at least 2 x 2"),
        (torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4), 0, "alpha must be above 0"),
    ],
)
def test_what_does_not_fit_is_refused(predicted, target, alpha, message):
    with pytest.raises(ValueError, match=message):
        gradient_difference(predicted, target, alpha)
