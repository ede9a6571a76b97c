"""Multi-scale prediction with discriminators on UCF-101 at the published widths, four frames of 64 px. Not run here.

Run:     python tools/train.py THIS_FILE --data UCF-101
Expect:  not measured
Source:  Mathieu, Couprie and LeCun, ICLR 2016: widths, kernels, SGD with 0.04 and 0.02, weight 0.05, batch 8. Theirs
         alternate, and their L2 and GDL may be sums: see cmp/baselines/multi_scale.py.
         As in a project on UCF-101, without discriminators on frames of 160 x 210 px (--cfg-options):
         model.adversarial=0 {train,val}_dataloader.dataset.short_side_px=160
         {train,val}_dataloader.dataset.size_px=[160,210]
"""

from mmengine.config import read_base
from torch.optim import SGD

from cmp.baselines.multi_scale import MultiScalePredictor
from cmp.engine.loops import ResumableTrainLoop
from cmp.engine.step import AutocastOptimWrapper

with read_base():
    from .._base_.datasets.clips import *
    from .._base_.runtime import *
    from .._base_.validation.baselines import *

SIZE_PX = 64
model = dict(
    type=MultiScalePredictor,
    given=4,
    trained=1,
    widths=((128, 256, 128), (128, 256, 128), (128, 256, 512, 256, 128), (128, 256, 512, 256, 128)),
    kernels=((3, 3, 3, 3), (5, 3, 3, 5), (5, 3, 3, 3, 3, 5), (7, 5, 5, 5, 5, 7)),
    adversarial=0.05,
    size_px=SIZE_PX,
    discriminator_widths=((64,), (64, 128, 128), (128, 256, 256), (128, 256, 512, 128)),
    discriminator_kernels=((3,), (3, 3, 3), (5, 5, 5), (7, 7, 5, 5)),
    discriminator_units=((512, 256), (1024, 512), (1024, 512), (1024, 512)),
)
FRAMES = dict(short_side_px=80, size_px=SIZE_PX, val_share=0.1)
train_dataloader.update(batch_size=8, num_workers=4, dataset=dict(FRAMES, num_frames=5))
val_dataloader.update(num_workers=2, dataset=dict(FRAMES, max_clips=2000))
optim_wrapper = dict(
    type=AutocastOptimWrapper,
    precision="float32",
    optimizer=dict(type=SGD, lr=0.04),
    paramwise_cfg=dict(custom_keys={"discriminators": dict(lr_mult=0.5)}),
)
param_scheduler = []
train_cfg = dict(type=ResumableTrainLoop, max_iters=200000, val_interval=20000)
default_hooks.update(logger=dict(interval=100), checkpoint=dict(interval=10000, max_keep_ckpts=2))
