"""What the processes of a run have to agree on."""

import torch
from mmengine.dist import all_reduce, get_world_size


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all processes must ask, and all get the same answer."""
    if get_world_size() == 1:
        return bool(flag)
    votes = torch.tensor(float(flag))
    all_reduce(votes, op="max")  # mmengine moves it to the device that the process group talks over, and back
    return bool(votes > 0)
