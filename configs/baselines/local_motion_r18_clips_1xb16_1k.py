"""Local motion on your own videos with a ResNet-18 as encoder, three frames of 96 px, 1,000 steps of 16.

Run:     python tools/train.py THIS_FILE --data VIDEOS_OR_FOLDERS
         then: python tools/export_backbone.py work_dirs/THIS_CONFIG/iter_1000.pth OUT --format torchvision
Source:  ours: encoder, optimizer and length are those of the systems that CMP's quick start is compared with. Motion is
         predicted and the third frame rebuilt on the encoder's cells of 4 px, by shifts of up to 3 cells.
"""

from mmengine.config import read_base

from cmp.baselines.local_motion import LocalMotion
from cmp.models import PyramidResNet

with read_base():
    from .._base_.datasets.clips import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_encoder_1k import *
    from .._base_.validation.baselines import *

model = dict(
    type=LocalMotion,
    max_shift=3,
    image_channels=3,
    width=32,
    levels=4,
    supervised=False,
    two_sided=False,
    disappear="map",
    image_encoder=dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=64),
)
FRAMES = dict(num_frames=3, short_side_px=120, size_px=96)
train_dataloader.update(dataset=FRAMES)
val_dataloader.update(dataset=dict(FRAMES, max_clips=160))
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=250, max_keep_ckpts=2))
