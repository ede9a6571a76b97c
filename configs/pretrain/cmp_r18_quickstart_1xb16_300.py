"""CMP for minutes on a CPU: ResNet-18 with a feature pyramid, 128 px crops, 300 steps of 16 pairs in one process.

Run:     bash tools/quickstart.sh [VIDEO_DIR], or python tools/train.py THIS_FILE --data STORE
Expect:  EPE on held-out pairs 0.94 px (2.36 with guidance dropped) on the three sample clips, 1.42 (3.37) on a
         folder of 57 clips; four minutes on two CPU cores that others use too, with torch 2.15
Source:  ours. The published recipe needs days: after 800 steps of 8 pairs it stands near zero flow and hardly uses its
         guides. What is changed so that minutes show learning (docs/results.md tells how it was found): guides are
         spread by attention over image features, so that they reach a cell through what looks like it, and reach the
         last layer by a shortcut; predictions obey their guides; bins are finer near zero; a ResNet-18 with a pyramid
         (stride 4) for a dilated ResNet-50 (stride 8); AdamW with warm-up and cosine and a rate of its own for the
         encoder; more guides to the area; frames of short side 160, crops of several scales, flips, colours, reversed
         motion, every clip drawn as often.
"""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from cmp.engine.loops import PairTrainLoop
from cmp.engine.step import PreciseOptimWrapper
from cmp.flow import FlowQuantizer
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, PyramidResNet

with read_base():
    from .._base_.datasets.pairs import *
    from .._base_.runtime import *

from cmp.datasets import Colour, Flip, ReverseFlow, ScaledCrop

model = dict(
    type=CMP,
    image_encoder=dict(type=PyramidResNet, depth=18, top_stride=4, out_channels=64),
    motion_encoder=dict(type=MotionEncoder, hidden_channels=64, out_channels=64, fill="attention"),
    decoder=dict(type=PropagationDecoder, strides=(1, 2, 4), width=64, shortcut=True),
    quantizer=dict(type=FlowQuantizer, num_bins=41, max_flow_px=50.0, spacing="quadratic"),
    loss=dict(type=DiscreteLoss, ignore_invalid=True),
    init="default",
    guide_reach_px=12.0,
)
guidance = dict(grid_stride_px=64, nms_kernel=15, max_points=None, val_share=0.2)
train_dataloader.update(
    batch_size=16,
    num_workers=1,
    prefetch_factor=None,
    pin_memory=False,
    sampler=dict(type=PairSampler, balance_videos=True),
    dataset=dict(
        transforms=[
            dict(type=Resize, short_side_px=160),
            dict(type=ScaledCrop, size_px=128, low=0.7, high=1.3),
            dict(type=Colour),
            dict(type=Flip, probability=0.5),
            dict(type=ReverseFlow, probability=0.5),
        ],
        **guidance,
    ),
)
val_dataloader.update(
    batch_size=32,
    num_workers=1,
    dataset=dict(
        transforms=[dict(type=Resize, short_side_px=160), dict(type=Crop, size_px=128, random=False)],
        max_pairs=160,
        **guidance,
    ),
)
optim_wrapper = dict(
    type=PreciseOptimWrapper,
    precision="float32",
    optimizer=dict(type=AdamW, lr=4e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
    # 4e-3, which the decoder likes, makes the encoder's filters all alike within 400 steps: docs/results.md.
    paramwise_cfg=dict(custom_keys=dict(image_encoder=dict(lr_mult=0.125))),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.02, by_epoch=False, begin=0, end=30),
    dict(type=CosineAnnealingLR, T_max=270, eta_min=0.0, by_epoch=False, begin=30, end=300),
]
train_cfg = dict(
    type=PairTrainLoop, max_iters=300, val_interval=300, channels_last=False, accumulate_batches=1, max_skips_in_row=10
)
default_hooks.update(logger=dict(interval=20), checkpoint=dict(interval=100, max_keep_ckpts=2))
