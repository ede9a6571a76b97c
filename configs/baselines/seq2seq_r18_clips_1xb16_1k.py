"""ConvLSTM sequence to sequence with a ResNet-18 that sees the frames, 96 px, 1,000 steps: to compare encoders.

Run:     python tools/train.py THIS_FILE --data VIDEOS
Source:  ours: encoder, optimizer and length are the same for all that is compared. Three frames to one instead of four
         to four, each of which costs the encoder a pass.
"""

from mmengine.config import read_base

from cmp.baselines.seq2seq import ConvLSTMSeq2Seq
from cmp.models import PyramidResNet

with read_base():
    from .._base_.baseline import *
    from .._base_.datasets.clips import *
    from .._base_.schedules.adamw_encoder_1k import *

model = dict(
    type=ConvLSTMSeq2Seq,
    given=3,
    trained=1,
    width=16,
    kernel=5,
    image_encoder=dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=64),
)
train_dataloader.update(dataset=dict(num_frames=4, short_side_px=120, size_px=96))
val_dataloader.update(dataset=dict(num_frames=5, short_side_px=120, size_px=96))
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=500, max_keep_ckpts=2))
