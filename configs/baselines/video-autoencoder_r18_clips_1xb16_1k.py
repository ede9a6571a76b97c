"""Video autoencoder on own videos with a ResNet-18 that sees the frames: the fourth from three; 96 px, 1,000 steps.

Run:     python tools/train.py THIS_FILE --data VIDEOS_OR_FOLDERS
         then: python tools/export_backbone.py work_dirs/THIS_CONFIG/iter_1000.pth OUT --format torchvision
Source:  ours: encoder, optimizer and length are what CMP's quick start is compared with. The memory
         is narrower and its kernels smaller than published.
"""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from cmp.baselines.video_autoencoder import VideoAutoencoder
from cmp.engine.loops import PairTrainLoop
from cmp.engine.step import PreciseOptimWrapper
from cmp.models import PyramidResNet

with read_base():
    from .._base_.baseline import *
    from .._base_.datasets.clips import *

model = dict(
    type=VideoAutoencoder,
    image_channels=3,
    feature_channels=32,
    hidden_channels=32,
    kernel=5,
    flow_kernel=9,
    error="squared",
    smoothness=1e-3,
    smoothness_threshold=1e-3,
    image_encoder=dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=64),
)
train_dataloader.update(dataset=dict(num_frames=4, short_side_px=120, size_px=96))
val_dataloader.update(dataset=dict(num_frames=4, short_side_px=120, size_px=96, max_clips=160))
optim_wrapper = dict(
    type=PreciseOptimWrapper,
    precision="bfloat16",  # "float32" where the CPU or GPU has no arithmetic for it
    optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.01),
    clip_grad=dict(type="norm", max_norm=1000.0),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type=CosineAnnealingLR, T_max=950, eta_min=0.0, by_epoch=False, begin=50, end=1000),
]
train_cfg = dict(
    type=PairTrainLoop,
    max_iters=1000,
    val_interval=1000,
    channels_last=False,
    accumulate_batches=1,
    max_skips_in_row=10,
)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=250, max_keep_ckpts=2))
