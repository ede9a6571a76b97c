"""The call that other projects make on Zhan et al.'s demo code, implemented by this package: see docs/compat.md."""

from os import PathLike
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from cmp.checkpoints import read_peer_checkpoint
from cmp.inference import MotionPropagator
from cmp.models import AlexNetFCN, DirectFlow, SkipPropagationDecoder

MAX_CONFIG_BYTES = 1 << 20
ALEXNET_STRIDES = {"alexnet_fcn_32x": 32, "alexnet_fcn_8x": 8}


class CMP_demo(nn.Module):  # their name, so that their code runs unchanged
    """A network of Zhan et al. behind the wrapper that MOFA-Video and DisPose wrote for it.

    Args:
        config_path: the experiment's config.yaml; the weights are next to it in checkpoints/.
        iteration: of the file checkpoints/ckpt_iter_{iteration}.pth.tar.
        device: where to compute. Moves like any module; None is a GPU where there is one, as with theirs.

    Raises:
        FileNotFoundError: the config or the checkpoint is missing.
        ValueError: the config is not YAML or lacks an entry that is read, or it does not fit the weights.

    The entries model.module.image_encoder, flow_decoder, nbins and fmax are read. decoder_combo is not: their code
    builds the skip decoder with 1, 2, 4 and 8 whatever its value, and the weights show the rest.
    """

    def __init__(
        self, config_path: str | PathLike, iteration: int, *, device: str | torch.device | None = None
    ) -> None:
        super().__init__()
        config_path = Path(config_path)
        module = _read_module_config(config_path)
        checkpoint = read_peer_checkpoint(config_path.parent / "checkpoints" / f"ckpt_iter_{iteration}.pth.tar")
        network = checkpoint.network(
            alexnet_stride=ALEXNET_STRIDES.get(module["image_encoder"], 32), max_flow_px=float(module["fmax"])
        )
        encoder = "alexnet_fcn" if isinstance(network.image_encoder, AlexNetFCN) else network.image_encoder.name
        if not str(module["image_encoder"]).startswith(encoder):
            raise ValueError(
                f"{config_path} states image_encoder {module['image_encoder']}, the weights are of {encoder}"
            )
        skips = isinstance(network.decoder, SkipPropagationDecoder)
        if ("Skip" in str(module["flow_decoder"])) != skips:
            raise ValueError(
                f"{config_path} states flow_decoder {module['flow_decoder']}, the weights are of one "
                f"{'with' if skips else 'without'} skip layers"
            )
        if isinstance(network.quantizer, DirectFlow) or network.quantizer.num_bins != module["nbins"]:
            raise ValueError(
                f"{config_path} states nbins {module['nbins']}, "
                f"the weights have {len(network.decoder.head.weight) / 2:g}"
            )
        self.propagator = MotionPropagator(network, normalize="unit")
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.to(device)

    def run(self, image: torch.Tensor, sparse: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Dense flow from maps.

        Args:
            image: (N, 3, H, W) floating in 0..1. N equal images, a frame repeated for its guidance sets, are encoded
                once.
            sparse: (N, 2, H, W) px.
            mask: (N, 2, H, W), both channels equal (or (N, 1, H, W)).

        Returns:
            (N, 2, H, W) px in the image's dtype, on the image's device.

        Raises:
            ValueError: as `MotionPropagator.predict_dense`.
        """
        return self.propagator.predict_dense(image, sparse, mask).to(image)

    forward = run


def _read_module_config(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"no such config: {path}")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes: at most {MAX_CONFIG_BYTES} are read as a config")
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from error
    try:
        module = dict(config["model"]["module"])
        missing = [key for key in ("image_encoder", "flow_decoder", "nbins", "fmax") if key not in module]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a config of Zhan et al.: there is no model.module in it") from error
    if missing:
        raise ValueError(f"{path} is not a config of Zhan et al.: model.module lacks {missing}")
    wanted: dict[str, Any] = {"image_encoder": str, "flow_decoder": str, "nbins": int, "fmax": (int, float)}
    for key, kind in wanted.items():
        if not isinstance(module[key], kind) or isinstance(module[key], bool):
            raise ValueError(f"{path}: model.module.{key} must be {'text' if kind is str else 'a number'}")
    if not 0 < module["fmax"] <= 1e5:
        raise ValueError(f"{path}: model.module.fmax must be above 0 and at most 1e5, got {module['fmax']}")
    return module
