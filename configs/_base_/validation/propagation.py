"""Validation of pretraining: endpoint error on held-out pairs with controls, and sheets of predictions."""

from cmp.engine.hooks import ProgressBar, WeightsOnlyCheckpointHook
from cmp.evaluation.controls import PropagationValLoop
from cmp.evaluation.metrics import FlowMetric
from cmp.evaluation.pictures import PredictionPictures

custom_hooks = [dict(type=WeightsOnlyCheckpointHook), dict(type=PredictionPictures), dict(type=ProgressBar)]
val_cfg = dict(type=PropagationValLoop)
val_evaluator = dict(type=FlowMetric)
