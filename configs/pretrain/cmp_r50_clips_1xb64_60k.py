"""CMP for one GPU, a night, and hundreds to thousands of videos: ResNet-50 with a feature pyramid, 192 px crops.

Run:     python tools/train.py THIS_FILE --data STORE, with the clips of one scene in one folder of the prepared videos
Expect:  not measured: no GPU has run it yet
Source:  ours. The recipe of cmp_r18_clips_1xb16_32k with a deeper encoder, larger crops and batches; the learning rate
         follows from that recipe's by the rule for batches (square root). bfloat16 where the device has it.
"""

from mmengine.config import read_base

from cmp.engine.weight_average import WeightAverage

with read_base():
    from .._base_.datasets.pairs_small import *
    from .._base_.models.cmp_r18 import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_300 import *
    from .._base_.validation.propagation import *

model.update(image_encoder=dict(depth=50), motion_encoder=dict(still=True), decoder=dict(strides=(1, 2, 4, 8)))
SHORT_SIDE_PX, CROP_PX, VAL_SHARE, BATCH_SIZE, STEPS = 256, 192, 0.1, 64, 60_000
train_dataloader.update(
    batch_size=BATCH_SIZE,
    num_workers=12,
    dataset=dict(
        point_counts=(0, 1, 1, 2, 2, 3, 4, 6, 8, None, None, None),
        sets_per_image=2,
        val_share=VAL_SHARE,
        transforms=[
            dict(type=Resize, short_side_px=SHORT_SIDE_PX),
            dict(type=ScaledCrop, size_px=CROP_PX, low=0.6, high=1.4),
            dict(type=Color),
            dict(type=Flip, probability=0.5),
            dict(type=ReverseFlow, probability=0.5),
        ],
    ),
)
train_dataloader.sampler = dict(type=EpochSampler, balance_folders=True)
val_dataloader.update(
    num_workers=4,
    dataset=dict(
        val_share=VAL_SHARE,
        max_pairs=480,
        transforms=[dict(type=Resize, short_side_px=SHORT_SIDE_PX), dict(type=Crop, size_px=CROP_PX, random=False)],
    ),
)
optim_wrapper.update(
    precision="auto",
    optimizer=dict(lr=4e-3),  # 2e-3 * sqrt(64 / 16)
    paramwise_cfg=dict(custom_keys=dict(image_encoder=dict(lr_mult=0.25))),
)
param_scheduler[0].update(end=500)
param_scheduler[1].update(T_max=STEPS // 5, begin=STEPS - STEPS // 5, end=STEPS)
train_cfg.update(max_iters=STEPS, val_interval=5000, channels_last=True)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=1000, max_keep_ckpts=3))
custom_hooks.append(dict(type=WeightAverage, momentum=0.001))
