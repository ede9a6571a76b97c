"""CMP, ResNet-50, YFCC frames, as cmp_r50_yfcc_16xb10_42k, with the points of training chosen on the GPU.

Workers only decode, resize and crop. Another recipe does the same with `DeviceGuidance` and its own numbers.

Run:     bash tools/dist_train.sh configs/pretrain/cmp_r50_device_points_yfcc_16xb10_42k.py 16 --data STORE
Expect:  not measured yet
Source:  Zhan et al., CVPR 2019, and their configs; differs in: what cmp_r50_yfcc_16xb10_42k differs in, and
         points come from other random numbers; how many there are has the same distribution.
"""

from mmengine.config import read_base

from cmp.datasets import ResizedCrop
from cmp.models import DeviceGuidance

with read_base():
    from .._base_.datasets.pairs import *
    from .._base_.models.cmp_r50 import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_42k import *
    from .._base_.validation.propagation import *

BATCH_SIZE = 10
CROP = dict(type=ResizedCrop, short_side_px=416, size_px=320)
POINTS = dict(grid_stride_px=165, nms_kernel=67, max_points=None)
train_dataloader.update(batch_size=BATCH_SIZE, dataset=dict(transforms=[dict(CROP, random=True)], strategies=None))
val_dataloader.update(batch_size=BATCH_SIZE, dataset=dict(transforms=[dict(CROP, random=False)], **POINTS))
model.update(data_preprocessor=dict(type=DeviceGuidance, strategies=("grid", "watershed"), **POINTS))
