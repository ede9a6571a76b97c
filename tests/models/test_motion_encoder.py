import pytest
import torch
import torch.nn.functional as F

from cmp.models import MotionEncoder


def guides(height=64, width=96):
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(2, 1, height, width, generator=generator) < 0.01).float()
    return torch.randn(2, 2, height, width, generator=generator) * 10 * mask, mask


@pytest.mark.parametrize("stride", (8, 32))
def test_the_published_encoder_is_the_written_out_one(stride):
    torch.manual_seed(0)
    net = MotionEncoder(stride).eval()
    guidance, mask = guides()
    first, norm1, second, norm2 = (net.features[i] for i in (0, 1, 4, 5))
    with torch.no_grad():
        x = torch.cat((guidance, mask, mask), dim=1)
        x = F.conv2d(x, first.weight, first.bias, stride=2, padding=2)
        x = F.relu(F.batch_norm(x, norm1.running_mean, norm1.running_var, norm1.weight, norm1.bias))
        x = F.conv2d(F.max_pool2d(x, 2), second.weight, second.bias, padding=1)
        x = F.relu(F.batch_norm(x, norm2.running_mean, norm2.running_var, norm2.weight, norm2.bias))
        expected = F.avg_pool2d(x, stride // 4)
        torch.testing.assert_close(net(guidance, mask), expected)
    assert expected.shape == (2, 16, 64 // stride, 96 // stride)


@pytest.mark.parametrize("fill", ("nearest", "inverse_distance"))
def test_filled_guidance_reaches_every_cell(fill):
    torch.manual_seed(0)
    guidance, mask = torch.zeros(1, 2, 64, 96), torch.zeros(1, 1, 64, 96)
    mask[0, 0, 5, 7] = 1
    moved = guidance.clone()
    moved[0, 0, 5, 7] = 12
    sparse, filled = MotionEncoder(8).eval(), MotionEncoder(8, fill=fill).eval()
    with torch.no_grad():
        difference = [(net(moved, mask) - net(guidance, mask)).abs().sum(1) for net in (sparse, filled)]
    assert (difference[0][:, 4:, 4:] == 0).all()  # the published encoder is local
    assert difference[1].shape == (1, 8, 12) and (difference[1] > 0).all()


def test_filled_input_is_signed_roots_closeness_and_where_a_guide_is():
    net = MotionEncoder(4, fill="nearest", flow_scale_px=4.0)
    guidance, mask = torch.zeros(1, 2, 8, 12), torch.zeros(1, 1, 8, 12)
    for y, x, u, v in ((1, 2, 16, -1), (6, 9, -4, 9)):
        guidance[0, :, y, x], mask[0, 0, y, x] = torch.tensor([u, v]).float(), 1
    given = []
    handle = net.features.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    net(guidance, mask)
    handle.remove()
    expected = torch.empty(1, 4, 2, 3)
    for row in range(2):
        for column in range(3):
            # Cells of 4 px are judged at their centres.
            centre = torch.tensor([4 * row + 1.5, 4 * column + 1.5])
            distances = [(centre - torch.tensor([y, x])).norm() for y, x in ((1.0, 2.0), (6.0, 9.0))]
            u, v = ((2, -0.5), (-1, 1.5))[int(distances[1] < distances[0])]  # sign(u) * sqrt(|u| / 4)
            occupied = float((row, column) in ((0, 0), (1, 2)))
            expected[0, :, row, column] = torch.tensor([u, v, torch.exp(-min(distances) / 8), occupied])
    torch.testing.assert_close(given[0], expected)


def test_without_guides_the_filled_input_is_zero_everywhere():
    net = MotionEncoder(4, fill="inverse_distance")
    given = []
    net.features.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    net(torch.zeros(2, 2, 8, 12), torch.zeros(2, 1, 8, 12))
    assert given[0].shape == (2, 4, 2, 3) and (given[0] == 0).all()


def test_a_filled_encoder_without_guides_is_finite():
    guidance, mask = torch.zeros(2, 2, 32, 64), torch.zeros(2, 1, 32, 64)
    assert MotionEncoder(8, fill="nearest")(guidance, mask).isfinite().all()


def test_the_inputs_are_not_written_to():
    guidance, mask = guides()
    before = guidance.clone(), mask.clone()
    MotionEncoder(8)(guidance, mask)
    MotionEncoder(8, fill="nearest")(guidance, mask)
    assert torch.equal(guidance, before[0]) and torch.equal(mask, before[1])


@pytest.mark.parametrize(
    "arguments", (dict(stride=6), dict(stride=0), dict(fill="linear"), dict(fill="attention"), dict(still=True))
)
def test_what_is_not_offered_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        MotionEncoder(**arguments)
