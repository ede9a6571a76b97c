"""A network as the runner needs it: batches moved to its device, training steps, and the network's own state-dict keys.

A network is a plain `torch.nn.Module` with `forward(mode="loss", **batch) -> {"loss": scalar}`. It knows nothing of
mmengine; this wrapper adds what mmengine's runner asks for.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel, is_model_wrapper
from mmengine.registry import MODELS
from mmengine.utils import get_object_from_string
from torch import nn

PREFIX = "network."


class MovedBatch(BaseDataPreprocessor):
    """Move a batch to the network's device and, where there is a transform, pass it on to that.

    Args:
        transform: takes the batch on the device, a dict, and returns the one that the network receives, such as
            `cmp.models.DeviceGuidance`; None changes nothing.
    """

    def __init__(self, transform: Callable[[dict], dict] | None = None) -> None:
        super().__init__(non_blocking=True)  # from pinned memory, while the host goes on
        self.transform = transform

    def forward(self, data: dict, training: bool = False) -> dict:
        """The batch on the device; `training` is mmengine's and not used."""
        data = self.cast_data(data)
        return data if self.transform is None else self.transform(data)


class TrainedModel(BaseModel):
    """A network with `train_step`, as mmengine's runner calls it.

    Its state dict has the network's keys, without the name of the attribute that it is kept in, so that a checkpoint
    does not show that the network was wrapped.

    Args:
        network: `forward(mode="loss", **batch)` returns {"loss": scalar}.
        transform: see `MovedBatch`.
    """

    def __init__(self, network: nn.Module, transform: Callable[[dict], dict] | None = None) -> None:
        super().__init__(data_preprocessor=MovedBatch(transform))
        self.network = network
        self.register_state_dict_post_hook(_remove_prefix)
        self.register_load_state_dict_pre_hook(_add_prefix)

    def init_weights(self) -> None:
        """Do nothing: a network is initialized where it is built. mmengine's writes a line per parameter to the log."""

    def forward(self, mode: str = "tensor", **batch: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """The network's `forward`."""
        return self.network(mode=mode, **batch)


def _remove_prefix(module: nn.Module, state_dict: dict, prefix: str, *_) -> None:
    """After a state dict was made, whose keys of this module start with `prefix`."""
    for entries in (state_dict, getattr(state_dict, "_metadata", {})):
        for key in [key for key in entries if key.startswith(prefix + PREFIX)]:
            entries[prefix + key[len(prefix + PREFIX) :]] = entries.pop(key)


def _add_prefix(module: nn.Module, state_dict: dict, prefix: str, *_) -> None:
    """Before a state dict is loaded, in place."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        state_dict[prefix + PREFIX + key[len(prefix) :]] = state_dict.pop(key)


def build_trained_model(model: nn.Module | Mapping) -> nn.Module:
    """Build what a config's `model` describes, as a module that the runner can train.

    Args:
        model: a module, or a dict with a class, or its dotted name, under "type". Dicts inside it may name their
            classes in the same way. "data_preprocessor", a dict of the same kind, is the transform of `MovedBatch`.

    Returns:
        A module that has `train_step` as it is; any other one in a `TrainedModel`.

    Raises:
        ValueError: a dotted name leads to no class.
    """
    transform = None
    if not isinstance(model, nn.Module):
        arguments = with_classes(model, "model")
        kind = arguments.get("type")
        if not (inspect.isclass(kind) and issubclass(kind, BaseModel)):
            transform = arguments.pop("data_preprocessor", None)
            transform = MODELS.build(transform) if isinstance(transform, Mapping) else transform
        model = MODELS.build(arguments)
    return model if hasattr(model, "train_step") else TrainedModel(model, transform)


def with_classes(value: Any, place: str) -> Any:
    """A copy of nested dicts and lists in which every dotted name under a "type" is replaced by what it leads to."""
    if isinstance(value, Mapping):
        copied = {key: with_classes(item, f"{place}.{key}") for key, item in value.items()}
        kind = copied.get("type")
        if isinstance(kind, str) and "." in kind:
            try:
                copied["type"] = get_object_from_string(kind)
            except ImportError:
                copied["type"] = None
            if copied["type"] is None:
                raise ValueError(f"{place}.type: there is no class {kind!r}")
        return copied
    if isinstance(value, (list, tuple)):
        return type(value)(with_classes(item, f"{place}.{i}") for i, item in enumerate(value))
    return value


def without_process_wrapper(model: nn.Module) -> nn.Module:
    """The model itself where several processes train it in a wrapper."""
    return model.module if is_model_wrapper(model) else model


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself: neither wrapped for several processes nor in a `TrainedModel`."""
    model = without_process_wrapper(model)
    return model.network if isinstance(model, TrainedModel) else model
