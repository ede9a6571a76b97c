"""The content of exported files, in the layout that each library reads."""

import io
import json
import re
import warnings
from collections.abc import Callable, Mapping

import safetensors.torch
import torch

from cmp.export.backbone import UNKNOWN, Backbone
from cmp.export.model_card import model_card
from cmp.models import ResNet, TimmEncoder

FORMATS = ("torchvision", "timm", "mmlab", "detectron2", "safetensors", "onnx", "huggingface")
OURS_TOO = ("safetensors", "onnx")  # can contain networks that other libraries do not have
TIMMS_OWN = ("timm", "safetensors")  # for the encoders that come from timm
WEIGHTS, CARD = "model.safetensors", "README.md"  # names inside a Hugging Face folder


# Suffixes by which everybody expects another kind of file.
OTHER_KINDS = (".png", ".jpg", ".jpeg", ".gif", ".mp4", ".json", ".md", ".txt", ".py", ".html", ".npz", ".pt2")


def check_suffix(format: str, suffix: str) -> None:
    """Raise ValueError if the format is unknown or a file (a folder for "huggingface") of this suffix would mislead."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}, got {format!r}")
    if format in ("safetensors", "onnx") and suffix in {".pth", ".pt", ".tar", ".bin", ".safetensors", ".onnx"} - {
        f".{format}"
    }:
        raise ValueError(f"a {format} file under the suffix {suffix!r} misleads its readers")
    if suffix in (".safetensors", ".onnx") and format in ("mmlab", "detectron2"):
        raise ValueError(f"{format} reads torch files: choose a name that ends in .pth, got {suffix!r}")
    if suffix == ".onnx" and format in ("torchvision", "timm"):
        raise ValueError(f"{format} reads torch files or safetensors: choose .pth or .safetensors, got {suffix!r}")
    if suffix.lower() in OTHER_KINDS and format != "huggingface":
        raise ValueError(f"OUT must end in a suffix of the format {format}, got {suffix!r}")
    if format == "huggingface" and suffix in (".pth", ".pt", ".safetensors", ".onnx"):
        raise ValueError(f"huggingface is a folder, got a file name that ends in {suffix!r}")


def export_content(backbone: Backbone, format: str, suffix: str) -> dict[str, bytes]:
    """What an export consists of.

    Args:
        backbone: what to export.
        format: one of `FORMATS`.
        suffix: of the file asked for; ".safetensors" chooses that container for torchvision and timm.

    Returns:
        Content by what is added to the name asked for: "" for the file itself, ".json" for its metadata where the file
        cannot contain it, ".md" for its model card; for "huggingface" "/name" for each file of the folder. The last
        one is the weights.

    Raises:
        ValueError: the format cannot contain this encoder, or does not allow this suffix.
    """
    check_suffix(format, suffix)
    if isinstance(backbone.encoder.net, TimmEncoder):
        if format not in TIMMS_OWN:
            raise ValueError(f"{backbone.name} is timm's: export it as one of {TIMMS_OWN}, not {format}")
    elif not isinstance(backbone.encoder.net, ResNet) and format not in OURS_TOO:
        raise ValueError(f"{format} does not have {backbone.name}: export it as one of {OURS_TOO}")

    card = model_card(backbone, format, suffix).encode()
    if format == "huggingface":
        return {
            f"/{CARD}": card,
            "/config.json": _json(_timm_config(backbone)),
            f"/{WEIGHTS}": _safetensors_bytes(backbone.weights, backbone.metadata),
        }
    if format == "onnx":
        return {".md": card, "": _onnx_bytes(backbone)}
    if format == "safetensors" or suffix == ".safetensors":
        return {".md": card, "": _safetensors_bytes(backbone.weights, backbone.metadata)}
    layouts: dict[str, Callable[[Backbone], dict]] = {"mmlab": _mmlab, "detectron2": _detectron2}
    content = layouts[format](backbone) if format in layouts else backbone.weights
    return {".md": card, ".json": _json(backbone.metadata), "": _torch_bytes(content)}


def detectron2_name(key: str) -> str:
    """detectron2's name of one of torchvision's ResNet keys: stem, res2 to res5, each norm under its convolution.

    Source: the names in detectron2's ResNets.
    """
    key = re.sub(r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}", key)
    if not key.startswith("res"):
        key = f"stem.{key}"
    key = re.sub(r"\bbn(\d)\b", r"conv\1.norm", key)
    return key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def _mmlab(backbone: Backbone) -> dict:
    """OpenMMLab's checkpoints: keys of the whole model, of which `prefix="backbone."` takes the backbone's."""
    return {
        "meta": dict(backbone.metadata),
        "state_dict": {f"backbone.{key}": value for key, value in backbone.weights.items()},
    }


def _detectron2(backbone: Backbone) -> dict:
    """detectron2's checkpoints; its frozen norms do not have a batch counter."""
    kept = {key: value for key, value in backbone.weights.items() if not key.endswith("num_batches_tracked")}
    return {
        "model": {detectron2_name(key): value for key, value in kept.items()},
        "__author__": backbone.metadata["written_by"],
        "matching_heuristics": True,
    }


def _timm_config(backbone: Backbone) -> dict:
    """The config.json that timm and transformers read together with model.safetensors."""
    known = backbone.metadata["mean"] != UNKNOWN
    # timm's values are for images 0..1
    mean, std = (
        ([v / 255 for v in json.loads(backbone.metadata[name])] for name in ("mean", "std")) if known else (None, None)
    )
    pretrained = {
        "input_size": [3, 224, 224],
        "fixed_input_size": False,
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "num_classes": 0,
        "pool_size": [7, 7],
        "first_conv": "conv1",
        "classifier": "fc",
    }
    if known:
        pretrained |= {"mean": mean, "std": std}
    return {
        "architecture": backbone.name,
        "num_classes": 0,
        "num_features": backbone.encoder.feature_info.channels()[-1],
        "pretrained_cfg": pretrained,
    }


def _onnx_bytes(backbone: Backbone) -> bytes:
    """The encoder as an ONNX graph of any batch size, height and width, with the metadata in it."""
    dynamic = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        try:
            program = torch.onnx.export(
                backbone.encoder,
                (torch.zeros(2, 3, 96, 128),),
                dynamo=True,
                input_names=["image"],
                output_names=backbone.encoder.feature_info.module_name(),
                dynamic_shapes={"image": {0: dynamic, 2: dynamic, 3: dynamic}},
                verbose=False,
            )
        except ImportError as error:
            raise ValueError(f"format onnx needs the extra: pip install cmp-motion[onnx] ({error})") from error
    model = program.model_proto
    for key, value in sorted(backbone.metadata.items()):
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString(deterministic=True)


def _torch_bytes(content: dict) -> bytes:
    buffer = io.BytesIO()  # torch.save into a file would put the file's name into it
    torch.save(content, buffer)
    return buffer.getvalue()


def _json(content: Mapping) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _safetensors_bytes(weights: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """The file's content with its metadata sorted: the library puts them in another order on every call."""
    content = safetensors.torch.save(weights, metadata=metadata)
    end = 8 + int.from_bytes(content[:8], "little")  # a header's length, the header as JSON, the tensors
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[end:]
