"""Check an export: its library loads the file, and the features that it computes are compared with ours.

Legend: B batch, C channels, h w feature cells.
"""

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.model import initialize
from torch import nn

from cmp.export.backbone import Backbone
from cmp.export.formats import detectron2_name
from cmp.models import TimmEncoder
from cmp.models.backbones import resnet_depth
from cmp.weights import read_weight_file

CLASSIFIER = {"fc.weight", "fc.bias"}
TOLERANCE = 1e-4  # largest feature difference, relative to the largest feature, that rounding explains


class LoadBack(NamedTuple):
    """What loading an exported file back showed."""

    library: str  # name and version of what loaded it; where nothing did, the reason
    missing: tuple[str, ...] = ()  # keys of the library's model that the file does not have
    largest_difference: float | None = None  # of features (or tensors) on one image; None: not checked
    largest_feature: float | None = None  # the scale of the difference; None: tensors were compared, all equal

    def __str__(self) -> str:
        if self.largest_difference is None:
            return f"not loaded back: {self.library}"
        if self.largest_feature is None:
            return f"loaded back in {self.library}: the same tensors and metadata, bit for bit"
        missing = f"missing only {', '.join(self.missing)}" if self.missing else "nothing missing"
        return (
            f"loaded back in {self.library}: {missing}; largest feature difference {self.largest_difference:.3g} "
            f"(largest feature {self.largest_feature:.3g})"
        )


class _Loaded(NamedTuple):
    """A file as a library loaded it."""

    library: str
    features: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]  # image to the last map of a `BareEncoder`, or to all
    missing: set[str] = set()


def load_back(path: Path, format: str, backbone: Backbone) -> LoadBack:
    """Load an export in the library it is for and compare what comes out.

    Args:
        path: the file, or the folder of "huggingface".
        format: one of `FORMATS`. "safetensors": the tensors themselves are compared; "detectron2": its names, without
            the library; all others: features of one image, computed by the library.
        backbone: what was meant to be written.

    Raises:
        ValueError: the file lacks or adds a key beyond the classifier, or features differ by more than rounding.
    """
    if format == "safetensors":
        return _same_tensors(path, backbone)
    if format == "detectron2":
        return _same_names(path, backbone)
    try:
        loaded = _LOADERS[format](path, backbone)
    except ImportError as error:
        return LoadBack(f"{error.name or format} is not installed here")
    image = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = loaded.features(image)
        ours = backbone.encoder(image)[-len(theirs) :]
    return _compared(path, loaded.library, loaded.missing, zip(theirs, ours, strict=True))


def _torchvision(path: Path, backbone: Backbone) -> _Loaded:
    library = importlib.import_module("torchvision")
    model = library.models.get_model(backbone.name, weights=None)
    label = f"torchvision {library.__version__}"
    missing = _load(model, path, label)
    body = nn.Sequential(*list(model.children())[:-2]).eval()  # all but pooling and classifier
    return _Loaded(label, lambda image: (body(image),), missing)


def _timm(path: Path, backbone: Backbone) -> _Loaded:
    library = importlib.import_module("timm")
    label = f"timm {library.__version__}"
    if isinstance(backbone.encoder.net, TimmEncoder):
        return _timms_own(path, backbone.encoder.net, label)
    model = library.create_model(backbone.name, pretrained=False).eval()
    missing = _load(model, path, label)
    return _Loaded(label, lambda image: (model.forward_features(image),), missing)


def _timms_own(path: Path, encoder: TimmEncoder, label: str) -> _Loaded:
    """A network of timm that the file must fit strictly, and that timm itself must be able to read from it."""
    timm, options = importlib.import_module("timm"), encoder.timm_options
    try:
        timm.create_model(encoder.name, num_classes=0, **options).load_state_dict(
            read_weight_file(path).content, strict=True
        )
    except RuntimeError as error:
        raise ValueError(f"{label} does not take {path.name}: {error}") from error
    model = timm.create_model(
        encoder.name,
        features_only=True,
        out_indices=encoder.taps[-1:],
        feature_cls="getter",
        pretrained=True,
        pretrained_cfg_overlay=dict(file=str(path)),
        **options,
    ).eval()
    return _Loaded(label, lambda image: (model(image)[-1],))


def _huggingface(path: Path, backbone: Backbone) -> _Loaded:
    library = importlib.import_module("timm")
    model = library.create_model(f"local-dir:{path}", pretrained=True, num_classes=0).eval()
    return _Loaded(f"timm {library.__version__}, from the folder", lambda image: (model.forward_features(image),))


def _mmlab(path: Path, backbone: Backbone) -> _Loaded:
    init = dict(type="Pretrained", checkpoint=str(path), prefix="backbone.")
    label, build = _mmlab_resnet()
    model = build(depth=resnet_depth(backbone.name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        initialize(model, init)  # what init_cfg does, without a line for every tensor
    lost = [key for key, value in backbone.weights.items() if not torch.equal(model.state_dict()[key], value)]
    if lost:
        raise ValueError(f"{label} does not take {path.name}: {len(lost)} tensors have not arrived, first {lost[:3]}")
    model.eval()  # a separate line, because OpenMMLab's returns None
    return _Loaded(label, lambda image: model(image)[-1:])


def _onnx(path: Path, backbone: Backbone) -> _Loaded:
    library = importlib.import_module("onnxruntime")
    session = library.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    if names != backbone.encoder.feature_info.module_name():
        raise ValueError(f"{path.name} puts out {names}")
    if session.get_modelmeta().custom_metadata_map != backbone.metadata:
        raise ValueError(f"{path.name} lost metadata")
    label = f"onnxruntime {library.__version__}"
    return _Loaded(label, lambda image: tuple(map(torch.from_numpy, session.run(None, {"image": image.numpy()}))))


_LOADERS = {
    "torchvision": _torchvision,
    "timm": _timm,
    "huggingface": _huggingface,
    "mmlab": _mmlab,
    "onnx": _onnx,
}


def _mmlab_resnet() -> tuple[str, Callable[..., nn.Module]]:
    """OpenMMLab's ResNet where it is installed; else torchvision's, which has the same names, loaded by mmengine."""
    try:
        library = importlib.import_module("mmpretrain")
        resnet = importlib.import_module("mmpretrain.models.backbones.resnet").ResNet
        return f"mmpretrain {library.__version__}", lambda **kwargs: resnet(style="pytorch", **kwargs)
    except Exception:  # not installed, or not for this version of torch: it raises almost anything then
        mmengine = importlib.import_module("mmengine")
        return f"mmengine {mmengine.__version__} (its Pretrained init, on torchvision's ResNet)", _NamedAsMMLab


class _NamedAsMMLab(nn.Module):
    """torchvision's ResNet, which has the same keys as OpenMMLab's, loaded by mmengine's initialization."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        network = importlib.import_module("torchvision").models.get_model(f"resnet{depth}", weights=None)
        for name, child in list(network.named_children())[:-2]:
            self.add_module(name, child)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the last map, as the only entry of a tuple."""
        for child in self.children():
            image = child(image)
        return (image,)


def _load(model: nn.Module, path: Path, label: str) -> set[str]:
    missing, unexpected = map(set, model.load_state_dict(read_weight_file(path).content, strict=False))
    if missing != CLASSIFIER or unexpected:
        raise ValueError(f"{label} does not take {path.name}: missing {missing}, unexpected {unexpected}")
    return missing


def _same_tensors(path: Path, backbone: Backbone) -> LoadBack:
    library, weights = importlib.import_module("safetensors"), backbone.weights
    file = read_weight_file(path)
    written = file.content
    if written.keys() != weights.keys() or file.metadata != backbone.metadata:
        raise ValueError(f"{path.name} lost keys or metadata: {sorted(written.keys() ^ weights.keys())}")
    if not all(torch.equal(written[key], weights[key]) for key in weights):
        raise ValueError(f"{path.name} lost or changed tensors on its way")
    return LoadBack(f"safetensors {library.__version__}", largest_difference=0.0)


def _same_names(path: Path, backbone: Backbone) -> LoadBack:
    written = read_weight_file(path).content["model"]
    expected = {detectron2_name(key): value for key, value in backbone.weights.items() if "num_batches" not in key}
    if written.keys() != expected.keys() or not all(torch.equal(written[key], expected[key]) for key in expected):
        raise ValueError(f"{path.name} lost or changed tensors on its way")
    return LoadBack("detectron2 is not run; the names in the file are those of its ResNet, the tensors are ours")


def _compared(path: Path, library: str, missing: set[str], pairs) -> LoadBack:
    pairs = [(theirs.double(), ours.double()) for theirs, ours in pairs]
    difference = max((ours - theirs).abs().max().item() for theirs, ours in pairs)
    largest = max(ours.abs().max().item() for _, ours in pairs)
    if not difference <= TOLERANCE * largest:
        raise ValueError(f"{library} computes other features from {path.name}: they differ by up to {difference:.3g}")
    return LoadBack(library, tuple(sorted(missing)), difference, largest)
