"""The encoder that a task is built on: freshly drawn, or with the weights of any of our files."""

from cmp.checkpoints import read_checkpoint
from cmp.models import BareEncoder
from cmp.models.cmp import PUBLISHED_MEAN, PUBLISHED_STD

RANDOM = "random"


def load_encoder(
    backbone: str, name: str | None = None, output_stride: int | None = None
) -> tuple[BareEncoder, tuple[float, ...], tuple[float, ...]]:
    """Build an encoder without its projection, in training mode.

    Args:
        backbone: an export (torchvision, timm, mmlab or safetensors format), a whole checkpoint, ours or Zhan et al.'s,
            or "random": freshly drawn weights.
        name: the encoder to build, see `build_encoder`. None: the one in the file.
        output_stride: see `build_encoder`.

    Returns:
        The encoder, and mean and std: images are fed as (RGB 0..255 - mean) / std. They are the file's; where it states
        none, ImageNet's, which the published recipes use.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is broken or contains another encoder, or the encoder is not offered with this stride.
        ModuleNotFoundError: the encoder is timm's, which is not installed.
    """
    if str(backbone) == RANDOM:
        if name is None:
            raise ValueError(f"an encoder with random weights needs a name, got {name}")
        return BareEncoder(name, output_stride), PUBLISHED_MEAN, PUBLISHED_STD
    checkpoint = read_checkpoint(backbone)
    if name is not None and checkpoint.encoder_name != name:
        raise ValueError(f"{backbone} contains a {checkpoint.encoder_name}, but the encoder asked for is a {name}")
    mean, std = checkpoint.mean or PUBLISHED_MEAN, checkpoint.std or PUBLISHED_STD
    return checkpoint.encoder(output_stride).train(), mean, std
