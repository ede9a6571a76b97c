"""What two processes have to do together. Run by torchrun, this file is one of them and writes what it saw."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cmp.engine.processes import any_process, leave_together  # noqa: E402
from cmp.engine.restarts import torchrun_started_again  # noqa: E402
from cmp.engine.step_guard import StepGuard  # noqa: E402


class Net(BaseModel):
    """A convolution with batch norm; its loss is a mean over pairs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))

    def forward(self, image, mode="loss"):
        return {"loss": self.layers(image).square().mean(dim=(1, 2, 3)).mean()}


def images():
    return torch.randn(8, 3, 6, 9, generator=torch.Generator().manual_seed(1)).double()


def gradients(wrap, batches):
    """Gradients of one step, batch norm by running statistics."""
    model = Net().double().eval()
    wrapped = wrap(model)
    guard = StepGuard(OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)), wrapped, num_batches=len(batches))
    guard.wrapper.zero_grad = lambda: None
    guard.begin()
    for batch in batches:
        wrapped.train_step(dict(image=batch), guard)
    return [p.grad.clone() for p in model.parameters()]


def work(out):
    """What one of two processes does."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()

    def wrap(model):
        return MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)

    mine = images()[4 * rank : 4 * rank + 4]
    seen = dict(plain=gradients(wrap, [mine]), accumulated=gradients(wrap, list(mine.split(2))))
    seen["any"] = [any_process(False), any_process(rank == 1), any_process(True)]
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(rank)  # a death on one machine counts there alone
    seen["again"] = torchrun_started_again()

    model = Net().train()
    guard = StepGuard(OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)), wrap(model))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    batch = torch.full_like(mine, float("nan")) if rank == 1 else mine
    guard.begin()
    # Only the loss of one process is not finite: a gradient of NaN would reach all, as gradients are averaged.
    guard.wrapper.backward = lambda loss: [setattr(p, "grad", torch.zeros_like(p)) for p in model.parameters()]
    wrap(model).train_step(dict(image=batch.float()), guard)
    unchanged = all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    seen["skipped"] = [guard.skipped, unchanged]
    torch.save(seen, Path(out) / f"{rank}.pth")
    if rank == 1:
        time.sleep(0.5)  # the first would be gone long before
        (Path(out) / "arrived").touch()
    leave_together()
    if rank == 0 and not (Path(out) / "arrived").exists():
        (Path(out) / "left_alone").touch()


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each of two processes saw."""
    out = tmp_path_factory.mktemp("seen")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stderr[-3000:]
    assert not (out / "left_alone").exists(), "the first process, which the other needs, was gone before it"
    return [torch.load(out / f"{rank}.pth", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("how", ("plain", "accumulated"))
def test_gradients_of_two_processes_are_those_of_one_with_both_batches(seen, how):
    alone = gradients(lambda model: model, [images()])
    for process in seen:
        for gradient, expected in zip(process[how], alone):
            torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)
            assert expected.any()


def test_what_one_process_says_all_processes_hear(seen):
    assert [process["any"] for process in seen] == [[False, True, True]] * 2
    assert [any_process(False), any_process(True)] == [False, True]
    assert [process["again"] for process in seen] == [True, True]


def test_a_loss_that_is_not_finite_in_one_process_is_skipped_in_both(seen):
    assert [process["skipped"] for process in seen] == [[True, True]] * 2


if __name__ == "__main__":
    work(sys.argv[1])
