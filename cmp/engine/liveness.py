"""Find the process of a run that stopped answering, within a stated time and with any communication backend.

Gloo and NCCL report at best that an exchange took too long, not which process caused it. So every process keeps a file
in the run's folder, which all machines can read: a thread rewrites it every few seconds with a count of beats and with
the number of steps that the run's main thread has finished. The first process watches all others, and they watch it.
"""

import os
import platform
import sys
import threading
from contextlib import suppress
from pathlib import Path

from cmp.interrupts import end_children

FOLDER = ".alive"


class Liveness:
    """Watch the other processes until `stop`; when one is silent or stuck, end this one with a line and status 1.

    A process is silent if its file does not change for timeout_s (it is suspended, or its machine hangs). It is stuck
    if it is behind this one and makes no progress for timeout_s (it hangs while reading data, for example). Looks are
    counted, not seconds, so a job that is suspended as a whole continues afterwards. A process that never wrote a file
    is not watched: the folder is then not shared.

    Args:
        work_dir: the run's folder, the same for all processes.
        rank, world_size: of this process, and how many there are.
        timeout_s: above 0.
    """

    def __init__(self, work_dir: str | os.PathLike, rank: int, world_size: int, timeout_s: float) -> None:
        if not timeout_s > 0:
            raise ValueError(f"env_cfg.dist_cfg.timeout must be above 0 s, got {timeout_s!r}")
        self.folder, self.rank, self.timeout_s = Path(work_dir) / FOLDER, rank, timeout_s
        self.interval_s = min(10.0, timeout_s / 10)
        self.peers = range(1, world_size) if rank == 0 else (0,)
        self.progress, self._beats, self._over = 0, 0, threading.Event()
        self._seen = {peer: ("", "") for peer in self.peers}  # beats and progress
        self._silent, self._stuck = dict.fromkeys(self.peers, 0), dict.fromkeys(self.peers, 0)
        self.folder.mkdir(parents=True, exist_ok=True)
        # Not through a link: the folder may have been copied from somebody else, and the file is emptied.
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self.folder / str(rank), flags, 0o666)
        self._write()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to watch; call it when every process has its `Liveness`."""
        self._thread.start()

    def stop(self) -> None:
        """End watching; call it when all processes have reached their end."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(OSError):
            os.close(self._file)
            (self.folder / str(self.rank)).unlink()
            self.folder.rmdir()  # by the last one

    def look(self) -> str | None:
        """Write one beat and look at the others once; returns what is wrong with one of them, None if nothing is."""
        self._beats += 1
        self._write()
        for peer in self.peers:
            try:
                beats, progress, host, pid = (self.folder / str(peer)).read_text().split()
                steps = int(progress)
            except (OSError, ValueError):
                continue
            before, self._seen[peer] = self._seen[peer], (beats, progress)
            self._silent[peer] = self._silent[peer] + 1 if beats == before[0] else 0
            behind = steps < self.progress and progress == before[1]
            self._stuck[peer] = self._stuck[peer] + 1 if behind else 0
            who = f"rank {peer} (host {host}, process {pid})"
            if self._silent[peer] * self.interval_s >= self.timeout_s:
                return f"{who} has not answered for {self.timeout_s:g} s"
            if self._stuck[peer] * self.interval_s >= self.timeout_s:
                return f"{who} is alive, but the others have waited for it for {self.timeout_s:g} s"
        return None

    def _write(self) -> None:
        with suppress(OSError):  # always the same length and in place, so that it works on a full disk
            text = f"{self._beats:012d} {self.progress:012d} {platform.node() or '-'} {os.getpid()}\n"
            os.pwrite(self._file, text.encode(), 0)
            os.fsync(self._file)

    def _run(self) -> None:
        while not self._over.wait(self.interval_s):
            wrong = self.look()
            if wrong is not None and not self._over.is_set():
                advice = "this process ends, so that all can be started again from the newest checkpoint"
                line = f"{Path(sys.argv[0]).name}: {wrong} (env_cfg.dist_cfg.timeout); {advice}\n"
                os.write(2, line.encode())
                with suppress(Exception):
                    end_children()
                os._exit(1)
