"""What the processes of a run agree on: joining, the lock of the work dir, stopping, and leaving."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, barrier, get_rank, get_world_size, init_dist

from cmp.engine.liveness import Liveness
from cmp.folder_lock import FolderInUse, hold_folder

DEFAULT_TIMEOUT_S = 600
MAX_TIMEOUT_S = 30 * 24 * 3600
_liveness: Liveness | None = None


def join_processes(config: Config) -> None:
    """Join the process group of a run that torchrun or srun started: NCCL with GPUs, gloo without.

    `config.env_cfg.dist_cfg.timeout` (s) is how long one process waits for another. Does nothing in a process that was
    not started by a launcher.
    """
    if "RANK" not in os.environ:
        return
    config.launcher = "pytorch"
    settings = dict(config.get("env_cfg", {}).get("dist_cfg", {}))
    # The backend's own limit comes last: before it, `Liveness` ends the run and names the process.
    settings["timeout"] = 1.2 * timeout_s(config) + 5
    if torch.cuda.is_available():
        init_dist("pytorch", **settings)
        return
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=settings["timeout"]))
    # By name: mmengine writes this into the config's text, where a class could not be parsed.
    config.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)


def timeout_s(config: Config) -> float:
    """How long a process may keep the others waiting, s: `env_cfg.dist_cfg.timeout`.

    Raises:
        ValueError: it is not a number above 0, or longer than 30 days.
    """
    value = config.get("env_cfg", {}).get("dist_cfg", {}).get("timeout", DEFAULT_TIMEOUT_S)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_TIMEOUT_S:
        raise ValueError(
            f"env_cfg.dist_cfg.timeout must be a number of seconds above 0, at most {MAX_TIMEOUT_S} (30 days), "
            f"got {value!r}"
        )
    return value


@contextmanager
def hold_work_dir(work_dir: str | os.PathLike) -> Iterator[None]:
    """Lock a folder for one run: the first process takes the lock, and all processes are refused if it is refused.

    The folder is made; it is removed again if nothing was written into it. Half-written files of killed runs are
    removed.

    Raises:
        FolderInUse: another run has it; its host and process id are named.
        OSError: the folder cannot be made or written.
    """
    folder, refusal, made = Path(work_dir), None, False
    with ExitStack() as held:
        if int(os.environ.get("RANK", 0)) == 0:
            try:
                made = not folder.exists()
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(hold_folder(folder))
                for leftover in folder.glob("*.pth.*partial"):
                    leftover.unlink(missing_ok=True)
            except (FolderInUse, OSError) as error:
                refusal = error
        if any_process(refusal is not None):
            raise refusal or FolderInUse(f"{folder}: the first process could not lock it; its message gives the reason")
        try:
            yield
        finally:
            held.close()
            if made:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()


def watch_processes(work_dir: str | os.PathLike, config: Config) -> None:
    """Start to watch the other processes: when one stops answering, this one ends with a line that names it.

    See `Liveness`.
    """
    global _liveness
    if get_world_size() > 1:
        _liveness = Liveness(work_dir, get_rank(), get_world_size(), timeout_s(config))
        barrier()
        _liveness.start()


def note_progress() -> None:
    """Note that this process has finished one more step; a process that has not is behind it."""
    if _liveness is not None:
        _liveness.progress += 1


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all processes must ask, and all get the same answer."""
    if get_world_size() == 1:
        return bool(flag)
    note_progress()
    votes = torch.tensor(float(flag))
    all_reduce(votes, op="max")  # mmengine moves it to the device that the process group talks over, and back
    return bool(votes > 0)


def leave_together() -> None:
    """End the process group once all processes have called this.

    The first process runs the store through which the others find each other. If it left before they are done, they
    would fail at the very end, and torchrun would start the finished run again.
    """
    global _liveness
    if torch.distributed.is_initialized():
        barrier()
        if _liveness is not None:
            _liveness.stop()
            _liveness = None
        torch.distributed.destroy_process_group()
