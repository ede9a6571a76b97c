"""VOC 2012, AlexNet as FCN-32s: the paper's first protocol. 20k steps on 4 GPUs x 4 crops.

Run:     torchrun --nproc-per-node 4 tools/evaluate.py segmentation THIS_FILE BACKBONE VOCdevkit/VOC2012
Expect:  not measured here; the paper reports 42.9 mIoU for CMP on 1.26 M pairs, 19.8 for a random start
Source:  Zhan et al. 2019 state the task, FCN-32s and mIoU on VOC 2012. Ours, because the paper's are not known:
         the labels of 10,582 images (trainaug), crops of 480 px, scales 0.5 to 2, SGD at 0.01 with a polynomial
         schedule, 20k steps of 16 crops, testing at one scale.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *
    from ._base_.voc2012 import *
    from ._base_.segmentation import *

model.update(encoder="alexnet_fcn", output_stride=32, hidden_channels=0, num_classes=len(NAMES))
train_dataloader.update(batch_size=4, dataset=TRAIN)
val_dataloader.update(dataset=VAL)
val_evaluator.update(names=NAMES)
default_hooks.update(checkpoint=dict(interval=2000, max_keep_ckpts=2))
