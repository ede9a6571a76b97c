import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmp.baselines.extrapolation import copy_last, dis_flow, extrapolate_flow, moving_pixels


def sliding(velocity_yx, count, height=40, width=56):
    """Smooth noise that slides, (1, count, 3, height, width) in -1..1."""
    noise = torch.rand(1, 3, 24, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    large = F.interpolate(noise, scale_factor=4.0, mode="bicubic").clamp(-1, 1)
    windows = []
    for t in range(count):
        y, x = 24 - velocity_yx[0] * t, 24 - velocity_yx[1] * t
        windows.append(large[:, :, y : y + height, x : x + width])
    return torch.stack(windows, dim=1)


def fetched(image, y, x):
    """An image (C, H, W) read between its pixels at (H, W) places, and at its edge for places beyond."""
    y, x = np.clip(y, 0, image.shape[1] - 1), np.clip(x, 0, image.shape[2] - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    below, right = np.minimum(top + 1, image.shape[1] - 1), np.minimum(left + 1, image.shape[2] - 1)
    upper = image[:, top, left] * (1 - (x - left)) + image[:, top, right] * (x - left)
    lower = image[:, below, left] * (1 - (x - left)) + image[:, below, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


def test_pixels_are_followed_back_step_by_step_and_beyond_the_edge_repeat_it():
    frames = sliding((0, 0), 2)
    grown = F.interpolate(frames[:, 1], scale_factor=1.15, mode="bilinear")
    frames[:, 0] = grown[..., 3:43, 4:60]  # so that the flow is another at each pixel, and comes from outside
    back = dis_flow(frames[:, 1], frames[:, 0])[0].double().numpy()
    last, (y, x) = frames[0, 1].double().numpy(), np.mgrid[:40, :56].astype(float)
    places = np.stack((x, y))
    for predicted in extrapolate_flow(frames, 3)[0]:
        places = places + fetched(back, places[1], places[0])
        np.testing.assert_allclose(predicted, fetched(last, places[1], places[0]), atol=1e-3)
    assert np.abs(places - np.stack((x, y)) - 3 * back).max() > 0.3 and places[0].min() < 0


@pytest.mark.parametrize("velocity_yx", [(0, 2), (-1, 1), (2, 0)])
def test_constant_motion_goes_on(velocity_yx):
    frames = sliding(velocity_yx, 7)
    given, target = frames[:, :4], frames[:, 4:]
    predicted = extrapolate_flow(given, 3)
    inside = (..., slice(8, -8), slice(8, -8))
    error = (predicted - target)[inside].square().mean(dim=(0, 2, 3, 4))
    copied = (copy_last(given, 3) - target)[inside].square().mean(dim=(0, 2, 3, 4))
    assert predicted.shape == target.shape and (error < 0.05 * copied).all()


def test_flow_points_from_the_first_frame_into_the_second_also_in_small_frames():
    frames = sliding((0, 2), 2)
    flow = dis_flow(frames[:, 0], frames[:, 1])
    assert flow.shape == (1, 2, 40, 56) and flow.dtype == torch.float32
    np.testing.assert_allclose(flow[0, :, 8:-8, 8:-8].mean((1, 2)), [2, 0], atol=0.15)
    tiny = sliding((0, 2), 2, height=12, width=16)
    assert dis_flow(tiny[:, 0], tiny[:, 1])[0, 0, 3:-3, 3:-3].mean() == pytest.approx(2, abs=0.5)


def test_red_tells_more_of_the_flow_than_blue():
    frames = sliding((0, 2), 3)
    frames[:, :, 1] = 0
    frames[:, :, 2] = frames.flip(1)[:, :, 2]  # goes the other way
    assert dis_flow(frames[:, 0], frames[:, 1])[0, 0].mean() > 1.5
    assert dis_flow(frames.flip(2)[:, 0], frames.flip(2)[:, 1])[0, 0].mean() < -1.5


def test_half_a_pixel_from_frame_to_frame_is_what_it_takes_to_move():
    noise = torch.rand(1, 3, 12, 14, generator=torch.Generator().manual_seed(0)) * 2 - 1
    large = F.interpolate(noise, scale_factor=16.0, mode="bicubic").clamp(-1, 1)
    for quarters, moves in ((1, 0.0), (3, 1.0)):
        pair = [F.avg_pool2d(large[..., x : x + 208], 4) for x in (0, quarters)]
        moving = moving_pixels(torch.stack(pair, dim=1), 1)[..., 8:-8, 8:-8]
        assert moving.float().mean().item() == pytest.approx(moves, abs=0.05)


def test_the_last_frame_is_copied():
    frames = torch.rand(2, 3, 3, 4, 5)
    assert torch.equal(copy_last(frames, 2), torch.stack((frames[:, 2], frames[:, 2]), dim=1))


def test_pixels_move_where_the_texture_does():
    frames = sliding((0, 0), 3, height=48, width=64).flip(3)
    texture = sliding((0, 0), 1, height=20, width=20)[:, 0]
    for t in range(3):
        frames[:, t, :, 14:34, 10 + 3 * t : 30 + 3 * t] = texture
    moving = moving_pixels(frames, 1)
    assert moving.shape == (1, 2, 1, 48, 64) and moving.dtype == torch.bool
    assert moving[0, :, 0, 18:30, 18:28].all() and not moving[0, :, 0, :, 56:].any() and not moving[0, :, 0, :4].any()
    assert moving_pixels(frames, 2).shape[1] == 1
    assert not moving_pixels(frames[:, :1].expand(-1, 3, -1, -1, -1), 1).any()
