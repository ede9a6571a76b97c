"""Visual Dynamics in the toy world of moving shapes, 32 px, 1,000 steps of 32: to compare its three kinds of models.

Run:     python tools/train.py THIS_FILE
Source:  Xue et al., NIPS 2016, whose toy world has several shapes in a frame; sizes, beta and length are ours.
         Options for the other kinds (--cfg-options):
         one next frame per image, without randomness:   model.kind=deterministic
         motions whatever the image shows:               model.kind=motion_prior
         the motion encoder reads the difference, too:   model.motion_input=image_and_difference
         the motion encoder reads the difference alone:  model.motion_input=difference
"""

from mmengine.config import read_base

from cmp.baselines.visual_dynamics import VisualDynamics

with read_base():
    from .._base_.datasets.moving_shapes import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_1k import *
    from .._base_.validation.baselines import *

model = dict(
    type=VisualDynamics,
    kind="probabilistic",
    latent=16,
    stored=1000,
    beta=0.02,
    maps=16,
    motion_widths=(16, 24, 32, 32),
    motion_pools=(2, 2, 2, 2),
    image_widths=(16, 24, 24),
    kernel_width=16,
    decoder_width=32,
)
optim_wrapper.update(precision="float32")
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=500, max_keep_ckpts=2))
