"""One writer per folder: a lock that ends with its process, and that says who has it.

The lock is the operating system's (`flock`) on a hidden file of the folder, so it ends with its process. On one machine
that decides. A worker that a process had just forked when it was killed keeps the lock until the worker's first lines
have run. So where the process that the file names is no longer there, the lock is waited for, for 35 s at most.

On a file system that several machines share, `flock` may hold for each machine alone (Lustre with `localflock`, some
FUSE file systems) or not exist, so the file also names its owner's machine and process, and the owner rewrites it every
10 s. A lock that was left by another machine is watched for 35 s: if the file changes, its owner is alive and the
newcomer is refused; if not, the owner is dead and its lock is taken over. Where `flock` does not reach across machines,
two processes that start within the same second on two machines may both be accepted.
"""

import errno
import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from cmp.interrupts import unfinished

BEAT_S = 10.0  # how often an owner rewrites its file
WATCH_S = 35.0  # how long the file of another machine is watched: three beats and a reserve

_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_held: set[int] = set()  # file descriptors, which forked children must not keep: the lock would outlive this process


class FolderInUse(RuntimeError):
    """Another process writes into the folder; the message names its machine and process id."""


@contextmanager
def hold_folder(
    folder: str | os.PathLike,
    *,
    name: str = ".lock",
    refusal: str = "another run writes into this folder",
    beat_s: float = BEAT_S,
    watch_s: float = WATCH_S,
) -> Iterator[None]:
    """Be the only process that writes into a folder, until the block ends or this process does.

    Args:
        folder: exists.
        name: of the lock's file in it; processes that use different names do not exclude each other.
        refusal: what is wrong if another process has it; its machine, process id and start follow.
        beat_s, watch_s: see the module; the same for all who share a folder.

    Raises:
        FolderInUse: another living process holds it.
        OSError: the file cannot be made.
    """
    path = Path(folder) / name
    handle, locked = _open(path, refusal, watch_s)
    try:
        left = os.pread(handle, 4096, 0)
        owner = _owner(left)
        if owner and not (locked and owner.get("machine") == _machine()) and _changes(path, left, watch_s):
            raise FolderInUse(_message(path, refusal, left))
        mine = _write(handle, 0)
    except BaseException:
        _close(handle)
        raise
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(handle, over, beat_s), daemon=True)
    thread.start()
    unfinished.append(path)
    try:
        yield
    finally:
        try:
            unfinished.remove(path)
            over.set()
            thread.join()
            with suppress(OSError):
                # Another start: the folder was removed, or taken over.
                if _owner(path.read_bytes()).get("start") == mine["start"]:
                    path.unlink()
        finally:
            _close(handle)  # also where Ctrl-C interrupts the lines above


def _open(path: Path, refusal: str, watch_s: float) -> tuple[int, bool]:
    """The file, and whether the system's lock on it is held (False where the file system has none)."""
    end, first = time.monotonic() + watch_s, None
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        _held.add(handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            text = os.pread(handle, 4096, 0)
            _close(handle)
            # A file that changes has a living owner, whose process cannot be seen from here: that of a container.
            if _has_ended(_owner(text)) and text == (first := first or text) and time.monotonic() < end:
                time.sleep(0.05)
                continue
            raise FolderInUse(_message(path, refusal, text)) from None
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                _close(handle)
                raise
            locked = False
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle, locked
        _close(handle)  # its owner removed it between the two calls


def _close(handle: int) -> None:
    _held.discard(handle)
    os.close(handle)


def _forget_in_child() -> None:
    for handle in list(_held):
        with suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def _machine() -> str:
    """What tells machines apart: the same for all containers of one."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()


_START = f"{time.time_ns()}"


def _write(handle: int, beat: int) -> dict:
    about = dict(host=platform.node(), pid=os.getpid(), machine=_machine(), start=f"{_START}-{handle}")
    about |= dict(since=datetime.fromtimestamp(int(_START) // 10**9, timezone.utc).isoformat(), beat=f"{beat:012d}")
    text = (json.dumps(about) + "\n").encode()
    os.pwrite(handle, text, 0)  # always of one length, so that a full disk does not matter after the first time
    os.ftruncate(handle, len(text))
    with suppress(OSError):
        os.fsync(handle)  # on NFS other machines see it only then
    return about


def _beat(handle: int, over: threading.Event, beat_s: float) -> None:
    beat = 0
    while not over.wait(beat_s):
        beat += 1
        with suppress(OSError):
            _write(handle, beat)


def _changes(path: Path, left: bytes, watch_s: float) -> bool:
    """Whether the file's owner writes it again within this time; False as soon as it is gone or empty."""
    end = time.monotonic() + watch_s
    while time.monotonic() < end:
        time.sleep(min(0.5, watch_s / 10))
        try:
            now = path.read_bytes()  # opened anew: that is when NFS asks the server
        except FileNotFoundError:
            return False
        if now != left:
            return bool(_owner(now))
    return False


def _owner(text: bytes) -> dict:
    """What the file says; empty if it says nothing."""
    try:
        owner = json.loads(text)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _has_ended(owner: dict) -> bool:
    """Whether the owner was a process of this machine that is no longer there."""
    if owner.get("machine") != _machine() or not isinstance(owner.get("pid"), int):
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is there, and another user's
        pass
    return False


def _message(path: Path, refusal: str, text: bytes) -> str:
    owner = _owner(text)
    who = "it has not written its name yet"
    if owner:
        who = f"host {owner.get('host')}, process {owner.get('pid')}, since {owner.get('since')}"
    return f"{path.parent}: {refusal} ({who}); wait for it to end, stop it, or name another folder"
