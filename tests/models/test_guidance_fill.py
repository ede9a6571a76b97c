import numpy as np
import pytest
import torch

from cmp.guidance import interpolate_inverse_distance, interpolate_nearest
from cmp.models import fill_guidance, guidance_fill

METHODS = ("nearest", "inverse_distance")


def sparse(points_yx, vectors_xy, height=12, width=16):
    """(1, 2, H, W) guidance and (1, 1, H, W) mask with the given guides."""
    guidance, mask = torch.zeros(1, 2, height, width), torch.zeros(1, 1, height, width)
    for (y, x), vector in zip(points_yx, vectors_xy):
        guidance[0, :, y, x], mask[0, 0, y, x] = torch.tensor(vector), 1
    return guidance, mask


POINTS = [(1, 2), (1, 13), (10, 7)]
VECTORS = [(1.0, -2.0), (30.0, 4.0), (-5.0, 0.0)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stride_px", (1, 4))
def test_every_cell_has_what_a_loop_over_its_centre_finds(method, stride_px):
    flow, distance = fill_guidance(*sparse(POINTS, VECTORS), method=method, stride_px=stride_px)
    assert flow.shape == (1, 2, 12 // stride_px, 16 // stride_px)
    for i in range(flow.shape[2]):
        for j in range(flow.shape[3]):
            y, x = (i + 0.5) * stride_px - 0.5, (j + 0.5) * stride_px - 0.5
            squared = np.array([(y - p) ** 2 + (x - q) ** 2 for p, q in POINTS])
            if method == "nearest" or squared.min() == 0:
                expected = np.array(VECTORS)[squared.argmin()]
            else:
                expected = (np.array(VECTORS) / squared[:, None]).sum(0) / (1 / squared).sum()
            np.testing.assert_allclose(flow[0, :, i, j], expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(distance[0, 0, i, j], np.sqrt(squared.min()), rtol=1e-6)


@pytest.mark.parametrize("method, dense", list(zip(METHODS, (interpolate_nearest, interpolate_inverse_distance))))
def test_at_stride_1_it_equals_the_numpy_interpolation(method, dense):
    rng = np.random.default_rng(0)
    points = np.stack((rng.integers(0, 12, 9), rng.integers(0, 16, 9)), axis=1)
    points = np.unique(points, axis=0)
    vectors = rng.normal(size=(len(points), 2)).astype(np.float32)
    guidance, mask = sparse(points.tolist(), vectors.tolist())
    flow, distance = fill_guidance(guidance, mask, method=method)
    gaps = np.sort([[np.hypot(y - p, x - q) for p, q in points] for y in range(12) for x in range(16)], axis=1)
    clear = (gaps[:, 1] - gaps[:, 0] > 1e-6).reshape(12, 16)  # of equally near guides either may win
    expected = dense(points, vectors, (12, 16))
    np.testing.assert_allclose(flow[0].permute(1, 2, 0)[clear], expected[clear], atol=1e-5)
    np.testing.assert_allclose(distance[0, 0].flatten(), gaps[:, 0], rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_images_of_a_batch_do_not_see_each_others_guides(method, monkeypatch):
    parts = [sparse(POINTS, VECTORS), sparse([], []), sparse(POINTS[:1], VECTORS[1:2])]
    batch = [torch.cat(tensors) for tensors in zip(*parts)]
    together = fill_guidance(*batch, method=method, stride_px=2)
    for i, part in enumerate(parts):
        for whole, alone in zip(together, fill_guidance(*part, method=method, stride_px=2)):
            torch.testing.assert_close(whole[i : i + 1], alone)
    monkeypatch.setattr(guidance_fill, "CHUNK_ELEMENTS", 1)
    for whole, chunked in zip(together, fill_guidance(*batch, method=method, stride_px=2)):
        torch.testing.assert_close(whole, chunked)


@pytest.mark.parametrize("method", METHODS)
def test_without_guides_flow_is_zero_and_distance_infinite(method):
    guidance, mask = sparse([], [])
    flow, distance = fill_guidance(guidance + 3, mask, method=method, stride_px=4)  # unmasked values are not read
    assert (flow == 0).all() and distance.isinf().all()


def test_wrong_input_is_refused():
    guidance, mask = sparse(POINTS, VECTORS)
    with pytest.raises(ValueError, match="method"):
        fill_guidance(guidance, mask, method="linear")
    with pytest.raises(ValueError, match="stride_px must divide"):
        fill_guidance(guidance, mask, method="nearest", stride_px=5)
    with pytest.raises(ValueError, match="guidance must be"):
        fill_guidance(guidance, mask[:, :, 1:], method="nearest")


@pytest.mark.parametrize("method", METHODS)
def test_the_way_it_is_exported_gives_the_same(method, monkeypatch):
    random = torch.Generator().manual_seed(0)
    mask = (torch.rand(4, 1, 12, 20, generator=random) < 0.05).float()
    mask[2] = 0  # an image without guides between others
    guidance = mask * torch.randn(4, 2, 12, 20, generator=random)
    for given in (mask, torch.zeros_like(mask)):
        flow, distance = fill_guidance(guidance, given, method=method, stride_px=4)
        with monkeypatch.context() as exporting:
            exporting.setattr(torch.compiler, "is_exporting", lambda: True)
            as_exported = fill_guidance(guidance, given, method=method, stride_px=4)
        torch.testing.assert_close(as_exported[0], flow, rtol=1e-5, atol=1e-6)
        assert torch.equal(as_exported[1], distance)
