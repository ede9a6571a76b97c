"""CMP for minutes of one CPU core, as measured against its controls: ResNet-18, 128 px crops, 800 steps of 16 pairs.

Run:     python tools/train.py THIS_FILE --data STORE, or tools/ablate.py configs/ablation/evidence.py OUT
Expect:  docs/results.md
Source:  ours. It differs from the quick start in what made the image count on 57 clips: guides are spread by attention
         over image features, so that they reach a cell through what looks like it, not by nearness alone; crops of
         several scales, colours and reversed motion, every clip drawn as often, so that the clips are not learned by
         heart; a learning rate of its own for the encoder, 5e-4; predictions obey their guides
         (`cmp.models.guide_correction`); more steps.
"""

from mmengine.config import read_base

with read_base():
    from .cmp_r18_quickstart_1xb16_300 import *

from cmp.datasets import Colour, ReverseFlow, ScaledCrop

model.update(motion_encoder=dict(fill="attention"), guide_reach_px=12.0)
train_dataloader["dataset"]["transforms"] = [
    dict(type=Resize, short_side_px=160),
    dict(type=ScaledCrop, size_px=128, low=0.7, high=1.3),
    dict(type=Colour),
    dict(type=Flip, probability=0.5),
    dict(type=ReverseFlow, probability=0.5),
]
train_dataloader.update(num_workers=0, persistent_workers=False, sampler=dict(type=PairSampler, balance_videos=True))
val_dataloader.update(num_workers=0, persistent_workers=False)
optim_wrapper.update(
    precision="bfloat16",
    clip_grad=dict(max_norm=5.0),
    # 4e-3, which the decoder likes, makes the encoder's filters all alike within 400 steps: docs/results.md.
    paramwise_cfg=dict(custom_keys=dict(image_encoder=dict(lr_mult=0.125))),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=40),
    dict(type=CosineAnnealingLR, T_max=760, eta_min=0.0, by_epoch=False, begin=40, end=800),
]
train_cfg.update(max_iters=800, val_interval=800, channels_last=True)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=200))
