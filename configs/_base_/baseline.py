"""What the runs of all baselines share: pretraining's runtime, judged by each system's own measures."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

from cmp.baselines.evaluation import BaselinePictures, BaselineValLoop, MeanOverSet

custom_hooks = [dict(type=PlainCheckpoint), dict(type=BaselinePictures), dict(type=ProgressBar)]
val_cfg = dict(type=BaselineValLoop)
val_evaluator = dict(type=MeanOverSet)
