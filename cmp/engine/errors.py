"""What a command prints and returns where training raised an error."""

import errno
import os
import shutil
from contextlib import suppress

from cmp.folder_lock import FolderInUse

FAILED_STATUS = 1  # the job failed
REFUSED_STATUS = 2  # wrong usage or input
# What a wrong path leads to; any other OSError is a fault of the machine, such as a full disk.
WRONG_PATHS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


def describe_error(error: Exception, work_dir: str | os.PathLike = "the work dir") -> str:
    """An error's message, with its type where that tells more.

    Of an error in a data loader's worker it is the last line of the worker's own traceback. Where the disk was full
    while the logs of a run were written, whose files the error does not name, it is the folder with its free bytes.

    Args:
        error: what was raised.
        work_dir: the run's folder.
    """
    text = str(error).strip()
    if text.startswith("Caught "):
        return text.splitlines()[-1]
    if (
        isinstance(error, OSError)
        and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        and error.filename is None
        and ":" not in text
    ):
        free = "an unknown number of"
        with suppress(OSError):
            free = f"{shutil.disk_usage(work_dir).free:,}"
        return (
            f"{work_dir}: a log in this folder cannot be written ({error.strerror}); {free} bytes are free: make space "
            "and go on with --resume"
        )
    return text if isinstance(error, (OSError, ValueError, FloatingPointError)) else f"{type(error).__name__}: {text}"


def error_status(error: Exception) -> int:
    """The exit status for an error: 2 where the config, a path or the data is wrong, 1 where the job failed.

    mmengine builds what a config names, so a wrong config may raise any error, such as KeyError or AssertionError. A
    job fails by steps that are not finite (FloatingPointError), by errors of the device or of memory (RuntimeError,
    MemoryError) and by those of the machine (an OSError that is not about a wrong path).
    """
    if isinstance(error, FolderInUse) or is_compiler_error(error):  # asks for what this machine cannot do
        return REFUSED_STATUS
    failed = isinstance(error, (FloatingPointError, RuntimeError, MemoryError))
    failed = failed or isinstance(error, OSError) and not isinstance(error, WRONG_PATHS)
    return FAILED_STATUS if failed else REFUSED_STATUS


def is_compiler_error(error: Exception) -> bool:
    """Whether torch.compile failed."""
    return isinstance(error, RuntimeError) and type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
