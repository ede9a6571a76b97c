import pytest
import torch
from torch import nn

from cmp.weights import RandomWeightsSkipped, check_size, load_strictly


class Network(nn.Module):
    """A convolution with batch norm, and a head."""

    def __init__(self, width=6):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, 4, 1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Network()


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_everything_that_does_not_fit_is_listed_and_nothing_is_loaded(model):
    weights = {key: value + 1 for key, value in model.state_dict().items()}
    weights["head.bias"] = torch.zeros(3)
    weights["tail.bias"] = torch.zeros(3)
    del weights["conv.weight"], weights["norm.running_var"]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        load_strictly(model, weights, source="some.pth")
    assert str(error.value) == (
        "some.pth does not fit the network:\n"
        "  missing (2): conv.weight, norm.running_var\n"
        "  left over (1): tail.bias\n"
        "  misshapen (1): head.bias: (3,), expected (4,)"
    )
    assert same(model.state_dict(), before)


def test_only_the_batch_counters_may_be_missing(model):
    weights = {k: v + 1 for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    load_strictly(model, weights, source="some.pth")
    loaded = model.state_dict()
    assert weights.keys() < loaded.keys() and all(torch.equal(loaded[k], v) for k, v in weights.items())


@pytest.mark.parametrize("dtype", (torch.int8, torch.int32, torch.uint8, torch.bool))
def test_weights_that_are_not_floats_are_refused_and_nothing_is_loaded(model, dtype):
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights = before | {"head.weight": before["head.weight"].to(dtype)}
    with pytest.raises(ValueError, match=f"some.pth does not fit.*\\n.*not floats .1.: head.weight: {dtype}, expected"):
        load_strictly(model, weights, source="some.pth")
    assert same(model.state_dict(), before)
    load_strictly(model, {key: value.half() for key, value in before.items()}, source="some.pth")


@pytest.mark.parametrize("value", (float("nan"), float("inf"), -float("inf")))
def test_values_that_are_not_finite_are_refused_and_nothing_is_loaded(model, value):
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights = {key: tensor.clone() for key, tensor in before.items()}
    weights["head.weight"][3, 2] = value
    with pytest.raises(ValueError, match="some.pth has weights that are not finite .*1 of 9 tensors: head.weight"):
        load_strictly(model, weights, source="some.pth")
    assert same(model.state_dict(), before)


def test_weights_too_large_for_the_networks_dtype_and_negative_variances_are_refused(model):
    weights = dict(model.state_dict())
    weights["head.bias"] = torch.full((4,), 1e300, dtype=torch.float64)  # infinite in float32
    weights["norm.running_var"] = -torch.ones(6)
    with pytest.raises(ValueError, match="2 of 9 tensors: norm.running_var, head.bias"):
        load_strictly(model, weights, source="some.pth")


def test_a_network_larger_than_its_weights_is_refused_before_it_takes_memory(model):
    made = []

    def build():
        made.append(Network(width=60_000))
        return made[-1]

    with pytest.raises(ValueError, match=r"some.pth does not fit the network:\n.*misshapen \(7\)"):
        check_size(build, model.state_dict(), source="some.pth")
    assert [parameter.device.type for parameter in made[0].parameters()] == ["meta"] * 6


def test_weights_that_are_loaded_next_are_not_drawn_and_buffers_are_set(model):
    before = torch.get_rng_state()
    with RandomWeightsSkipped():
        other = Network()
        for draw in (nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.trunc_normal_):
            draw(other.head.weight)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(other.norm.running_var, torch.ones(6)) and torch.equal(other.norm.weight, torch.ones(6))
    load_strictly(other, model.state_dict(), source="some.pth")
    assert same(other.state_dict(), model.state_dict())
    Network()
    assert not torch.equal(torch.get_rng_state(), before)
