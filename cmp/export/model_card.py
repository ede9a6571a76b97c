"""The page that comes with exported weights: what they are, how to load and feed them, what nobody has checked."""

import html
import re

from cmp.export.backbone import UNKNOWN, Backbone

_LOAD = {
    "torchvision": """import {reader}, torchvision
network = torchvision.models.{name}(weights=None)
network.load_state_dict({read}, strict=False)  # fc.* is missing: initialize it for your task""",
    "timm": """import timm
network = timm.create_model("{name}", pretrained=True, num_classes=0, pretrained_cfg_overlay=dict(file="FILE"))""",
    "mmlab": """backbone = dict(
    type="ResNet", depth={depth}, style="pytorch",
    init_cfg=dict(type="Pretrained", checkpoint="FILE", prefix="backbone."))
data_preprocessor = dict(mean={mean}, std={std}, bgr_to_rgb=True)""",
    "detectron2": """MODEL:
  WEIGHTS: FILE
  PIXEL_MEAN: {mean}
  PIXEL_STD: {std}
  RESNETS: {{DEPTH: {depth}, STRIDE_IN_1X1: false{res2}}}
INPUT:
  FORMAT: RGB""",
    "safetensors": """from safetensors.torch import load_file
weights = load_file("FILE")  # torchvision's keys; the metadata in the header states how to feed them""",
    "onnx": """import onnxruntime
session = onnxruntime.InferenceSession("FILE")
features = session.run(None, {{"image": image}})  # (B, 3, H, W) float32, normalized as below""",
    "huggingface": """import timm
network = timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=0)""",
}
_LANGUAGE = {"detectron2": "yaml"}


def model_card(backbone: Backbone, format: str, suffix: str = "") -> str:
    """Markdown in which FILE or FOLDER means where the user has put the export; its name ends in suffix."""
    about = backbone.metadata
    unknown = "[unknown: the checkpoint does not state it]"
    mean, std = (unknown if about[name] == UNKNOWN else _as_text(about[name]) for name in ("mean", "std"))
    reader, read = "torch", 'torch.load("FILE", weights_only=True)'
    if suffix == ".safetensors":
        reader, read = "safetensors.torch", 'safetensors.torch.load_file("FILE")'
    depth = backbone.name.removeprefix("resnet")
    res2 = ", RES2_OUT_CHANNELS: 64" if depth in ("18", "34") else ""  # detectron2 requires it there
    snippet = _LOAD[format].format(
        name=backbone.name, depth=depth, mean=mean, std=std, reader=reader, read=read, res2=res2
    )
    facts = "\n".join(f"| {key} | {_as_text(value)} |" for key, value in about.items() if key != "format")
    front = ""
    if format == "huggingface":  # what the hub lists the page under
        front = f"---\nlibrary_name: timm\ntags: [image-feature-extraction, {backbone.name}]\n---\n"
    return f"""{front}# {backbone.name}, pretrained by conditional motion propagation

An image encoder trained without labels: from one image and a few motion vectors it had to predict the motion of every
pixel (Zhan et al., "Self-Supervised Learning via Conditional Motion Propagation", CVPR 2019). It has no classifier.

## Load it

```{_LANGUAGE.get(format, "python")}
{snippet}
```

## Feed it

Images in RGB, values 0..255, normalized as (x - mean) / std with mean {mean} and std {std};
for values 0..1 divide both by 255. With any other input it works worse, and no error shows it.

## What is known about it

| | |
| --- | --- |
{facts}

Not known from the file: how good it is at your task, and on which videos it was trained. Fine-tune it and a randomly
initialized one, and compare, before you trust it.
"""


def _as_text(value: str) -> str:
    """A value of a checkpoint as text in Markdown: one line, no markup, no table cell or link, valid UTF-8."""
    line = " ".join(value.encode("utf-8", "backslashreplace").decode().split())
    line = html.escape(re.sub(r"[\\`*|~$]", r"\\\g<0>", line), quote=False)
    return re.sub(r"\](?=[(\[:])", r"\\]", line)
