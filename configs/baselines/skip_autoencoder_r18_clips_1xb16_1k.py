"""Skip autoencoder with a ResNet-18 as encoder of two frames, 96 px, 1,000 steps: to compare encoders.

Run:     python tools/train.py THIS_FILE --data VIDEOS
Source:  ours: encoder, optimizer and length are the same for all systems in the comparison. Two frames instead of four,
         because each frame costs a pass of the encoder.
"""

from mmengine.config import read_base

from cmp.baselines.skip_autoencoder import SkipAutoencoder
from cmp.models import PyramidResNet

with read_base():
    from .._base_.datasets.clips import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_encoder_1k import *
    from .._base_.validation.baselines import *

model = dict(
    type=SkipAutoencoder,
    given=2,
    trained=1,
    widths=(32, 64),
    image_encoder=dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=64),
)
FRAMES = dict(short_side_px=120, size_px=96)
train_dataloader.update(dataset=dict(FRAMES, num_frames=3))
val_dataloader.update(dataset=dict(FRAMES, num_frames=4))
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=500, max_keep_ckpts=2))
