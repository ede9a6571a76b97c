"""What the processes that torchrun starts again, and the launcher after it, need to know of the earlier ones.

`tools/dist_train.sh` names a file in the environment variable CMP_STATUS_FILE; without it nothing is noted.
"""

import os
from pathlib import Path


def torchrun_started_again() -> bool:
    """Whether torchrun has started this run's processes before, as far as any of the processes knows.

    torchrun counts restarts for each machine, and only those that a death on that machine led to; the processes of the
    other machines are started again with the same count. So the first process of each machine leaves a mark next to the
    status file, and all processes are asked.
    """
    from cmp.engine.processes import any_process  # slow to import

    before = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    if "CMP_STATUS_FILE" in os.environ and int(os.environ.get("LOCAL_RANK", 0)) == 0:
        mark = Path(os.environ["CMP_STATUS_FILE"] + ".started")
        before = before or mark.exists()
        mark.touch()
    return any_process(before)


def note_status(status: int) -> int:
    """Note an exit status that no restart would change, for the launcher and for processes that are started again.

    Returns:
        The status.
    """
    Path(os.environ.get("CMP_STATUS_FILE", os.devnull)).write_text(str(status))
    return status


def noted_status() -> int:
    """The status that an earlier process of this run noted; 0 if none did."""
    file = Path(os.environ.get("CMP_STATUS_FILE", os.devnull))
    return int(file.read_text() or 0) if file.exists() else 0
