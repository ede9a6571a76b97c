"""CMP, ResNet-50, YFCC, YouTube, VIP and MPII frames, for LIP; 70k steps on 16 GPUs x 10 pairs.

Run:     bash tools/dist_train.sh configs/pretrain/cmp_r50_four_sets_16xb10_70k.py 16 --data STORE
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

BATCH_SIZE = 10
CROP = dict(type=ResizedCrop, short_side_px=416, size_px=320)
POINTS = dict(grid_stride_px=80, nms_kernel=15, max_points=None)
train_dataloader.update(batch_size=BATCH_SIZE, dataset=dict(transforms=[dict(CROP, random=True)], **POINTS))
val_dataloader.update(batch_size=BATCH_SIZE, dataset=dict(transforms=[dict(CROP, random=False)], **POINTS))
train_cfg.update(max_iters=70000)
param_scheduler.update(milestones=[40000, 60000])
