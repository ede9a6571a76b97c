"""VOC 2012, FCN on ResNet-50: the paper's second protocol. 20k steps on 4 GPUs x 4 crops.

Run:     torchrun --nproc-per-node 4 tools/evaluate.py segmentation THIS_FILE BACKBONE VOCdevkit/VOC2012
Expect:  not measured here; the paper reports 59.0 mIoU for CMP on 1.26 M pairs, 42.4 for a random start
Source:  Zhan et al. 2019 state the task, the encoder and mIoU on VOC 2012. Ours, because the paper's are not known:
         stride 8, one hidden layer of 512, the labels of 10,582 images (trainaug), crops of 480 px, scales 0.5 to 2,
         SGD at 0.01 with a polynomial schedule, 20k steps of 16 crops, testing at one scale.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *
    from ._base_.voc2012 import *
    from ._base_.segmentation import *

model.update(num_classes=len(NAMES))
train_dataloader.update(batch_size=4, dataset=TRAIN)
val_dataloader.update(dataset=VAL)
val_evaluator.update(names=NAMES)
default_hooks.update(checkpoint=dict(interval=2000, max_keep_ckpts=2))
