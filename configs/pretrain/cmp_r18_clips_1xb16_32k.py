"""CMP for one CPU machine and hundreds of clips: ResNet-18 with a feature pyramid, 96 px crops, few points.

Run:     python tools/train.py THIS_FILE --data STORE, with the clips of one scene in one folder of the prepared videos
Expect:  not measured yet
Source:  ours. What differs from the quick start's recipe: most samples have zero to eight points, as users give; a cell
         can reject all points (still); two sets of points per encoded image; crops of 96 px at short side 128, which
         cost about half of what 128 px cost; propagation nets that reach further;
         scenes are drawn equally often; a constant learning rate with a decay over the last fifth, so that a run may
         be continued from before the decay; a moving average of the weights.
"""

from mmengine.config import read_base

from cmp.engine.weight_average import WeightAverage

with read_base():
    from .._base_.datasets.pairs_scenes import *
    from .._base_.models.cmp_r18 import *
    from .._base_.runtime import *
    from .._base_.schedules.adamw_32k import *
    from .._base_.validation.propagation import *

model.update(motion_encoder=dict(still=True), decoder=dict(strides=(1, 2, 4, 8)))
default_hooks.update(logger=dict(interval=50), checkpoint=dict(interval=500, max_keep_ckpts=3))
custom_hooks.append(dict(type=WeightAverage, momentum=0.002))
