"""Adam at 0.001 for 100,000 steps: for baselines of published size whose source does not state a schedule."""

from torch.optim import Adam

from cmp.engine.loops import ResumableTrainLoop
from cmp.engine.step import AutocastOptimWrapper

optim_wrapper = dict(
    type=AutocastOptimWrapper,
    precision="float32",
    optimizer=dict(type=Adam, lr=1e-3),
)
param_scheduler = []
train_cfg = dict(type=ResumableTrainLoop, max_iters=100000, val_interval=10000)
batch_rule = "sqrt"  # of the learning rate, with --batch-size; as for Adam: Malladi et al., NeurIPS 2022
