import pytest
import torch

from cmp.models import GuidanceAttention


def guides(*points_vectors, height=16, width=24):
    """One image's guidance and mask from ((y, x), (u, v)) pairs."""
    guidance, mask = torch.zeros(1, 2, height, width), torch.zeros(1, 1, height, width)
    for (y, x), vector in points_vectors:
        guidance[0, :, y, x] = torch.tensor(vector, dtype=torch.float32)
        mask[0, 0, y, x] = 1
    return guidance, mask


def attention(heads=2, image_channels=3, still=False):
    torch.manual_seed(0)
    net = GuidanceAttention(image_channels, stride=4, heads=heads, still=still)
    if still:
        torch.nn.init.normal_(net.still.weight)
        torch.nn.init.normal_(net.still.bias)
    return net


def test_each_head_is_the_written_out_weighted_mean():
    net = attention()
    given = (((2, 3), (5.0, -1.0)), ((9, 20), (-2.0, 4.0)), ((15, 8), (0.5, 0.0)))
    guidance, mask = guides(*given)
    image = torch.randn(1, 3, 4, 6)
    with torch.no_grad():
        flow, distance, _ = net(guidance, mask, image)
        embedded = net.embed(image)[0].view(2, 16, 4, 6)
    assert flow.shape == (1, 4, 4, 6) and distance.shape == (1, 1, 4, 6)
    for head in range(2):
        for i in range(4):
            for j in range(6):
                total, mean, nearest = 0.0, torch.zeros(2), float("inf")
                for (y, x), vector in given:
                    squared = (4 * i + 1.5 - y) ** 2 + (4 * j + 1.5 - x) ** 2
                    like = embedded[head, :, i, j] @ embedded[head, :, y // 4, x // 4] / 4
                    weight = like.exp() / (squared + 4) ** net.power[head].detach()
                    total, mean, nearest = total + weight, mean + weight * torch.tensor(vector), min(nearest, squared)
                torch.testing.assert_close(flow[0, 2 * head : 2 * head + 2, i, j], mean / total)
                assert distance[0, 0, i, j].item() == pytest.approx(nearest**0.5)


def test_of_two_guides_equally_near_the_one_that_looks_alike_wins():
    net = attention(heads=1)
    with torch.no_grad():
        net.embed.weight.zero_()[:3] = 20 * torch.eye(3)[..., None, None]
        net.embed.bias.zero_()
    image = torch.zeros(1, 3, 4, 6)
    image[0, 0, :, :3] = 1  # one colour on the left, another on the right; column 2 still is of the left
    image[0, 1, :, 3:] = 1
    guidance, mask = guides(((5, 5), (7.0, 0.0)), ((5, 14), (0.0, 7.0)))
    with torch.no_grad():
        flow = net(guidance, mask, image)[0]
    torch.testing.assert_close(flow[0, :, 1, 2], torch.tensor([7.0, 0.0]))
    torch.testing.assert_close(flow[0, :, 1, 3], torch.tensor([0.0, 7.0]))


def test_with_still_each_head_also_weighs_a_motion_of_zero():
    net = attention(still=True)
    given = (((2, 3), (5.0, -1.0)), ((9, 20), (-2.0, 4.0)))
    image = torch.randn(1, 3, 4, 6)
    with torch.no_grad():
        flow, _, share = net(*guides(*given), image)
        embedded, still = net.embed(image)[0].view(2, 16, 4, 6), net.still(image)[0]
    assert share.shape == (1, 2, 4, 6)
    for head in range(2):
        power = net.power[head].detach()
        for i in range(4):
            for j in range(6):
                total, mean = 0.0, torch.zeros(2)
                for (y, x), vector in given:
                    squared = (4 * i + 1.5 - y) ** 2 + (4 * j + 1.5 - x) ** 2
                    like = embedded[head, :, i, j] @ embedded[head, :, y // 4, x // 4] / 4
                    weight = like.exp() / (squared + 4) ** power
                    total, mean = total + weight, mean + weight * torch.tensor(vector)
                against = still[head, i, j].exp() / (20.0**2 + 4) ** power
                torch.testing.assert_close(flow[0, 2 * head : 2 * head + 2, i, j], mean / (total + against))
                torch.testing.assert_close(share[0, head, i, j], total / (total + against))


def test_one_point_moves_the_whole_image_unless_still_is_weighed_too():
    point = guides(((5, 5), (7.0, 0.0)))
    image = torch.zeros(1, 3, 4, 6)
    with torch.no_grad():
        everywhere = attention(heads=1)(*point, image)[0]
        fading = GuidanceAttention(3, stride=4, heads=1, still=True)(*point, image)[0]
    torch.testing.assert_close(everywhere[0, 0], torch.full((4, 6), 7.0))
    assert fading[0, 0, 1, 1] > 6.9 and fading[0, 0, 3, 5] < 5


@pytest.mark.parametrize("still", (False, True))
def test_under_autocast_motion_keeps_its_precision(still):
    net, image = attention(still=still), torch.randn(1, 3, 4, 6)
    point = guides(((5, 5), (7.125, -30.0625)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        flow, _, share = net(*point, image.bfloat16())
    assert flow.dtype == torch.float32
    share = torch.ones(1, 2, 4, 6) if share is None else share
    expected = share.repeat_interleave(2, 1) * torch.tensor([7.125, -30.0625] * 2)[:, None, None]
    torch.testing.assert_close(flow, expected)


@pytest.mark.parametrize("still", (False, True))
def test_a_set_without_guides_is_still_and_every_parameter_has_a_finite_gradient(still):
    net = attention(still=still)
    guidance, mask = guides(((2, 3), (5.0, -1.0)), ((9, 20), (-2.0, 4.0)))
    guidance, mask = torch.cat((guidance, 0 * guidance)), torch.cat((mask, 0 * mask))
    flow, distance, _ = net(guidance, mask, torch.randn(2, 3, 4, 6))
    assert not flow[1].any() and distance[1].isinf().all() and flow[0].any()
    flow.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in net.parameters())

    net.zero_grad()
    flow, distance, _ = net(0 * guidance, 0 * mask, torch.randn(2, 3, 4, 6))
    assert flow.shape == (2, 4, 4, 6) and not flow.any() and distance.isinf().all()
    flow.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("still", (False, True))
def test_one_image_serves_several_sets_and_padding_among_them_counts_for_nothing(still):
    net = attention(still=still)
    first, second = guides(((2, 3), (5.0, -1.0))), guides(((9, 20), (-2.0, 4.0)), ((1, 1), (3.0, 3.0)))
    image = torch.randn(1, 3, 4, 6)
    together = net(*(torch.cat(pair) for pair in zip(first, second)), image)
    for i, alone in enumerate((net(*first, image), net(*second, image))):
        for got, expected in zip(together, alone):
            assert (got is None) == (expected is None) == (expected is alone[2] and not still)
            if got is not None:
                torch.testing.assert_close(got[i : i + 1], expected)


@pytest.mark.parametrize("still", (False, True))
def test_the_way_it_is_exported_gives_the_same(monkeypatch, still):
    net = attention(still=still)
    first, second = guides(((2, 3), (5.0, -1.0))), guides(((9, 20), (-2.0, 4.0)), ((1, 1), (3.0, 3.0)))
    guidance, mask = (torch.cat((*pair, 0 * pair[0])) for pair in zip(first, second))
    image = torch.randn(3, 3, 4, 6)
    expected = net(guidance, mask, image)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    for got, wanted in zip(net(guidance, mask, image)[: 2 + still], expected):
        torch.testing.assert_close(got, wanted)


def test_heads_below_one_are_refused():
    with pytest.raises(ValueError, match="heads must be at least 1, got 0"):
        GuidanceAttention(3, stride=4, heads=0)
