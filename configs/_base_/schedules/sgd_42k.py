"""SGD as published: learning rate 0.1 whatever the batch, no warm-up, two drops by ten."""

from mmengine.optim import MultiStepLR
from torch.optim import SGD

from cmp.engine.loops import ResumableTrainLoop
from cmp.engine.step import AutocastOptimWrapper

optim_wrapper = dict(
    type=AutocastOptimWrapper,
    precision="float32",  # as published; or "bfloat16"
    optimizer=dict(type=SGD, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True),
)
param_scheduler = dict(type=MultiStepLR, by_epoch=False, milestones=[24000, 36000], gamma=0.1)
train_cfg = dict(type=ResumableTrainLoop, max_iters=42000, val_interval=2000)
batch_rule = "constant"  # of the learning rate, with --batch-size; as published, whatever the batch
