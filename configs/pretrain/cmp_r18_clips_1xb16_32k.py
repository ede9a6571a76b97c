"""CMP for one CPU machine and hundreds of clips: ResNet-18 with a feature pyramid, 96 px crops, few points.

Run:     python tools/train.py THIS_FILE --data STORE, with the clips of one scene in one folder of the prepared videos
Expect:  not measured yet
Source:  ours. What differs from the quick start's recipe: most samples have zero to eight points, as users give; a cell
         can reject all points (still); two sets of points per encoded image; crops of 96 px at short side 128, which
         cost about half of what 128 px cost; propagation nets that reach further;
         scenes are drawn equally often; a constant learning rate with a decay over the last fifth, so that a run may
         be continued from before the decay; a moving average of the weights.
"""

from mmengine.config import read_base

from cmp.engine.weight_average import WeightAverage

with read_base():
    from .._base_.datasets.pairs_small import *
    from .._base_.models.cmp_r18 import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_300 import *
    from .._base_.validation.propagation import *

model.update(motion_encoder=dict(still=True), decoder=dict(strides=(1, 2, 4, 8)))
SHORT_SIDE_PX, CROP_PX, VAL_SHARE = 128, 96, 0.1
train_dataloader.update(
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
    dataset=dict(
        val_share=VAL_SHARE,
        max_pairs=480,
        transforms=[dict(type=Resize, short_side_px=SHORT_SIDE_PX), dict(type=Crop, size_px=CROP_PX, random=False)],
    ),
)
optim_wrapper.update(
    precision="auto",
    optimizer=dict(lr=2e-3),
    paramwise_cfg=dict(custom_keys=dict(image_encoder=dict(lr_mult=0.25))),
)
param_scheduler[0].update(end=200)
param_scheduler[1].update(T_max=6400, begin=25600, end=32000)
train_cfg.update(max_iters=32000, val_interval=4000, channels_last=True)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=500, max_keep_ckpts=3))
custom_hooks.append(dict(type=WeightAverage, momentum=0.002))
