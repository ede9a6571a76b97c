"""What the wrapper adds to a plain network, and that checkpoints do not show it."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from torch import nn

from cmp.engine.trained_model import MovedBatch, TrainedModel, build_trained_model, unwrapped
from cmp.weights import load_strictly


class Line(nn.Module):
    """Predicts slope * x; its loss is the mean of what is left of y."""

    def __init__(self, slope=0.0, part=None):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(float(slope)))
        self.norm = nn.BatchNorm1d(3)
        self.part = part

    def forward(self, x, y, mode="tensor", **_):
        return {"loss": (y - self.slope * x).mean()} if mode == "loss" else self.slope * x


class Old(BaseModel):
    """A network that is mmengine's kind already."""

    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor)

    def forward(self, **_):
        return {}


class Half(nn.Module):
    def forward(self, batch):
        return {**batch, "x": batch["x"] / 2}


def test_a_state_dict_has_the_networks_own_keys_in_its_order():
    network = Line(2)
    trained = TrainedModel(network)
    assert list(trained.state_dict()) == list(network.state_dict()) == [
        "slope", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked",
    ]  # fmt: skip
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in trained.state_dict().items())
    assert set(trained.state_dict()._metadata) >= {"norm"}


def test_a_networks_state_dict_loads_into_the_wrapper_and_back():
    saved, trained = Line(3).state_dict(), TrainedModel(Line())
    trained.load_state_dict(saved)
    assert trained.network.slope == 3
    load_strictly(trained, Line(4).state_dict(), source="a file")
    assert trained.network.slope == 4
    network = Line()
    network.load_state_dict(trained.state_dict())
    assert network.slope == 4
    with pytest.raises(ValueError, match="missing .*slope"):
        load_strictly(trained, {key: value for key, value in saved.items() if key != "slope"}, source="a file")


def test_an_average_of_a_wrapped_network_has_its_keys_after_its_own_prefix():
    trained = TrainedModel(Line(1))
    average = ExponentialMovingAverage(trained, momentum=0.5, update_buffers=True)
    average.update_parameters(trained)
    trained.network.slope.data.fill_(3)
    average.update_parameters(trained)
    assert average.module.state_dict()["slope"] == 2 and "module.norm.weight" in average.state_dict()
    average.load_state_dict(average.state_dict() | {"module.slope": torch.tensor(7.0)})
    assert average.module.network.slope == 7 and trained.network.slope == 3
    again = copy.deepcopy(trained)
    again.load_state_dict(Line(5).state_dict())
    assert again.network.slope == 5 and trained.network.slope == 3


def test_a_step_moves_the_batch_transforms_it_and_updates_the_weights():
    trained = TrainedModel(Line(1), Half())
    wrapper = OptimWrapper(torch.optim.SGD(trained.parameters(), lr=1.0))
    batch = dict(x=torch.tensor([4.0, 8.0]), y=torch.tensor([1.0, 1.0]), name=["a", "b"])
    logs = trained.train_step(batch, wrapper)
    assert logs["loss"] == -2 and trained.network.slope == 4  # x is halved: the mean of 1 - 2 and 1 - 4; slope 1 + 3
    assert batch["x"].tolist() == [4, 8]
    assert trained(x=torch.tensor(2.0), y=None) == 8


def test_a_batch_goes_to_the_device_before_the_transform():
    seen = []
    moved = MovedBatch(lambda batch: seen.append(batch["x"].device.type) or batch).to("meta")
    assert moved(dict(x=torch.ones(2), name="a"))["x"].device.type == "meta" and seen == ["meta"]


def test_a_config_may_name_classes_by_dotted_names_and_a_transform():
    config = ConfigDict(type=Line, slope=2, part=dict(type="torch.nn.ReLU"), data_preprocessor=dict(type=Half))
    trained = build_trained_model(config)
    assert isinstance(trained, TrainedModel) and isinstance(unwrapped(trained), Line)
    assert trained.network.part == {"type": nn.ReLU} and trained.network.slope == 2
    assert isinstance(trained.data_preprocessor.transform, Half)
    assert config.part.type == "torch.nn.ReLU" and "data_preprocessor" in config  # not written to
    for wrong in ("torch.nn.NoSuchLayer", "no_such_package.Layer"):
        with pytest.raises(ValueError, match=f"model.part.type: there is no class '{wrong}'"):
            build_trained_model(dict(type=Line, part=dict(type=wrong)))


def test_what_has_a_training_step_is_not_wrapped():
    old = Old()
    assert build_trained_model(old) is old and unwrapped(old) is old
    half = build_trained_model(dict(type=Old, data_preprocessor=dict(type=MovedBatch)))
    assert isinstance(half, Old) and isinstance(half.data_preprocessor, MovedBatch)
    assert isinstance(build_trained_model(Line()), TrainedModel)
