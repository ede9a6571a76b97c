"""Video autoencoder on your own videos with a ResNet-18 as encoder: the fourth frame from three; 96 px, 1,000 steps.

Run:     python tools/train.py THIS_FILE --data VIDEOS_OR_FOLDERS
         then: python tools/export_backbone.py work_dirs/THIS_CONFIG/iter_1000.pth OUT --format torchvision
Source:  ours: encoder, optimizer and length are those of the systems that CMP's quick start is compared with. The LSTM
         has fewer channels and smaller kernels than published.
"""

from mmengine.config import read_base

from cmp.baselines.video_autoencoder import VideoAutoencoder
from cmp.models import PyramidResNet

with read_base():
    from .._base_.datasets.clips import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_encoder_1k import *
    from .._base_.validation.baselines import *

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
FRAMES = dict(num_frames=4, short_side_px=120, size_px=96)
train_dataloader.update(dataset=FRAMES)
val_dataloader.update(dataset=dict(FRAMES, max_clips=160))
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=250, max_keep_ckpts=2))
