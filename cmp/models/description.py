"""What a file may say about a network: every key, class and value that is accepted, and nothing else.

A checkpoint describes its network by plain values (`CMP.describe`). Checkpoints come from strangers, so a description
only chooses among what is listed here: keys and classes by name, values by type and range. Nothing in it is looked up
in a registry, imported, or opened as a path.
"""

import math
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from cmp.flow import FlowQuantizer, JointFlowQuantizer, PolarFlowQuantizer
from cmp.models.backbones import AlexNetFCN, PyramidResNet, ResNet, TimmEncoder
from cmp.models.initialization import SCHEMES
from cmp.models.losses import DirectFlow, DiscreteLoss, RegressionLoss
from cmp.models.motion_encoder import MotionEncoder
from cmp.models.propagation_decoder import PropagationDecoder, SkipPropagationDecoder

MAX_CHANNELS = 2048  # of any layer; the published networks have 256 at most
MAX_NETS = 8  # propagation nets of a decoder
MAX_BINS = 4096  # of one softmax
MAX_HEADS = 64

# A check takes a value and returns it as the constructor wants it, or raises ValueError with what is expected.
Check = Callable[[object], Any]


def whole(low: int, high: int) -> Check:
    """A whole number in low..high."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return value

    return check


def number(low: float, high: float) -> Check:
    """A finite number in low..high."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}")
        return value

    return check


def one_of(*choices: object) -> Check:
    """One of these values; 1 is not True."""

    def check(value: object) -> object:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise ValueError(f"expected one of {', '.join(map(repr, choices))}")
        return value

    return check


def optional(inner: Check) -> Check:
    """None, or what the inner check accepts."""
    return lambda value: None if value is None else inner(value)


def several(inner: Check, low: int, high: int) -> Check:
    """A list or tuple of low..high values that the inner check accepts, as a list."""

    def check(value: object) -> list:
        if not isinstance(value, (list, tuple)) or not low <= len(value) <= high:
            expected = str(low) if low == high else f"{low} to {high}"
            raise ValueError(f"expected a list of {expected} values")
        return [inner(item) for item in value]

    return check


def _timm_name(value: object) -> str:
    """A plain name: timm also takes addresses and folders, which it tells by their punctuation."""
    if not isinstance(value, str) or not re.fullmatch(r"\w{1,100}(\.\w{1,100})?", value, re.ASCII):
        raise ValueError("expected the name of a model in timm (letters, digits, underscores and one dot)")
    return value


FLAG = one_of(True, False)
CHANNELS = whole(1, MAX_CHANNELS)
DEPTH = one_of(18, 34, 50, 101, 152)
SPACING = one_of("linear", "quadratic")
MAX_FLOW = number(1e-4, 1e5)  # px
WEIGHT = number(0, 1e9)  # of a loss
NETS = several(whole(1, 64), 1, MAX_NETS)
IGNORED = "ignored"  # a path that training started from; the checkpoint contains the weights, so it is not opened

# Per part: the classes that a description may name, and per class what may be said about it.
PARTS: dict[str, dict[type, dict[str, Check | str]]] = {
    "image_encoder": {
        ResNet: dict(depth=DEPTH, output_stride=one_of(8, 16, 32), out_channels=CHANNELS, pretrained=IGNORED),
        PyramidResNet: dict(depth=DEPTH, top_stride=one_of(4, 8, 16), out_channels=CHANNELS, pretrained=IGNORED),
        AlexNetFCN: dict(output_stride=one_of(8, 32), out_channels=CHANNELS, dropout=number(0, 1)),
        TimmEncoder: dict(name=_timm_name, top_stride=one_of(4, 8, 16), out_channels=CHANNELS, pretrained=IGNORED),
    },
    "motion_encoder": {
        MotionEncoder: dict(
            out_channels=CHANNELS,
            hidden_channels=CHANNELS,
            fill=one_of(None, "nearest", "inverse_distance", "attention"),
            flow_scale_px=MAX_FLOW,
            heads=whole(1, MAX_HEADS),
            still=FLAG,
        )
    },
    "decoder": {
        PropagationDecoder: dict(strides=NETS, width=CHANNELS, shortcut=FLAG),
        SkipPropagationDecoder: dict(strides=NETS, width=CHANNELS),
    },
    "quantizer": {
        FlowQuantizer: dict(num_bins=whole(1, MAX_BINS), max_flow_px=MAX_FLOW, spacing=SPACING),
        JointFlowQuantizer: dict(num_bins=whole(1, math.isqrt(MAX_BINS)), max_flow_px=MAX_FLOW, spacing=SPACING),
        PolarFlowQuantizer: dict(
            num_angles=whole(1, MAX_BINS), num_radii=whole(1, MAX_BINS), max_flow_px=MAX_FLOW, spacing=SPACING
        ),
        DirectFlow: {},
    },
    "loss": {
        DiscreteLoss: dict(
            ignore_invalid=FLAG,
            group_weights=optional(several(WEIGHT, 1, 2)),
            bin_weights=optional(several(optional(several(WEIGHT, 1, MAX_BINS)), 1, 2)),
            banded=FLAG,
        ),
        RegressionLoss: dict(kind=one_of("smooth_l1", "mse"), ignore_invalid=FLAG),
    },
}
OPTIONS: dict[str, Check] = dict(
    mean=several(number(-1e4, 1e4), 3, 3),
    std=several(number(1e-4, 1e4), 3, 3),
    init=one_of(*SCHEMES),
    guide_reach_px=optional(MAX_FLOW),
)


def checked_arguments(description: Mapping) -> dict[str, Any]:
    """The constructor's arguments of a `CMP` from a description, after every key and value was checked.

    Returns:
        A dict with a class under "type" for each part, without `pretrained`; mean, std, init and guide_reach_px where
        the description has them.

    Raises:
        ValueError: a part is missing or was given as a module, a key or class is not listed above, or a value is of
            another type or out of range; the message names it.
    """
    _check_keys("the network", description, {*PARTS, *OPTIONS, "encoder"})
    arguments: dict[str, Any] = {}
    for name, classes in PARTS.items():
        arguments[name] = checked_part(name, description.get(name), classes)
    for key, check in OPTIONS.items():
        if key in description:
            arguments[key] = _checked(key, description[key], check)
    return arguments


def checked_part(name: str, part: object, classes: Mapping[type, Mapping] | None = None) -> dict[str, object]:
    """The arguments of one part, its class under "type"; errors as `checked_arguments`."""
    known = {kind.__name__: kind for kind in classes or PARTS[name]}
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str) or part["type"] not in known:
        raise ValueError(f"cannot rebuild {name} from its description {shown(part)}: expected one of {sorted(known)}")
    if "given_as_module" in part:
        raise ValueError(f"cannot rebuild {name}: it was given as a module, whose arguments nobody noted")
    kind = known[part["type"]]
    checks = (classes or PARTS[name])[kind]
    _check_keys(name, part, {"type", *checks})
    arguments: dict[str, object] = {"type": kind}
    for key, check in checks.items():
        if key in part and callable(check):
            arguments[key] = _checked(f"{name}.{key}", part[key], check)
    return arguments


def _check_keys(name: str, described: Mapping, allowed: set[str]) -> None:
    unknown = [key for key in described if key not in allowed]
    if unknown:
        raise ValueError(
            f"cannot rebuild the network from its description: {name} has the unknown {shown(unknown)} "
            f"(known: {', '.join(sorted(allowed))})"
        )


def _checked(name: str, value: object, check: Check) -> object:
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(
            f"cannot rebuild the network from its description: {name}: {error}, got {shown(value)}"
        ) from None


def shown(value: object) -> str:
    """A value for a message, cut short however long or deep it is."""
    return reprlib.repr(value)
