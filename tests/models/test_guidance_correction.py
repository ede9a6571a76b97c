import numpy as np
import pytest
import torch

from cmp.models import guidance_correction
from cmp.models.guidance_correction import correct_at_points

HEIGHT, WIDTH, REACH_PX = 14, 19, 5.0
POINTS = [(1, 2), (1, 13), (10, 7), (10, 9)]


def case(points, seed=0, size=1):
    """Predicted flow, guidance and mask of `size` images, (B, 2, H, W) and (B, 1, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    flow, guidance = (torch.randn(size, 2, HEIGHT, WIDTH, generator=generator) * 9 for _ in range(2))
    mask = torch.zeros(size, 1, HEIGHT, WIDTH)
    for y, x in points:
        mask[:, :, y, x] = 1
    return flow, guidance, mask


def test_every_pixel_gets_what_a_loop_over_the_guides_finds():
    flow, guidance, mask = case(POINTS)
    corrected = correct_at_points(flow, guidance, mask, reach_px=REACH_PX)
    assert corrected.shape == flow.shape and corrected.dtype == torch.float32
    vectors, before = guidance[0].double().numpy(), flow[0].double().numpy()
    for y in range(HEIGHT):
        for x in range(WIDTH):
            total, summed = (REACH_PX**2 + 1) ** -1.5, np.zeros(2)
            for py, px in POINTS:
                weight = ((y - py) ** 2 + (x - px) ** 2 + 1) ** -1.5
                total, summed = total + weight, summed + weight * (vectors[:, py, px] - before[:, py, px])
            np.testing.assert_allclose(corrected[0, :, y, x], before[:, y, x] + summed / total, rtol=1e-5, atol=1e-5)


def test_a_lone_guide_is_obeyed_halfway_at_its_reach_and_hardly_anything_is_left_at_itself():
    flow, guidance, mask = torch.zeros(1, 2, 12, 90), torch.zeros(1, 2, 12, 90), torch.zeros(1, 1, 12, 90)
    guidance[0, :, 6, 4], mask[0, 0, 6, 4] = torch.tensor([8.0, -4.0]), 1
    corrected = correct_at_points(flow, guidance, mask, reach_px=10)
    torch.testing.assert_close(corrected[0, :, 6, 14], torch.tensor([4.0, -2.0]))
    assert (corrected[0, :, 6, 4] / torch.tensor([8.0, -4.0])).sub(1).abs().max() < 1.1e-3
    assert corrected[0, :, 6, 89].abs().max() < 0.02


def test_a_prediction_that_obeys_its_guides_or_has_none_stays_as_it_is():
    flow, _, mask = case(POINTS)
    assert torch.equal(correct_at_points(flow, flow * mask, mask, reach_px=REACH_PX), flow)
    assert torch.equal(correct_at_points(flow, flow, mask * 0, reach_px=REACH_PX), flow)


@pytest.mark.parametrize("chunk", (1 << 22, 50))
def test_images_of_a_batch_do_not_see_each_others_guides(chunk, monkeypatch):
    monkeypatch.setattr(guidance_correction, "CHUNK_ELEMENTS", chunk)
    parts = [case(POINTS, 1), case([], 2), case(POINTS[2:3], 3)]
    together = correct_at_points(*(torch.cat(tensors) for tensors in zip(*parts)), reach_px=REACH_PX)
    for i, part in enumerate(parts):
        torch.testing.assert_close(together[i : i + 1], correct_at_points(*part, reach_px=REACH_PX))


def test_half_precision_and_autocast_round_nothing_away():
    flow, guidance, mask = case(POINTS, 4)
    expected = correct_at_points(flow.bfloat16().float(), guidance, mask, reach_px=REACH_PX)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(correct_at_points(flow.bfloat16(), guidance, mask, reach_px=REACH_PX), expected)
