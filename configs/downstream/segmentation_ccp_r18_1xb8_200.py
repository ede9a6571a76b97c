"""CCP on a CPU: FCN on ResNet-18 at stride 8, quarter-size images, 200 steps of 8 crops in one process.

Run:     python tools/evaluate.py segmentation THIS_FILE BACKBONE CCP_DIR [--frozen]
Expect:  docs/downstream.md
Source:  ours, small enough to compare backbones at an equal budget within minutes. Images are seen at about a
         quarter of their size and evaluated at their full size; a linear head in both modes.
"""

from mmengine.config import read_base
from torch.optim import AdamW

with read_base():
    from .._base_.runtime import *
    from ._base_.ccp import *
    from ._base_.segmentation import *

model.update(encoder="resnet18", hidden_channels=0, num_classes=len(NAMES))
train_dataloader.update(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(TRAIN, scale_range=(0.2, 0.4), crop_hw=(144, 96)),
)
val_dataloader.update(num_workers=0, dataset=VAL)
val_evaluator.update(names=NAMES)
optim_wrapper["optimizer"] = dict(type=AdamW, lr=1e-3, weight_decay=1e-4)
frozen.update({"optim_wrapper.optimizer.lr": 1e-2})
param_scheduler[0].update(end=200)
train_cfg.update(max_iters=200, val_interval=200)
val_cfg.update(scales=(0.25,))
default_hooks.update(logger=dict(interval=20), checkpoint=dict(interval=2000, max_keep_ckpts=2))
