"""LIP human parsing, FCN on ResNet-50. 40k steps on 8 GPUs x 4 crops.

Run:     torchrun --nproc-per-node 8 tools/evaluate.py segmentation THIS_FILE BACKBONE LIP_DIR
Expect:  not measured here; the paper reports 36.9 mIoU (single) for CMP on 1.26 M pairs, 32.5 for a random start
Source:  Zhan et al. 2019 state the task, the encoder and mIoU. Ours, because the paper's are not known: the network
         (a dilated FCN), crops of 473 px, scales 0.5 to 1.5, no flips (left and right limbs are separate
         classes), SGD at 0.01 with a polynomial schedule, 40k steps of 32 crops, testing at one scale.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *
    from ._base_.lip import *
    from ._base_.segmentation import *

model.update(num_classes=len(NAMES))
train_dataloader.update(batch_size=4, dataset=dict(TRAIN, scale_range=(0.5, 1.5), crop_hw=(473, 473), flip=0.0))
val_dataloader.update(dataset=VAL)
val_evaluator.update(names=NAMES)
param_scheduler[0].update(end=40000)
train_cfg.update(max_iters=40000, val_interval=40000)
default_hooks.update(checkpoint=dict(interval=2000, max_keep_ckpts=2))
