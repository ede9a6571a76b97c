"""The image encoder out of a checkpoint, in a file that other libraries load.

What is written is under torchvision's own keys, without prefix, projection (`conv5`), decoder or optimizer; timm's
ResNets have the same keys. Dilation leaves no trace in weights: the file is the ordinary network, and features are
compared with it at stride 32.
"""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch

from cmp.engine.checkpoint import load_strictly, read_checkpoint
from cmp.engine.peer_checkpoint import is_peer_state_dict, read_peer_checkpoint
from cmp.export.load_back import LoadBack, load_back
from cmp.models import AlexNetFCN, ResNet
from cmp.models.backbones import recognise_encoder
from cmp.models.cmp import PUBLISHED_MEAN, PUBLISHED_STD
from cmp.version import __version__

FORMATS = ("torchvision", "timm", "safetensors")
PREFIX = "image_encoder."
UNKNOWN = "unknown"


class Backbone(NamedTuple):
    """An image encoder with weights, and what its user must know."""

    name: str  # resnet18 ... resnet152, alexnet_fcn
    encoder: torch.nn.Module  # eval mode; a ResNet has output stride 32, as other libraries build it
    metadata: dict[str, str]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """State dict without the projection, float32."""
        weights = self.encoder.state_dict()
        return {k: v.contiguous() for k, v in weights.items() if not k.startswith(self.encoder.ABOVE)}


class ExportReport(NamedTuple):
    """What an export did."""

    path: Path
    sidecar: Path | None  # the metadata, where the file itself has no place for it
    written: bool  # False: the same file was there already
    backbone: Backbone
    load_back: LoadBack


def read_backbone(path: str | PathLike) -> Backbone:
    """Take the image encoder out of a checkpoint, ours or the authors'.

    Args:
        path: any file that `read_checkpoint` reads, with keys under `image_encoder.`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, holds no image encoder or an unknown or incomplete one, or weights that are not
            finite.
    """
    checkpoint = read_checkpoint(path)
    weights = {k.removeprefix(PREFIX): v for k, v in checkpoint.state_dict.items() if k.startswith(PREFIX)}
    weights = {k: v for k, v in weights.items() if not k.startswith("laterals.")}  # above a PyramidResNet's backbone
    if not weights:
        raise ValueError(f"{path} holds no image encoder: no key starts with {PREFIX!r}")
    try:
        name = recognise_encoder(weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if name == "alexnet_fcn":
        encoder = AlexNetFCN(out_channels=_out_channels(weights, AlexNetFCN))
    else:
        depth = int(name.removeprefix("resnet"))
        encoder = ResNet(depth, output_stride=32, out_channels=_out_channels(weights, ResNet))
    load_strictly(encoder, weights, source=f"{path} ({name})")
    broken = [key for key, value in encoder.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{path} has weights that are not finite: {broken}")

    meta = checkpoint.meta
    if is_peer_state_dict(checkpoint.state_dict) and not meta:
        published = {"mean": PUBLISHED_MEAN, "std": PUBLISHED_STD}
        meta = {"iter": read_peer_checkpoint(path).step, "cmp": published}
    return Backbone(name, encoder.eval(), _metadata(name, meta))


def export_backbone(
    checkpoint: str | PathLike, out: str | PathLike, format: str, *, overwrite: bool = False
) -> ExportReport:
    """Write the image encoder of a checkpoint for another library, after proving that the library loads it.

    Args:
        checkpoint: ours or the authors'.
        out: file to write. A name that ends in .safetensors, or format "safetensors", gives a safetensors file with the
            metadata in it; any other a torch file of a plain state dict, with the metadata beside it in `out`.json.
        format: "torchvision", "timm" or "safetensors".
        overwrite: replace an existing file that differs. An identical one is left alone either way.

    Returns:
        What was written and what loading it back showed. Where the library is not installed, nothing is claimed.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        FileExistsError: out exists and differs.
        ValueError: the checkpoint cannot be exported to this format, or loading back fails; nothing is written then.
    """
    out = Path(out)
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}, got {format!r}")
    if format == "safetensors" and out.suffix in (".pth", ".pt", ".tar", ".bin"):
        raise ValueError(f"a safetensors file under a torch file's name misleads its readers: {out}")
    backbone = read_backbone(checkpoint)
    if backbone.name == "alexnet_fcn" and format != "safetensors":
        raise ValueError(f"{format} has no AlexNet with batch normalisation: export alexnet_fcn as safetensors")

    if format == "safetensors" or out.suffix == ".safetensors":
        content = _safetensors_bytes(backbone.weights, backbone.metadata)
        sidecar = None
    else:
        buffer = io.BytesIO()  # torch.save into a file would put the file's name into it
        torch.save(backbone.weights, buffer)
        content = buffer.getvalue()
        sidecar = out.with_name(out.name + ".json")
    files = {out: content}
    if sidecar:
        files[sidecar] = (json.dumps(backbone.metadata, indent=2) + "\n").encode()

    differing = [path for path in files if path.exists() and path.read_bytes() != files[path]]
    if differing and not overwrite:
        raise FileExistsError(f"{differing[0]} exists and differs from what would be written")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        for path in files:
            _write_synced(Path(folder) / path.name, files[path])
        proof = load_back(Path(folder) / out.name, format, backbone.name, backbone.encoder, backbone.weights)
        written = not all(path.exists() and path not in differing for path in files)
        if written:
            for path in reversed(files):  # the weights last: where they are, everything is
                os.replace(Path(folder) / path.name, path)
    return ExportReport(out, sidecar, written, backbone, proof)


def _out_channels(weights: Mapping[str, torch.Tensor], encoder: type) -> int:
    projection = weights.get(f"{encoder.ABOVE[0]}weight")
    return 256 if projection is None else len(projection)  # one that is missing is reported with all that is missing


def _metadata(name: str, meta: Mapping) -> dict[str, str]:
    """What the user of the weights must know, as strings; "unknown" where the checkpoint does not say."""
    network = meta.get("cmp") if isinstance(meta.get("cmp"), Mapping) else {}
    config = meta.get("cfg") or (json.dumps(network, sort_keys=True) if "image_encoder" in network else None)
    known = "mean" in network and "std" in network
    encoder = network.get("image_encoder")
    encoder = encoder if isinstance(encoder, Mapping) else {}
    stride = encoder.get("output_stride", encoder.get("top_stride"))
    metadata = {
        "format": "pt",
        "encoder": name,
        "input": "RGB, values 0..255, normalised as (x - mean) / std" if known else UNKNOWN,
        "mean": json.dumps(list(network["mean"])) if known else UNKNOWN,
        "std": json.dumps(list(network["std"])) if known else UNKNOWN,
        "pretrained_with": "conditional motion propagation",
        "pretraining_stride": stride,
        "steps": meta.get("iter"),
        "config": meta.get("experiment_name"),
        "config_sha256": hashlib.sha256(config.encode()).hexdigest() if isinstance(config, str) else None,
        "written_by": f"cmp-motion {__version__}",
    }
    return {key: UNKNOWN if value is None else str(value) for key, value in metadata.items()}


def _safetensors_bytes(weights: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """The file's content with its metadata sorted: the library puts them in another order on every call."""
    content = safetensors.torch.save(weights, metadata=metadata)
    end = 8 + int.from_bytes(content[:8], "little")  # a header's length, the header as JSON, the tensors
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[end:]


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
