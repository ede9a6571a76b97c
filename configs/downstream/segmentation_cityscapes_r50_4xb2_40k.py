"""Cityscapes, or any set in its folders, FCN on ResNet-50. 40k steps on 4 GPUs x 2 crops.

Run:     torchrun --nproc-per-node 4 tools/evaluate.py segmentation THIS_FILE BACKBONE CITYSCAPES_DIR
Expect:  not measured
Source:  ours; no protocol of the paper. Its labels are the files *_gtFine_labelIds.png.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *
    from ._base_.cityscapes import *
    from ._base_.segmentation import *

model.update(num_classes=len(NAMES))
train_dataloader.update(batch_size=2, dataset=dict(TRAIN, crop_hw=(512, 1024)))
val_dataloader.update(dataset=VAL)
val_evaluator.update(names=NAMES)
param_scheduler[0].update(end=40000)
train_cfg.update(max_iters=40000, val_interval=40000)
default_hooks.update(checkpoint=dict(interval=2000, max_keep_ckpts=2))
