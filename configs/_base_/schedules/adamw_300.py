"""AdamW for 300 steps, warm-up and cosine, with a lower rate for the image encoder: what CMP learns by in minutes."""

from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from cmp.engine.loops import ResumableTrainLoop
from cmp.engine.step import AutocastOptimWrapper

optim_wrapper = dict(
    type=AutocastOptimWrapper,
    precision="float32",
    optimizer=dict(type=AdamW, lr=4e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
    # 4e-3, which suits the decoder, makes all filters of the encoder alike within 400 steps: docs/results.md.
    paramwise_cfg=dict(custom_keys=dict(image_encoder=dict(lr_mult=0.125))),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=30),
    dict(type=CosineAnnealingLR, T_max=270, eta_min=0.0, by_epoch=False, begin=30, end=300),
]
train_cfg = dict(type=ResumableTrainLoop, max_iters=300, val_interval=300)
batch_rule = "sqrt"  # of the learning rate, with --batch-size; as for Adam: Malladi et al., NeurIPS 2022
