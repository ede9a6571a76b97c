"""What every segmentation run shares. Everything here is ours: the paper states no fine-tuning settings."""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.optim import PolyLR
from torch.optim import SGD

with read_base():
    from ..._base_.runtime import *

from cmp.datasets import PairSampler
from cmp.downstream.run import TaskValLoop
from cmp.downstream.segmentation import SegmentationNet
from cmp.downstream.segmentation_metric import SegmentationMetric
from cmp.engine.hooks import PlainCheckpoint, ProgressBar
from cmp.engine.loops import PairTrainLoop
from cmp.engine.step import PreciseOptimWrapper

model = dict(
    type=SegmentationNet, encoder="resnet50", output_stride=8, hidden_channels=512, frozen=False, backbone="random"
)
augmentation = dict(scale_range=(0.5, 2.0), crop_hw=(480, 480), flip=0.5)
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type=PairSampler),
    collate_fn=dict(type=default_collate),
    dataset=None,
)
val_dataloader = dict(
    batch_size=1,  # images have sizes of their own
    num_workers=2,
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=default_collate),
    dataset=None,
)
lr = dict(fine_tuned=0.01, frozen=0.1)
optim_wrapper = dict(
    type=PreciseOptimWrapper,
    precision="float32",
    optimizer=dict(type=SGD, lr=None, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [dict(type=PolyLR, power=0.9, eta_min=0.0, begin=0, end=20000, by_epoch=False)]
train_cfg = dict(
    type=PairTrainLoop,
    max_iters=20000,
    val_interval=20000,
    channels_last=False,
    accumulate_batches=1,
    max_skips_in_row=10,
)
val_cfg = dict(type=TaskValLoop, scales=(1.0,), flip=False)
val_evaluator = dict(type=SegmentationMetric, names=())
custom_hooks = [dict(type=PlainCheckpoint), dict(type=ProgressBar)]
default_hooks.update(checkpoint=dict(interval=2000, max_keep_ckpts=2))
