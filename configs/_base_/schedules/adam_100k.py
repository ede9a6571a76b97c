"""Adam at 0.001 for 100,000 steps: what baselines of published size take where the source names no schedule."""

from torch.optim import Adam

from cmp.engine.loops import PairTrainLoop
from cmp.engine.step import PreciseOptimWrapper

optim_wrapper = dict(
    type=PreciseOptimWrapper,
    precision="float32",
    optimizer=dict(type=Adam, lr=1e-3),
)
param_scheduler = []
train_cfg = dict(
    type=PairTrainLoop,
    max_iters=100000,
    val_interval=10000,
    channels_last=False,
    accumulate_batches=1,
    max_skips_in_row=10,
)
