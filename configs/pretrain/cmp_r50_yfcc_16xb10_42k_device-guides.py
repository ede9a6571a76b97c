"""CMP, ResNet-50, YFCC frames, as cmp_r50_yfcc_16xb10_42k, with the guides of training chosen on the GPU.

Workers only decode, resize and crop. Another recipe does the same with the last lines below and its own numbers.

Run:     bash tools/dist_train.sh configs/pretrain/cmp_r50_yfcc_16xb10_42k_device-guides.py 16 --data STORE
Expect:  not measured yet
Source:  Zhan et al., CVPR 2019, and the authors' configs; differs in: what cmp_r50_yfcc_16xb10_42k differs in, and
         guides come from other random numbers; how many there are has the same distribution.
"""

from mmengine.config import read_base

with read_base():
    from .cmp_r50_yfcc_16xb10_42k import *

from cmp.models import DeviceGuidance

train_dataloader.update(dataset=dict(strategies=None))
model.update(
    data_preprocessor=dict(
        type=DeviceGuidance, strategies=("grid", "watershed"), grid_stride_px=165, nms_kernel=67, max_points=None
    )
)
