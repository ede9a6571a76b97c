"""AdamW for 1,000 steps, warm-up and cosine, in bfloat16: for baselines trained on clips in minutes."""

from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from cmp.engine.loops import ResumableTrainLoop
from cmp.engine.step import AutocastOptimWrapper

optim_wrapper = dict(
    type=AutocastOptimWrapper,
    precision="bfloat16",  # "float32" where the CPU or GPU has no arithmetic for it
    optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type=CosineAnnealingLR, T_max=950, eta_min=0.0, by_epoch=False, begin=50, end=1000),
]
train_cfg = dict(type=ResumableTrainLoop, max_iters=1000, val_interval=1000)
batch_rule = "sqrt"  # of the learning rate, with --batch-size; as for Adam: Malladi et al., NeurIPS 2022
