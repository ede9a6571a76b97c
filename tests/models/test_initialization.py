import math

import pytest
import torch
from torch import nn

from cmp.models import initialize


def net():
    return nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(4096), nn.Conv2d(16, 8, 1, bias=False))


def test_published_draws_have_the_published_spread():
    torch.manual_seed(0)
    layers = net()
    initialize(layers, "published")
    xavier = 0.02 * math.sqrt(2 / ((64 + 128) * 9))
    assert layers[0].weight.std().item() == pytest.approx(xavier, rel=0.02)
    assert abs(layers[0].weight.mean().item()) < 1e-5
    assert layers[1].weight.mean().item() == pytest.approx(1, abs=2e-3)
    assert layers[1].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (layers[0].bias == 0).all() and (layers[1].bias == 0).all()


def test_default_leaves_every_weight_alone():
    layers = net()
    before = {key: value.clone() for key, value in layers.state_dict().items()}
    initialize(layers, "default")
    assert all(torch.equal(value, before[key]) for key, value in layers.state_dict().items())


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ValueError, match="init must be"):
        initialize(net(), "xavier")
