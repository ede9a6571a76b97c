"""Variational autoencoder of frames with the quick start's ResNet-18, 1,000 steps of 16 frames of own videos.

Run:     python tools/train.py THIS_FILE --data VIDEOS_OR_FOLDERS
         then: python tools/export_backbone.py work_dirs/vae_r18_clips_1xb16_1k/iter_1000.pth OUT --format torchvision
Source:  Kingma and Welling, ICLR 2014, for the bound; network, schedule and crop are ours, the encoder and the
         optimizer those of `cmp_r18_quickstart_1xb16_300.py`, so that encoders can be compared. Only the first frame
         of each clip is seen: what a system learns that knows nothing of motion.
"""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from cmp.baselines.frame_vae import FrameVAE
from cmp.engine.loops import PairTrainLoop
from cmp.engine.step import PreciseOptimWrapper
from cmp.models import PyramidResNet

with read_base():
    from .._base_.baseline import *
    from .._base_.datasets.clips import *

model = dict(
    type=FrameVAE,
    image_encoder=dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=64),
    size_px=128,
    latent=128,
    width=256,
)
train_dataloader.update(dataset=dict(short_side_px=160, size_px=128))
val_dataloader.update(dataset=dict(short_side_px=160, size_px=128, max_clips=160))
optim_wrapper = dict(
    type=PreciseOptimWrapper,
    precision="float32",
    optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.01),
    clip_grad=None,
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=30),
    dict(type=CosineAnnealingLR, T_max=970, eta_min=0.0, by_epoch=False, begin=30, end=1000),
]
train_cfg = dict(
    type=PairTrainLoop,
    max_iters=1000,
    val_interval=1000,
    channels_last=False,
    accumulate_batches=1,
    max_skips_in_row=10,
)
default_hooks.update(logger=dict(interval=20), checkpoint=dict(interval=250, max_keep_ckpts=2))
