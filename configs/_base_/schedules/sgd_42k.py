"""SGD as published: learning rate 0.1 whatever the batch, no warm-up, two drops by ten."""

from mmengine.optim import MultiStepLR
from torch.optim import SGD

from cmp.engine.loops import PairTrainLoop
from cmp.engine.step import PreciseOptimWrapper

optim_wrapper = dict(
    type=PreciseOptimWrapper,
    precision="float32",  # as published; or "bfloat16"
    optimizer=dict(type=SGD, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True),
)
param_scheduler = dict(type=MultiStepLR, by_epoch=False, milestones=[24000, 36000], gamma=0.1)
train_cfg = dict(
    type=PairTrainLoop,
    max_iters=42000,
    val_interval=2000,
    channels_last=False,
    accumulate_batches=1,
    max_skips_in_row=10,
)
