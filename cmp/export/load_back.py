"""Proof of an export: the file loaded by the library it is for, and its features compared with ours.

Legend: B batch, C channels, h w feature cells.
"""

import importlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from cmp.models.weight_file import read_weight_file

CLASSIFIER = {"fc.weight", "fc.bias"}
TOLERANCE = 1e-4  # largest feature difference, relative to the largest feature, that rounding explains


class LoadBack(NamedTuple):
    """What loading an exported file back showed."""

    library: str  # name and version; only the name where it is not installed
    missing: tuple[str, ...]  # what the library's model has and the file has not
    largest_difference: float | None  # of features (or tensors) on one image; None: not checked
    largest_feature: float | None  # what to hold the difference against

    def __str__(self) -> str:
        if self.largest_difference is None:
            return f"not loaded back: {self.library} is not installed here"
        missing = f"missing only {', '.join(self.missing)}" if self.missing else "nothing missing"
        return (
            f"loaded back in {self.library}: {missing}; largest feature difference {self.largest_difference:.3g} "
            f"(largest feature {self.largest_feature:.3g})"
        )


def load_back(path: Path, format: str, name: str, encoder: nn.Module, weights: dict[str, torch.Tensor]) -> LoadBack:
    """Load an exported file in the library it is for and compare.

    Args:
        path: the file.
        format: "torchvision" or "timm": their network of that name is built and its last features compared with the
            encoder's; "safetensors": the tensors themselves are compared.
        name: the network's name in the library.
        encoder: ours, in eval mode, with output stride 32.
        weights: what was meant to be written.

    Raises:
        ValueError: the file lacks or adds a key beyond the classifier, or features differ by more than rounding.
    """
    try:
        library = importlib.import_module(format)
    except ImportError:
        return LoadBack(format, (), None, None)
    label = f"{format} {library.__version__}"
    state_dict = read_weight_file(path)
    if format == "safetensors":
        if state_dict.keys() != weights.keys():
            raise ValueError(f"{path.name} lost keys: {sorted(state_dict.keys() ^ weights.keys())}")
        missing = set()
        pairs = [(state_dict[key], weights[key]) for key in weights]
    else:
        if format == "torchvision":
            model = library.models.get_model(name, weights=None)
            features = nn.Sequential(*list(model.children())[:-2])  # all but pooling and classifier
        else:
            model = library.create_model(name, pretrained=False)
            features = model.forward_features
        missing, unexpected = map(set, model.load_state_dict(state_dict, strict=False))
        if missing != CLASSIFIER or unexpected:
            raise ValueError(f"{label} does not take {path.name}: missing {missing}, unexpected {unexpected}")
        image = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
        model.eval()
        with torch.no_grad():
            pairs = [(features(image), encoder(image).stage4)]  # (1, C, h, w)
    difference = max((ours.double() - theirs.double()).abs().max().item() for theirs, ours in pairs)
    largest = max(ours.double().abs().max().item() for _, ours in pairs)
    if not difference <= TOLERANCE * largest:
        raise ValueError(f"{label} computes other features from {path.name}: they differ by up to {difference:.3g}")
    return LoadBack(label, tuple(sorted(missing)), difference, largest)
