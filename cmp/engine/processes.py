"""What the processes of a run have to agree on."""

import torch
from mmengine.dist import all_reduce, barrier, get_world_size


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all processes must ask, and all get the same answer."""
    if get_world_size() == 1:
        return bool(flag)
    votes = torch.tensor(float(flag))
    all_reduce(votes, op="max")  # mmengine moves it to the device that the process group talks over, and back
    return bool(votes > 0)


def leave_together() -> None:
    """End the process group once all have come so far.

    The first process keeps the place where the others find each other: if it were gone before they are done, they would
    fail at the very end, and torchrun would start the finished run again.
    """
    if torch.distributed.is_initialized():
        barrier()
        torch.distributed.destroy_process_group()
