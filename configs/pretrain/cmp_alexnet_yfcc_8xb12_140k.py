"""CMP, AlexNet, YFCC frames, for VOC; 140k steps on 8 GPUs x 12 pairs.

Run:     bash tools/dist_train.sh configs/pretrain/cmp_alexnet_yfcc_8xb12_140k.py 8 --data STORE
Expect:  not measured yet
Source:  Zhan et al., CVPR 2019, and their configs; differs in: teacher flow (DIS; theirs was LiteFlowNet),
         an epoch is one permutation (theirs shuffles the whole run at once), random crops reach every offset, u and v
         are resized each by its own ratio, validation draws points from a fixed seed, the second frame is not read.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.pairs_alexnet import *
    from .._base_.models.cmp_alexnet import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_42k import *
    from .._base_.validation.propagation import *

train_cfg.update(max_iters=140000)
param_scheduler.update(milestones=[80000, 120000])
