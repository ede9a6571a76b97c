import numpy as np
import pytest
import torch

import cmp.inference.animate as animation
from cmp.inference.animate import (
    animate,
    animate_flows,
    fill_from_behind,
    fill_holes,
    reverse_flow,
    splat_forward,
    visible_pixels,
)


def image_of(height=12, width=17):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_a_whole_pixel_motion_moves_the_picture_exactly_and_leaves_holes():
    image, flow = image_of(), torch.zeros(1, 2, 12, 17)
    flow[:, 0], flow[:, 1] = 3, -2
    moved, landed = splat_forward(image, flow)
    assert torch.allclose(moved[:, :, :-2, 3:], image[:, :, 2:, :-3], atol=1e-6)
    assert (landed[:, :, :-2, 3:] == 1).all() and landed.sum() == 10 * 14 and not moved[:, :, :, :3].any()


def test_splatting_is_what_a_slow_loop_says():
    random = torch.Generator().manual_seed(1)
    image, flow = image_of(5, 6), 4 * torch.rand(1, 2, 5, 6, generator=random) - 2
    importance = 3 * torch.rand(1, 1, 5, 6, generator=random)
    colour, weight, count = np.zeros((3, 5, 6)), np.zeros((5, 6)), np.zeros((5, 6))
    for y in range(5):
        for x in range(6):
            to_x, to_y = x + float(flow[0, 0, y, x]), y + float(flow[0, 1, y, x])
            for row in range(5):
                for column in range(6):
                    share = max(0, 1 - abs(to_x - column)) * max(0, 1 - abs(to_y - row))
                    w = share * np.exp(float(importance[0, 0, y, x]))
                    colour[:, row, column] += w * image[0, :, y, x].numpy()
                    weight[row, column] += w
                    count[row, column] += share
    moved, landed = splat_forward(image, flow, importance)
    expected = np.where(weight > 0, colour / np.maximum(weight, 1e-12), 0)
    assert np.allclose(moved[0].numpy(), expected, atol=1e-4) and np.allclose(landed[0, 0].numpy(), count, atol=1e-5)


def test_what_moves_passes_in_front_of_what_stands():
    image, flow = torch.zeros(1, 1, 3, 20), torch.zeros(1, 2, 3, 20)
    image[..., 2], flow[:, 0, :, 2] = 1, 10.0
    moved, landed = splat_forward(image, flow)
    assert (moved[..., 12] > 0.99).all() and (landed[..., 12] == 2).all() and (landed[..., 2] == 0).all()


def test_holes_get_what_is_around_them_and_the_rest_stays():
    image, landed = torch.full((1, 3, 9, 13), 0.7), torch.ones(1, 1, 9, 13)
    landed[..., 2:7, 3:9] = 0
    filled = fill_holes(image * landed, landed)
    assert torch.allclose(filled, image, atol=1e-5)
    picture = image_of(9, 13)
    assert torch.equal(fill_holes(picture, landed)[..., 7:, :], picture[..., 7:, :])
    assert not fill_holes(picture * 0, landed * 0).any()


def test_frames_run_from_the_image_to_the_whole_flow_and_nan_is_left_out():
    image = (255 * image_of()[0].permute(1, 2, 0)).to(torch.uint8).numpy()
    flow = np.zeros((12, 17, 2), np.float32)
    flow[..., 0] = 4
    frames = list(animate(image, flow, 3))
    assert np.array_equal(frames[0], image) and all(f.shape == image.shape and f.dtype == np.uint8 for f in frames)
    assert np.array_equal(frames[1][:, 2:], image[:, :-2]) and np.array_equal(frames[2][:, 4:], image[:, :-4])
    by_flows = list(animate_flows(image, np.stack([flow / 2, flow]).transpose(0, 3, 1, 2)))
    assert all(np.array_equal(a, b) for a, b in zip(by_flows, frames, strict=True))
    flow[3, 3] = np.nan
    assert len(list(animate(image, flow, 2))) == 2


def square_on_the_move():
    """A bright square that moves 6 px to the right over a still ground: image, flow, where it was and goes."""
    image, flow = torch.full((1, 3, 24, 40), 50.0), torch.zeros(1, 2, 24, 40)
    image[..., 8:16, 10:18], flow[:, 0, 8:16, 10:18] = 200.0, 6.0
    before, after = torch.zeros(24, 40, dtype=bool), torch.zeros(24, 40, dtype=bool)
    before[8:16, 10:18] = after[8:16, 16:24] = True
    return image, flow, before, after


def test_what_an_object_uncovers_is_filled_with_the_ground_and_not_with_the_object():
    image, flow, before, after = square_on_the_move()
    moved, landed = splat_forward(image, flow)
    length = splat_forward(flow.norm(dim=1, keepdim=True), flow)[0]
    filled = fill_from_behind(moved, landed, length)[0, 0]
    expected = torch.where(after, 200.0, 50.0)
    assert torch.allclose(filled, expected, atol=0.5) and (landed[0, 0, 8:16, 10:16] == 0).all()
    assert not torch.allclose(fill_holes(moved, landed)[0, 0], expected, atol=10)  # all around: the object is in it
    assert torch.equal(fill_from_behind(image, torch.ones(1, 1, 24, 40), length), image)
    assert not fill_from_behind(image, torch.zeros(1, 1, 24, 40), length).any()


@pytest.mark.parametrize("reach", (1, 3, 16, 29))
def test_what_is_within_reach_is_seen_and_nothing_beyond_a_quarter_more(reach):
    x = torch.zeros(1, 1, 75, 91)
    x[0, 0, 37, 41] = 1
    y, x_ = torch.meshgrid(torch.arange(75), torch.arange(91), indexing="ij")
    distance = torch.maximum((y - 37).abs(), (x_ - 41).abs())
    seen = animation._max_filter(x, reach)[0, 0] == 1
    assert seen[distance <= reach].all() and not seen[distance > 1.25 * reach].any()


def test_the_reversed_flow_leads_back_and_what_is_uncovered_stands():
    _, flow, before, after = square_on_the_move()
    back, landed = reverse_flow(flow)
    expected = torch.zeros_like(flow)
    expected[:, 0, after] = -6
    assert torch.allclose(back, expected, atol=0.1)
    assert torch.equal(landed[0, 0] == 0, before & ~after)
    flow[:, :, 2, 3] = torch.nan
    assert reverse_flow(flow)[0].isfinite().all()


def test_visible_is_what_is_neither_covered_nor_outside_nor_unknown():
    _, flow, before, after = square_on_the_move()
    expected = ~after | before  # the ground where the square goes is hidden, the square itself is not
    assert torch.equal(visible_pixels(flow)[0, 0], expected)
    flow[:, 0] += 20  # now all moves together: relative motion decides, and what leaves the frame is out of sight
    moved = visible_pixels(flow)[0, 0]
    assert torch.equal(moved[:, :14], expected[:, :14]) and not moved[:, 20:].any()
    flow[:, :, 3, 3] = torch.nan
    assert not visible_pixels(flow)[0, 0, 3, 3]
    slow = torch.tensor([0.6, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 7)
    assert torch.equal(visible_pixels(slow)[0, 0], (torch.arange(7) < 6).expand(4, 7))
    with pytest.raises(ValueError, match="tolerance_px must be above 0, got 0"):
        visible_pixels(flow, tolerance_px=0)


@pytest.mark.parametrize("method", ("splat", "backward"))
def test_both_methods_move_the_square_and_say_what_it_uncovers(method):
    source, flow, before, after = square_on_the_move()
    image, flow = source[0].permute(1, 2, 0).to(torch.uint8).numpy(), flow[0].permute(1, 2, 0).numpy()
    (start, nothing), (frame, uncovered) = animate(image, flow, 2, method=method, return_uncovered=True)
    assert np.array_equal(start, image) and not nothing.any()
    hole = (before & ~after).numpy()
    assert np.array_equal(uncovered, hole)
    in_hole = 50 if method == "splat" else 200  # fetched from where nothing has moved: the square is seen again
    expected = np.where(hole, in_hole, np.where(after, 200, 50))
    assert np.abs(frame[..., 0].astype(int) - expected).max() <= 4  # the softmax lets exp(-6) of the ground through
    by_flows = list(animate_flows(image, flow.transpose(2, 0, 1)[None], method=method, return_uncovered=True))
    assert np.array_equal(by_flows[1][0], frame) and np.array_equal(by_flows[1][1], uncovered)


@pytest.mark.parametrize(
    "change, message",
    (
        (dict(image=np.zeros((4, 5, 3))), "image must be"),
        (dict(flow=np.zeros((5, 4, 2))), "flow must be"),
        (dict(num_frames=1), "num_frames must be a whole number of at least 2, got 1"),
        (dict(num_frames=2.5), "num_frames must be a whole number of at least 2, got 2.5"),
        (dict(image=np.zeros((0, 5, 3), np.uint8), flow=np.zeros((0, 5, 2))), "not empty"),
        (dict(method="sideways"), "method must be one of .*, got 'sideways'"),
    ),
)
def test_bad_input_is_refused_at_once(change, message):
    with pytest.raises(ValueError, match=message):
        animate(**(dict(image=np.zeros((4, 5, 3), np.uint8), flow=np.zeros((4, 5, 2)), num_frames=3) | change))
