import cv2
import numpy as np
import pytest
import skimage.data
import torch
from scipy.ndimage import map_coordinates

from cmp.flow import read_flow, warp_backward


def drawn(size, seed=0, scale=1.0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * scale


def constant(shape_hw, u, v, batch=1):
    return torch.tensor([u, v], dtype=torch.float32).view(1, 2, 1, 1).repeat(batch, 1, *shape_hw)


@pytest.mark.parametrize("size", [(37, 53), (1, 9), (64, 33), (130, 257)])
def test_a_flow_of_whole_pixels_is_exactly_a_slice(size):
    image = drawn((2, 3, *size))
    torch.testing.assert_close(warp_backward(image, constant(size, 0, 0, 2)), image, rtol=0, atol=0)
    if min(size) > 5:
        warped = warp_backward(image, constant(size, 3, -2, 2))
        assert torch.equal(warped[:, :, 2:, :-3], image[:, :, :-2, 3:])
        assert (warped[:, :, :2] == 0).all() and (warped[:, :, :, -3:] == 0).all()


def test_border_padding_repeats_the_edge():
    image = drawn((1, 2, 6, 9))
    warped = warp_backward(image, constant((6, 9), 4, 100), padding="border")
    assert torch.equal(warped[0, :, 2], torch.cat((image[0, :, 5, 4:], image[0, :, 5, -1:].expand(2, 4)), dim=1))


def test_fractions_are_read_bilinearly_as_scipy_does():
    image, flow = drawn((2, 3, 21, 34)), drawn((2, 2, 21, 34), seed=1, scale=6)
    y, x = np.mgrid[:21, :34]
    for padding, mode in (("zeros", "grid-constant"), ("border", "nearest")):
        warped = warp_backward(image, flow, padding=padding)
        for b in range(2):
            for c in range(3):
                places = [y + flow[b, 1].numpy(), x + flow[b, 0].numpy()]
                expected = map_coordinates(image[b, c].numpy(), places, order=1, mode=mode)
                np.testing.assert_allclose(warped[b, c], expected, atol=2e-5)


def test_nearest_takes_one_whole_pixel():
    image = torch.arange(12.0).view(1, 1, 3, 4)
    warped = warp_backward(image, constant((3, 4), 0.6, -0.4), mode="nearest")
    assert warped[0, 0, :, :3].tolist() == image[0, 0, :, 1:].tolist()


def test_half_precision_images_are_read_at_exact_places():
    image = drawn((1, 1, 4, 700)).to(torch.bfloat16)  # bfloat16 has no odd numbers above 256
    warped = warp_backward(image, constant((4, 700), 1, 0))
    assert warped.dtype == torch.bfloat16
    assert torch.equal(warped[..., :-1], image[..., 1:])
    assert warp_backward(image.double(), constant((4, 700), 1, 0)).dtype == torch.float64


def test_unknown_and_infinite_flow_read_as_nothing():
    flow = constant((5, 6), 0, 0)
    flow[0, 0, 1, 2], flow[0, 1, 3, 3], flow[0, 0, 4, 4] = float("nan"), float("inf"), -1e30
    image = torch.ones(1, 1, 5, 6)
    warped = warp_backward(image, flow)
    assert warped[0, 0, 1, 2] == warped[0, 0, 3, 3] == warped[0, 0, 4, 4] == 0 and warped.sum() == 27
    bordered = warp_backward(image, flow, padding="border")
    assert bordered[0, 0, 1, 2] == 0 and bordered.sum() == 29


def test_gradients_reach_image_and_flow():
    image = drawn((1, 2, 5, 6)).double().requires_grad_()
    flow = (drawn((1, 2, 5, 6), seed=3) * 0.3 + 0.31).double().requires_grad_()
    assert torch.autograd.gradcheck(warp_backward, (image, flow))


def test_a_sliding_rectangle_is_brought_back_by_its_flow():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(30, 50)).astype(np.float32)
    rectangle = rng.normal(size=(10, 12)).astype(np.float32)
    second, flow = first.copy(), np.zeros((2, 30, 50), np.float32)
    first[8:18, 10:22], second[5:15, 17:29] = rectangle, rectangle
    flow[0, 8:18, 10:22], flow[1, 8:18, 10:22] = 7, -3
    warped = warp_backward(torch.from_numpy(second)[None, None], torch.from_numpy(flow)[None])[0, 0].numpy()
    assert np.array_equal(warped[8:18, 10:22], rectangle)


def test_what_makes_no_sense_is_refused():
    image, flow = torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5)
    refused = [
        lambda: warp_backward(image.byte(), flow),
        lambda: warp_backward(image[0], flow),
        lambda: warp_backward(image[..., :0], flow[..., :0]),
        lambda: warp_backward(image, flow[..., :4]),
        lambda: warp_backward(image, flow[:, :1]),
        lambda: warp_backward(image, flow.long()),
        lambda: warp_backward(image, flow, padding="reflect"),
        lambda: warp_backward(image, flow, mode="bicubic"),
        lambda: warp_backward(image, flow[0]),
    ]
    for call in refused:
        with pytest.raises(ValueError, match="must be"):
            call()


def test_a_real_stereo_pair_is_brought_together_by_its_disparity():
    left, right, disparity = skimage.data.stereo_motorcycle()  # a pixel at x in the left image is at x - d in the right
    flow = np.stack([-disparity, np.zeros_like(disparity)])
    valid = torch.from_numpy(np.isfinite(disparity))
    left, right = (torch.from_numpy(image).permute(2, 0, 1)[None].float() for image in (left, right))
    flow = torch.from_numpy(np.where(np.isfinite(flow), flow, 0).astype(np.float32))[None]

    def error(image):
        return (image - left).abs().mean(dim=1)[0][valid].mean().item()

    warped = error(warp_backward(right, flow))
    assert warped < 0.4 * error(right) and warped < 0.4 * error(warp_backward(right, -flow))


def ends_inside(flow):
    """(B, H, W) bool: whether a pixel moves to a place in the frame; False where the flow is unknown."""
    (height, width), (u, v) = flow.shape[2:], flow.unbind(dim=1)
    x, y = torch.arange(width) + u, torch.arange(height)[:, None] + v
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def ground_truth(folder):
    for path in sorted((folder / "middlebury").iterdir()):
        yield path / "frame10.png", path / "frame11.png", path / "flow10.flo"
    for path in sorted((folder / "flyingchairs").glob("*-gt.flo")):
        stem = path.name.removesuffix("-gt.flo")
        yield path.with_name(f"{stem}-img0.png"), path.with_name(f"{stem}-img1.png"), path
    for path in sorted((folder / "kitti/flow_gt").glob("*.png")):
        yield folder / "kitti/image_2" / path.name, folder / "kitti/image_2" / path.name.replace("_10", "_11"), path


def test_every_ground_truth_flow_brings_frame_two_close_to_frame_one(shared_dir):
    count = 0
    for first, second, path in ground_truth(shared_dir / "data/flow"):
        frames = [torch.from_numpy(cv2.imread(str(p))).permute(2, 0, 1)[None].float() for p in (first, second)]
        flow = torch.from_numpy(read_flow(path)).permute(2, 0, 1)[None]
        known = ends_inside(flow)

        def error(image, first=frames[0], known=known):
            return (image - first).abs().mean(dim=1)[known].mean().item()

        right, still, wrong = (
            error(warp_backward(frames[1], flow)),
            error(frames[1]),
            error(warp_backward(frames[1], -flow)),
        )
        assert right < 0.6 * still and right < wrong, path
        count += 1
    assert count >= 10
