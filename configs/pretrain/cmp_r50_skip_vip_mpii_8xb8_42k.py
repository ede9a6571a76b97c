"""CMP, ResNet-50 with skip layers, VIP and MPII frames, the demos' network; 42k steps on 8 GPUs x 8 pairs.

Run:     bash tools/dist_train.sh configs/pretrain/cmp_r50_skip_vip_mpii_8xb8_42k.py 8 --data STORE
Expect:  not measured yet
Source:  Zhan et al., CVPR 2019, and their configs; differs in: teacher flow (DIS; theirs was LiteFlowNet),
         an epoch is one permutation (theirs shuffles the whole run at once), random crops reach every offset, u and v
         are resized each by its own ratio, validation draws points from a fixed seed, the second frame is not read.
"""

from mmengine.config import read_base

from cmp.datasets import ResizedCrop

with read_base():
    from .._base_.datasets.pairs import *
    from .._base_.models.cmp_r50_skip import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_42k import *
    from .._base_.validation.propagation import *

BATCH_SIZE = 8
CROP = dict(type=ResizedCrop, short_side_px=416, size_px=384)
POINTS = dict(grid_stride_px=131, nms_kernel=41, max_points=None)
train_dataloader.update(batch_size=BATCH_SIZE, dataset=dict(transforms=[dict(CROP, random=True)], **POINTS))
val_dataloader.update(batch_size=BATCH_SIZE, dataset=dict(transforms=[dict(CROP, random=False)], **POINTS))
