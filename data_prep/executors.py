"""Run tasks in child processes that may crash or hang without harm to the others.

`concurrent.futures` gives up the whole pool when one child dies, and cannot stop one that hangs in native code. Here
every worker is a separate process behind a pipe. A dead, silent or late worker is replaced, and only its task is
affected. Workers are ended by a signal from outside, which works even if their native code holds the interpreter.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from cmp.interrupts import interrupts_held

_MAX_FAILED_STARTS, _MAX_KILLED_STARTS = 3, 30  # in a row; kills come from outside and may soon be over
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    status: one of
        "done": value is what the function returned.
        "error": the function raised; detail is the traceback.
        "died": its process ended; detail states how.
        "killed": its process was ended by SIGKILL, so from outside: by the system when memory ran out, or by a person.
        "stalled": its process reported nothing for too long and was ended.
        "late": the task took longer than allowed, whatever it reported, and its process was ended.
    """

    status: str
    value: Any = None
    detail: str = ""

    @property
    def last_line(self) -> str:
        """The last line of the detail. Of an error in writing the store, which names its file, only the message."""
        line = self.detail.strip().splitlines()[-1]
        name, _, message = line.partition(": ")
        return message if name.endswith("StoreWriteError") else line


@dataclass(frozen=True)
class TimeLimit:
    """The seconds that a task may take from its start; a task may pass one to `progress` once it knows its length.

    Only the first one that a task sends counts, so that a task cannot extend its time again and again.
    """

    seconds: float


class LocalExecutor:
    """Worker processes on this machine; use it as a context manager.

    Args:
        function: called in the workers as function(task, progress); importable by name. `progress` takes any value
            that can be pickled. The value goes to `on_progress` in this process, and shows that the task is alive.
        num_workers: number of processes at the same time; all cores that this process may use if None.
        initialize: called once in every new worker.
        stall_s: a worker that has sent nothing for this many seconds is killed; None for no limit.
        limit_s: called with a task; returns the seconds that it may take from its start, or None for no limit. The task
            may set this once itself, see `TimeLimit`.
        tasks_per_worker: a worker is replaced after this many tasks, so that leaks of native libraries stay bounded.
        max_growth_bytes: a worker is also replaced when its resident memory has grown by this much since its first
            task. Growth and not size counts, because what an estimator needs from the start is not a leak.
        on_progress: called with what workers report, except time limits.

    Workers ignore Ctrl-C (this process decides) and die with this process, however it ends.
    """

    def __init__(
        self,
        function: Callable[[Any, Callable[[Any], None]], Any],
        *,
        num_workers: int | None = None,
        initialize: Callable[[], None] | None = None,
        stall_s: float | None = None,
        limit_s: Callable[[Any], float | None] | None = None,
        tasks_per_worker: int = 100,
        max_growth_bytes: int = 256 << 20,
        on_progress: Callable[[Any], None] | None = None,
    ) -> None:
        check_limits(num_workers, stall_s)
        for name, value in (("tasks_per_worker", tasks_per_worker), ("max_growth_bytes", max_growth_bytes)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._function, self._initialize = function, initialize
        self._num_workers = num_workers or available_cores()
        self._stall_s, self._limit_s, self._on_progress = stall_s, limit_s, on_progress
        self._tasks_per_worker, self._max_growth_bytes = tasks_per_worker, max_growth_bytes
        self._pending: deque = deque()
        self._workers: list[_Worker] = []
        self._failed_starts = self._killed_starts = 0  # in a row

    def submit(self, task: Any) -> None:
        """Queue a task; allowed while `outcomes` runs."""
        self._pending.append(task)

    def outcomes(self) -> Iterator[tuple[Any, Outcome]]:
        """Yield (task, outcome) as tasks end, in any order, until all are done.

        Raises:
            RuntimeError: three workers in a row ended before they could take a task, or thirty were killed.
        """
        while self._pending or any(worker.busy for worker in self._workers):
            self._assign()
            for worker in self._ready():
                ended = self._receive(worker)
                if ended is not None:
                    yield ended
            for worker in list(self._workers):
                overdue = self._overdue(worker) if worker.busy else None
                if overdue is not None:
                    task = worker.task
                    self._remove(worker)
                    yield task, overdue

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
                worker.give(task, None if self._limit_s is None else self._limit_s(task))
            except OSError:  # it died between two tasks
                self._remove(worker)
                self._pending.appendleft(task)
        starting = sum(not worker.started for worker in self._workers)
        for _ in range(min(self._num_workers - len(self._workers), len(self._pending) - starting)):
            self._workers.append(_Worker(self._function, self._initialize))

    def _overdue(self, worker: _Worker) -> Outcome | None:
        now = time.monotonic()
        if worker.limit_s is not None and now > worker.given_at + worker.limit_s:
            return Outcome("late", detail=f"not done within the {worker.limit_s:.0f} s that its length allows")
        if self._stall_s is not None and now > worker.heard_at + self._stall_s:
            return Outcome("stalled", detail=f"no progress for {self._stall_s:g} s")
        return None

    def _ready(self) -> list[_Worker]:
        handles: dict[Any, _Worker] = {}
        ends = []
        for worker in self._workers:
            handles[worker.connection] = handles[worker.process.sentinel] = worker
            if worker.busy and self._stall_s is not None:
                ends.append(worker.heard_at + self._stall_s)
            if worker.busy and worker.limit_s is not None:
                ends.append(worker.given_at + worker.limit_s)
        # Slightly later than the end, so that it has passed. Capped, because a wait of months overflows in C.
        timeout = min(max(0.0, min(ends) - time.monotonic()) + 0.001, 3600.0) if ends else None
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
                killed = how.endswith("SIGKILL")
                self._failed_starts += not killed
                self._killed_starts += killed
                if self._failed_starts == _MAX_FAILED_STARTS or self._killed_starts == _MAX_KILLED_STARTS:
                    raise RuntimeError(f"worker processes cannot start ({how})") from None
            status = "killed" if how.endswith("SIGKILL") else "died"
            return (task, Outcome(status, detail=how)) if worker.busy else None
        worker.heard_at = time.monotonic()
        if kind == "started":
            worker.started = True
            self._failed_starts = self._killed_starts = 0
            return None
        if kind == "progress" and isinstance(value, TimeLimit):
            if self._limit_s is not None and not worker.limit_is_own:
                worker.limit_s, worker.limit_is_own = value.seconds, True
            return None
        if kind == "progress":
            if self._on_progress is not None:
                self._on_progress(value)
            return None
        task = worker.task
        value, resident = value
        worker.take_back(resident)
        if worker.tasks_done >= self._tasks_per_worker or worker.growth_bytes > self._max_growth_bytes:
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
    given_at: float = 0.0
    limit_s: float | None = None
    limit_is_own: bool = False  # set by the task itself
    first_bytes: int = 0  # resident after the first task
    growth_bytes: int = 0

    def __post_init__(self) -> None:
        # spawn, not fork: native decoders and OpenCV's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, self.function, self.initialize, os.getpid())
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        resource_tracker.ensure_running()  # the first start would do it, and unblock SIGINT afterwards
        with interrupts_held():  # Ctrl-C reaches the workers too, and this one would be importing
            self.process.start()
        theirs.close()

    def give(self, task: Any, limit_s: float | None) -> None:
        self.connection.send(task)
        self.task, self.busy, self.heard_at = task, True, time.monotonic()
        self.given_at, self.limit_s, self.limit_is_own = self.heard_at, limit_s, False

    def take_back(self, resident_bytes: int) -> None:
        self.task, self.busy = None, False
        self.tasks_done += 1
        self.first_bytes = self.first_bytes or resident_bytes
        self.growth_bytes = resident_bytes - self.first_bytes

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


def check_limits(num_workers: int | None, stall_s: float | None) -> None:
    """Raise ValueError for values that `LocalExecutor` refuses, so that a job can check them before it writes."""
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    if stall_s is not None and not stall_s > 0:
        raise ValueError(f"stall_s must be above 0, got {stall_s}")


def available_cores() -> int:
    """The number of cores that this process may use; on shared machines fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _serve(connection: Connection, function: Callable, initialize: Callable | None, parent: int) -> None:
    """Run in a worker process: take tasks and send back results until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(parent)
    if initialize is not None:
        initialize()
    connection.send(("started", None))
    while True:
        try:
            task = connection.recv()
            try:
                kind, value = "done", function(task, lambda value: connection.send(("progress", value)))
            except Exception:
                kind, value = "error", traceback.format_exc()
            connection.send((kind, (value, _resident_bytes())))
        except (EOFError, OSError):  # the parent is gone
            return


def _die_with(parent: int) -> None:
    """End this process when its parent ends; on Linux even while native code holds the interpreter."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)

    def watch() -> None:
        process = multiprocessing.parent_process()
        if process is not None:  # else it is gone already
            wait([process.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _resident_bytes() -> int:
    """Resident memory of this process; its peak where the system does not give the present value."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10
