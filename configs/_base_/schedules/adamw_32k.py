"""AdamW for 32k steps: warm-up, a constant rate, and a decay over the last fifth.

A run can be continued for longer from any checkpoint before the decay.
"""

from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from cmp.engine.loops import ResumableTrainLoop
from cmp.engine.step import AutocastOptimWrapper

STEPS, DECAY = 32_000, 6_400
optim_wrapper = dict(
    type=AutocastOptimWrapper,
    precision="auto",
    optimizer=dict(type=AdamW, lr=2e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(custom_keys=dict(image_encoder=dict(lr_mult=0.25))),  # why lower: see adamw_300.py
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=200),
    dict(type=CosineAnnealingLR, T_max=DECAY, eta_min=0.0, by_epoch=False, begin=STEPS - DECAY, end=STEPS),
]
train_cfg = dict(type=ResumableTrainLoop, max_iters=STEPS, val_interval=4000, channels_last=True)
batch_rule = "sqrt"  # see adamw_300.py
