"""The initial weights of a network."""

from torch import nn

SCHEMES = ("published", "default")


def initialize(model: nn.Module, scheme: str) -> None:
    """Redraw all weights of a model in place, from torch's global generator.

    Args:
        model: any module; only convolutions and batch norms are changed.
        scheme: "published": convolutions Xavier-normal with gain 0.02, batch norm weights N(1, 0.02), biases 0; the
            published schedules (learning rate 0.1, no warm-up) ran with it. "default": every layer keeps what its
            constructor drew.

    Raises:
        ValueError: scheme is unknown.

    Source: the code of Zhan et al., CVPR 2019. There it also overwrote pretrained encoders; in `CMP` it does not.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"init must be 'published' or 'default', got {scheme!r}")
    if scheme == "default":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight, gain=0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
