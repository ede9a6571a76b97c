"""Run tasks in child processes that may crash or hang without harm to the others.

`concurrent.futures` gives up the whole pool when one child dies and cannot stop one that hangs in native code. Here
every worker is a process of its own behind a pipe: a dead or silent one is replaced and only its task is affected.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

_MAX_FAILED_STARTS = 3
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    status: "done" (value is what the function returned), "error" (it raised; detail is the traceback), "died" (its
        process ended; detail says how), or "stalled" (its process was silent for too long and was killed).
    """

    status: str
    value: Any = None
    detail: str = ""


class LocalExecutor:
    """Worker processes on this machine; use it as a context manager.

    Args:
        function: called in the workers as function(task, progress); importable by name. `progress` takes any value
            that can be pickled, hands it to `on_progress` in this process, and shows that the task is alive.
        num_workers: processes at a time; all cores this process may use if None.
        initialize: called once in every new worker.
        stall_s: a worker that has sent nothing for so long is killed; None to wait for ever.
        tasks_per_worker: a worker is replaced after so many tasks, so leaks of native libraries stay bounded.
        on_progress: called with what workers report.

    Workers ignore Ctrl-C (this process decides) and die with this process, however it ends.
    """

    def __init__(
        self,
        function: Callable[[Any, Callable[[Any], None]], Any],
        *,
        num_workers: int | None = None,
        initialize: Callable[[], None] | None = None,
        stall_s: float | None = None,
        tasks_per_worker: int = 100,
        on_progress: Callable[[Any], None] | None = None,
    ) -> None:
        for name, value in (("num_workers", num_workers), ("tasks_per_worker", tasks_per_worker)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if stall_s is not None and not stall_s > 0:
            raise ValueError(f"stall_s must be above 0, got {stall_s}")
        self._function, self._initialize = function, initialize
        self._num_workers = num_workers or available_cores()
        self._stall_s, self._tasks_per_worker, self._on_progress = stall_s, tasks_per_worker, on_progress
        self._pending: deque = deque()
        self._workers: list[_Worker] = []
        self._failed_starts = 0  # in a row

    def submit(self, task: Any) -> None:
        """Queue a task; allowed while `outcomes` runs."""
        self._pending.append(task)

    def outcomes(self) -> Iterator[tuple[Any, Outcome]]:
        """Yield (task, outcome) as tasks end, in any order, until none is left.

        Raises:
            RuntimeError: three workers in a row ended before they could take a task.
        """
        while self._pending or any(worker.busy for worker in self._workers):
            self._assign()
            for worker in self._ready():
                ended = self._receive(worker)
                if ended is not None:
                    yield ended
            for worker in list(self._workers):
                if worker.busy and self._stall_s is not None and time.monotonic() > worker.heard_at + self._stall_s:
                    task = worker.task
                    self._remove(worker)
                    yield task, Outcome("stalled", detail=f"no progress for {self._stall_s:g} s")

    def close(self) -> None:
        """Kill all workers."""
        for worker in list(self._workers):
            self._remove(worker)

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _assign(self) -> None:
        idle = [worker for worker in self._workers if worker.started and not worker.busy]
        while idle and self._pending:
            worker = idle.pop()
            task = self._pending.popleft()
            try:
                worker.give(task)
            except OSError:  # it died between two tasks
                self._remove(worker)
                self._pending.appendleft(task)
        starting = sum(not worker.started for worker in self._workers)
        for _ in range(min(self._num_workers - len(self._workers), len(self._pending) - starting)):
            self._workers.append(_Worker(self._function, self._initialize))

    def _ready(self) -> list[_Worker]:
        handles = {}
        for worker in self._workers:
            handles[worker.connection] = handles[worker.process.sentinel] = worker
        timeout = None
        if self._stall_s is not None:
            ends = [worker.heard_at + self._stall_s for worker in self._workers if worker.busy]
            timeout = max(0.0, min(ends) - time.monotonic()) if ends else None
        found = wait(list(handles), timeout)
        return list(dict.fromkeys(handles[handle] for handle in found))

    def _receive(self, worker: _Worker) -> tuple[Any, Outcome] | None:
        try:
            if not worker.connection.poll():
                raise EOFError
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            task, how = worker.task, worker.how_it_ended()
            self._remove(worker)
            if not worker.started:
                self._failed_starts += 1
                if self._failed_starts == _MAX_FAILED_STARTS:
                    raise RuntimeError(f"worker processes cannot start ({how})") from None
            return (task, Outcome("died", detail=how)) if worker.busy else None
        worker.heard_at = time.monotonic()
        if kind == "started":
            worker.started = True
            self._failed_starts = 0
            return None
        if kind == "progress":
            if self._on_progress is not None:
                self._on_progress(value)
            return None
        task = worker.task
        worker.take_back()
        if worker.tasks_done >= self._tasks_per_worker:
            self._remove(worker)
        return task, Outcome("done", value=value) if kind == "done" else Outcome("error", detail=value)

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.kill()


@dataclass(eq=False)
class _Worker:
    function: Callable
    initialize: Callable | None
    started: bool = False
    busy: bool = False
    task: Any = None
    tasks_done: int = 0
    heard_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        # spawn, not fork: native decoders and OpenCV's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, self.function, self.initialize, os.getpid())
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def give(self, task: Any) -> None:
        self.connection.send(task)
        self.task, self.busy, self.heard_at = task, True, time.monotonic()

    def take_back(self) -> None:
        self.task, self.busy = None, False
        self.tasks_done += 1

    def how_it_ended(self) -> str:
        self.process.join(5)
        code = self.process.exitcode
        if code is not None and code < 0:
            try:
                return f"its process was ended by {signal.Signals(-code).name}"
            except ValueError:
                return f"its process was ended by signal {-code}"
        return f"its process ended with status {code}"

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()


def available_cores() -> int:
    """Cores this process may use, which on shared machines are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _serve(connection: Connection, function: Callable, initialize: Callable | None, parent: int) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(parent)
    if initialize is not None:
        initialize()
    connection.send(("started", None))
    while True:
        try:
            task = connection.recv()
            try:
                answer = ("done", function(task, lambda value: connection.send(("progress", value))))
            except Exception:
                answer = ("error", traceback.format_exc())
            connection.send(answer)
        except (EOFError, OSError):  # the parent is gone
            return


def _die_with(parent: int) -> None:
    """End this process when its parent ends; on Linux even while native code holds the interpreter."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)

    def watch() -> None:
        wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
