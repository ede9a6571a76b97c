"""Validation of the baselines: each system's measures, averaged over the whole set, and sheets of its outputs."""

from cmp.baselines.evaluation import BaselinePictures, BaselineValLoop, MeanOverSet
from cmp.engine.hooks import ProgressBar, WeightsOnlyCheckpointHook

custom_hooks = [dict(type=WeightsOnlyCheckpointHook), dict(type=BaselinePictures), dict(type=ProgressBar)]
val_cfg = dict(type=BaselineValLoop)
val_evaluator = dict(type=MeanOverSet)
