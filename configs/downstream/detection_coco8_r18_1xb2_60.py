"""Eight images of COCO on a CPU: Mask R-CNN with FPN on ResNet-18, 60 steps of 2 images. A check that the code runs.

Run:     python tools/yolo_to_coco.py COCO8SEG_DIR coco8, then
         python tools/evaluate.py detection THIS_FILE BACKBONE coco8
Expect:  an AP near 0: four images are far too few
Source:  ours
"""

from mmengine.config import read_base
from mmengine.optim import PolyLR
from torch.optim import AdamW

with read_base():
    from .._base_.runtime import *
    from ._base_.detection import *

sync_bn = None
model.update(encoder="resnet18", short_side_px=224, long_side_px=320)
train_dataloader.update(num_workers=0, persistent_workers=False, dataset=dict(part="train"))
val_dataloader.update(num_workers=0, dataset=dict(part="val"))
optim_wrapper["optimizer"] = dict(type=AdamW, lr=5e-4, weight_decay=1e-4)
param_scheduler = [dict(type=PolyLR, power=0.9, eta_min=0.0, begin=0, end=60, by_epoch=False)]
train_cfg.update(max_iters=60, val_interval=60)
default_hooks.update(logger=dict(interval=10), checkpoint=dict(interval=5000, max_keep_ckpts=2))
