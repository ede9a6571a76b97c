"""CMP, ResNet-50, YFCC frames, for COCO; 42k steps on 16 GPUs x 16 pairs.

Run:     bash tools/dist_train.sh configs/pretrain/cmp_r50_yfcc_coco_16xb16_42k.py 16 --data STORE
Expect:  not measured yet
Source:  Zhan et al., CVPR 2019, and their configs; differs in: teacher flow (DIS; theirs was LiteFlowNet),
         an epoch is one permutation (theirs shuffles the whole run at once), random crops reach every offset, u and v
         are resized each by its own ratio, validation draws points from a fixed seed, the second frame is not read.
"""

from mmengine.config import read_base

from cmp.datasets import ResizedCrop

with read_base():
    from .._base_.datasets.pairs import *
    from .._base_.models.cmp_r50 import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_42k import *
    from .._base_.validation.propagation import *

BATCH_SIZE = 16
CROP = dict(type=ResizedCrop, short_side_px=333, size_px=256)
POINTS = dict(grid_stride_px=133, nms_kernel=49, max_points=None)
train_dataloader.update(batch_size=BATCH_SIZE, dataset=dict(transforms=[dict(CROP, random=True)], **POINTS))
val_dataloader.update(batch_size=BATCH_SIZE, dataset=dict(transforms=[dict(CROP, random=False)], **POINTS))
