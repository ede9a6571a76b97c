"""What every detection run shares: the 1x schedule on COCO's folders: DATA holds train2017, val2017, annotations."""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.optim import LinearLR, MultiStepLR
from torch.optim import SGD

with read_base():
    from ..._base_.runtime import *

from cmp.datasets import PairSampler
from cmp.downstream.detection import CocoMetric, DetectionNet
from cmp.downstream.detection_data import as_lists
from cmp.downstream.run import TaskValLoop
from cmp.engine.hooks import PlainCheckpoint, ProgressBar
from cmp.engine.loops import PairTrainLoop
from cmp.engine.step import PreciseOptimWrapper

data = dict(images="{part}", annotations="annotations/instances_{part}.json")
parts = ("train2017", "val2017")
flip = 0.5
model = dict(type=DetectionNet, encoder="resnet50", backbone="random", short_side_px=800, long_side_px=1333)
sync_bn = "torch"  # two images are too few for batch norm
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type=PairSampler),
    collate_fn=dict(type=as_lists),
    dataset=None,
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=as_lists),
    dataset=None,
)
optim_wrapper = dict(
    type=PreciseOptimWrapper,
    precision="float32",
    optimizer=dict(type=SGD, lr=0.02, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, begin=0, end=1000, by_epoch=False),
    dict(type=MultiStepLR, milestones=[60000, 80000], gamma=0.1, by_epoch=False),
]
train_cfg = dict(
    type=PairTrainLoop,
    max_iters=90000,
    val_interval=90000,
    channels_last=False,
    accumulate_batches=1,
    max_skips_in_row=10,
)
val_cfg = dict(type=TaskValLoop)
val_evaluator = dict(type=CocoMetric, annotations=None)
custom_hooks = [dict(type=PlainCheckpoint), dict(type=ProgressBar)]
default_hooks.update(checkpoint=dict(interval=5000, max_keep_ckpts=2))
