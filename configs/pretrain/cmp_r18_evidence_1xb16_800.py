"""CMP for minutes of one CPU core, as measured against its controls: ResNet-18, 128 px crops, 800 steps of 16 pairs.

Run:     python tools/train.py THIS_FILE --data STORE, or tools/ablate.py configs/ablation/evidence.py OUT
Expect:  docs/results.md
Source:  ours: the quick start's recipe with more steps, in bfloat16 and without a process for loading.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.pairs_small import *
    from .._base_.models.cmp_r18 import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_300 import *
    from .._base_.validation.propagation import *

train_dataloader.update(num_workers=0, persistent_workers=False)
val_dataloader.update(num_workers=0, persistent_workers=False)
optim_wrapper.update(precision="bfloat16")
param_scheduler[0].update(end=40)
param_scheduler[1].update(T_max=760, begin=40, end=800)
train_cfg.update(max_iters=800, val_interval=800, channels_last=True)
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=200, max_keep_ckpts=2))
