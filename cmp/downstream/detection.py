"""Boxes and masks of objects: torchvision's Mask R-CNN with a feature pyramid, on a backbone.

Legend: N objects, H W image pixels.
"""

import contextlib
import importlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from cmp.downstream.backbone import RANDOM, load_encoder
from cmp.downstream.detection_data import read_annotations
from cmp.downstream.run import set_given
from cmp.models import BareEncoder

# Names of the first values of COCOeval's summary, in its order.
SUMMARY = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


class Pyramid(nn.Module):
    """Stages of a ResNet, and a feature pyramid over them."""

    def __init__(self, encoder: BareEncoder, out_channels: int = 256) -> None:
        super().__init__()
        self.encoder, self.out_channels = encoder, out_channels
        widths = encoder.feature_info.channels()
        self.fpn = FeaturePyramidNetwork(widths, out_channels, extra_blocks=LastLevelMaxPool())

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps of strides 4 to 64, under the names that torchvision's detectors pool from."""
        return self.fpn({str(i): stage for i, stage in enumerate(self.encoder(image))})


class DetectionNet(BaseModel):
    """Mask R-CNN whose whole backbone is fine-tuned, batch norms included.

    Args:
        encoder: resnet18 ... resnet152.
        num_classes: of objects, without background.
        backbone: file of the encoder's weights, or "random".
        short_side_px, long_side_px: images are resized to this short side, less where the long one would be too long.

    Raises:
        ValueError: the encoder has no stages, or the file does not fit.
        FileNotFoundError: the file does not exist.

    Source: He et al., "Mask R-CNN", ICCV 2017, with Lin et al.'s feature pyramid, CVPR 2017; as torchvision builds it.
    """

    loss_unit = "sum of Mask R-CNN's losses"

    def __init__(
        self,
        encoder: str = "resnet50",
        num_classes: int = 80,
        backbone: str = RANDOM,
        short_side_px: int = 800,
        long_side_px: int = 1333,
    ) -> None:
        super().__init__()
        if not encoder.startswith("resnet"):
            raise ValueError(
                f"a feature pyramid needs maps of strides 4 to 32: encoder must be a ResNet, got {encoder!r}"
            )
        bare, mean, std = load_encoder(backbone, encoder, output_stride=32)
        pyramid = Pyramid(bare)
        unit_mean, unit_std = ([value / 255 for value in values] for values in (mean, std))
        sizes = dict(min_size=short_side_px, max_size=long_side_px)
        self.net = MaskRCNN(pyramid, num_classes + 1, image_mean=unit_mean, image_std=unit_std, **sizes)
        self._description = dict(task="detection", encoder=encoder, num_classes=num_classes, backbone=str(backbone))
        self._description |= dict(mean=list(mean), std=list(std), **sizes)

    def forward(self, image: list[torch.Tensor], target: list[dict], image_id: list[int], mode: str = "loss") -> dict:
        """The five losses of a batch; images are (3, H, W) RGB 0..255, targets as `CocoInstances` gives them."""
        return self.net([i.float() / 255 for i in image], target)

    @torch.no_grad()
    def predict(self, image: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Per image boxes (N, 4) px, labels (N,) from 1, scores (N,) and masks (N, 1, H, W) in 0..1."""
        return self.net([i.float() / 255 for i in image])

    def describe(self) -> dict:
        """What a checkpoint states about this network."""
        return self._description


class CocoMetric(BaseMetric):
    """COCO's average precision of boxes and masks, in percent, by pycocotools: box_AP, box_AP50, ..., mask_AP, ...

    A value is NaN if the set has no object of that size.

    Args:
        annotations: the file that `CocoInstances` reads.
    """

    default_prefix = ""  # without a prefix, and without a warning about that

    def __init__(self, annotations: str) -> None:
        super().__init__(collect_device="gpu")  # through messages between processes, on CPUs too
        self.annotations = str(annotations)
        self.category_ids = sorted(read_annotations(annotations).getCatIds())

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep what was found in each image; masks are compressed immediately."""
        encode = importlib.import_module("pycocotools.mask").encode
        for image_id, found in zip(data_batch["image_id"], data_samples):
            entries = []
            for box, label, score, mask in zip(found["boxes"], found["labels"], found["scores"], found["masks"]):
                x0, y0, x1, y1 = box.tolist()
                code = encode(np.asfortranarray((mask[0] > 0.5).cpu().numpy().astype(np.uint8)))
                entries.append(
                    dict(
                        image_id=int(image_id),
                        category_id=self.category_ids[int(label) - 1],
                        score=float(score),
                        bbox=[x0, y0, x1 - x0, y1 - y0],
                        segmentation=dict(size=code["size"], counts=code["counts"].decode()),
                    )
                )
            self.results.append(entries)

    def compute_metrics(self, results: list[list[dict]]) -> dict[str, float]:
        """Evaluate all images together."""
        entries, truth = [entry for image in results for entry in image], read_annotations(self.annotations)
        cocoeval = importlib.import_module("pycocotools.cocoeval")
        metrics = {}
        for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
            if not entries:  # pycocotools cannot read an empty list
                metrics |= {f"{kind}_{name}": 0.0 for name in SUMMARY}
                continue
            # Without boxes, by which the size of masks would be classified.
            kept = entries if kind == "box" else [{k: v for k, v in e.items() if k != "bbox"} for e in entries]
            with contextlib.redirect_stdout(io.StringIO()):
                evaluation = cocoeval.COCOeval(truth, truth.loadRes(kept), iou_type)
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
            for name, value in zip(SUMMARY, evaluation.stats):
                metrics[f"{kind}_{name}"] = 100 * float(value) if value >= 0 else float("nan")
        return metrics | {"images": len(results), "detections": len(entries)}


def prepare_config(config: Config, *, data_dir: str, backbone: str) -> None:
    """Set the values of a detection config that the command line must give, in place; nothing is read."""
    set_given(config, data_dir=data_dir, backbone=backbone)
    val = config.val_dataloader.dataset
    config.val_evaluator.annotations = str(Path(val.root) / val.annotations.format(part=val.part))


def check_data(config: Config) -> None:
    """Open both parts of the data, and give the network as many classes as their annotation files have.

    Raises:
        FileNotFoundError, ValueError: as `CocoInstances`, for either part; the parts have different categories; or the
            config gives the network another number of classes.
    """
    train, val = (DATASETS.build(config[loader].dataset) for loader in ("train_dataloader", "val_dataloader"))
    if train.category_ids != val.category_ids:
        raise ValueError(f"{train.path} and {val.path} have different categories")
    wanted = config.model.setdefault("num_classes", len(train.names))
    if wanted != len(train.names):
        raise ValueError(f"{train.path}: {len(train.names)} categories, but model.num_classes is {wanted}")
