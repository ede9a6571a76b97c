"""CMP for one GPU, a night, and hundreds to thousands of videos: ResNet-50 with a feature pyramid, 192 px crops.

Run:     python tools/train.py THIS_FILE --data STORE, with the clips of one scene in one folder of the prepared videos
Expect:  not measured: no GPU has run it yet
Source:  ours. The recipe of cmp_r18_clips_1xb16_32k with a deeper encoder, larger crops and batches; the learning rate
         follows from that recipe's by the rule for batches (square root). bfloat16 where the device has it.
"""

from mmengine.config import read_base

from cmp.engine.weight_average import WeightAverage

with read_base():
    from .._base_.datasets.pairs_scenes import *
    from .._base_.models.cmp_r18 import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_32k import *
    from .._base_.validation.propagation import *

SHORT_SIDE_PX, CROP_PX, BATCH_SIZE, STEPS, DECAY = 256, 192, 64, 60_000, 12_000
model.update(image_encoder=dict(depth=50), motion_encoder=dict(still=True), decoder=dict(strides=(1, 2, 4, 8)))
train_dataloader.update(batch_size=BATCH_SIZE, num_workers=12)
train_dataloader.dataset.transforms[0].update(short_side_px=SHORT_SIDE_PX)
train_dataloader.dataset.transforms[1].update(size_px=CROP_PX)
val_dataloader.update(num_workers=4)
val_dataloader.dataset.transforms[0].update(short_side_px=SHORT_SIDE_PX)
val_dataloader.dataset.transforms[1].update(size_px=CROP_PX)
optim_wrapper.update(optimizer=dict(lr=4e-3))  # 2e-3 * sqrt(64 / 16)
param_scheduler[0].update(end=500)
param_scheduler[1].update(T_max=DECAY, begin=STEPS - DECAY, end=STEPS)
train_cfg.update(max_iters=STEPS, val_interval=5000)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=1000, max_keep_ckpts=3))
custom_hooks.append(dict(type=WeightAverage, momentum=0.001))
