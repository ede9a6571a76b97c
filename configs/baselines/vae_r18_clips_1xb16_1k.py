"""Variational autoencoder of frames with the quick start's ResNet-18, 1,000 steps of 16 frames of your own videos.

Run:     python tools/train.py THIS_FILE --data VIDEOS_OR_FOLDERS
         then: python tools/export_backbone.py work_dirs/vae_r18_clips_1xb16_1k/iter_1000.pth OUT --format torchvision
Source:  Kingma and Welling, ICLR 2014, for the bound; network, schedule and crop are ours, the encoder and the
         optimizer those of `cmp_r18_quickstart_1xb16_300.py`, so that encoders can be compared. Only the first frame
         of each clip is used: the encoder gets no information about motion.
"""

from mmengine.config import read_base

from cmp.baselines.frame_vae import FrameVAE
from cmp.models import PyramidResNet

with read_base():
    from .._base_.datasets.clips import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_encoder_1k import *
    from .._base_.validation.baselines import *

model = dict(
    type=FrameVAE,
    image_encoder=dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=64),
    size_px=128,
    latent=128,
    width=256,
)
FRAMES = dict(short_side_px=160, size_px=128)
train_dataloader.update(dataset=FRAMES)
val_dataloader.update(dataset=dict(FRAMES, max_clips=160))
optim_wrapper.update(precision="float32")
default_hooks.update(logger=dict(interval=20), checkpoint=dict(interval=250, max_keep_ckpts=2))
