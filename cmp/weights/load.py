"""Load weights into a network: every key must fit, and every value must be finite."""

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# What the constructors of layers, and `torch.nn.init`, draw weights with.
_DRAWS = (
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    torch.Tensor.erfinv_,  # makes uniform numbers normal
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
)


class RandomWeightsSkipped(TorchFunctionMode):
    """A context in which networks are built without drawing random weights, which takes longer than loading others.

    The weights contain whatever was in memory, so all of them must be loaded next, as `load_strictly` does. Buffers and
    constant weights are set as always, and torch's generator is left as it is.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def load_strictly(model: nn.Module, state_dict: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Load weights into a model in place; only batch norms' `num_batches_tracked`, which nothing reads, may be missing.

    Args:
        model: receives the weights.
        state_dict: its keys and shapes; values are copied.
        source: the file's name, for the error.

    Raises:
        ValueError: keys are missing, left over or misshapen, weights are whole numbers or truth values, or values are
            not finite or a variance is negative: all are listed, and the model is left as it was.
    """
    check_fit(model, state_dict, source=source)
    check_finite(model, state_dict, source=source)
    model.load_state_dict(state_dict, strict=False)


def check_fit(model: nn.Module, state_dict: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Compare keys and shapes as `load_strictly` does; the model may be on the meta device, without memory.

    Raises:
        ValueError: keys are missing, left over or misshapen, or weights are whole numbers or truth values (quantized,
            or damaged: as floats they would be other weights): all are listed.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state_dict and not key.endswith(".num_batches_tracked")]
    extra = [key for key in state_dict if key not in own]
    misshapen = [
        f"{key}: {tuple(state_dict[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state_dict and state_dict[key].shape != own[key].shape
    ]
    other_kind = [
        f"{key}: {state_dict[key].dtype}, expected floats"
        for key in own
        if key in state_dict and own[key].is_floating_point() and not state_dict[key].is_floating_point()
    ]
    if missing or extra or misshapen or other_kind:
        lines = [f"{source} does not fit the network:"]
        found = ("missing", missing), ("left over", extra), ("misshapen", misshapen), ("not floats", other_kind)
        for what, keys in found:
            lines += [f"  {what} ({len(keys)}): " + ", ".join(keys)] if keys else []
        raise ValueError("\n".join(lines))


def check_finite(model: nn.Module, state_dict: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Look for values that are not finite in the model's dtype, and for negative variances.

    Raises:
        ValueError: there are any; the first tensors that have them are named.
    """
    own = model.state_dict()
    broken = [key for key in own if key in state_dict and not _usable(key, state_dict[key].to(own[key].dtype))]
    if broken:
        raise ValueError(
            f"{source} has weights that are not finite (NaN, infinite, or a negative variance), {len(broken)} of "
            f"{len(own)} tensors: {', '.join(broken[:5])}; take an earlier checkpoint"
        )


def check_size(build: Callable[[], nn.Module], state_dict: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Compare keys and shapes with a network before it takes memory: a few bytes can describe one of gigabytes.

    Raises:
        ValueError: as `check_fit`, or as build.
    """
    try:
        with torch.device("meta"), RandomWeightsSkipped():
            model = build()
    except (NotImplementedError, RuntimeError):  # some operations in timm's networks cannot run without memory
        return
    check_fit(model, state_dict, source=source)


def _usable(key: str, value: torch.Tensor) -> bool:
    return bool(value.isfinite().all()) and not (key.endswith("running_var") and bool((value < 0).any()))
