"""CMP, AlexNet, YFCC frames, for VOC; 70k steps on 16 GPUs x 12 pairs.

Run:     bash tools/dist_train.sh configs/pretrain/cmp_alexnet_yfcc_16xb12_70k.py 16 --data STORE
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

train_cfg.update(max_iters=70000)
param_scheduler.update(milestones=[40000, 60000])
