"""Ctrl-C (SIGINT) in every command: one line, exit status 130, no traceback, no process left behind.

A command runs its `main` by `run_command`, and imports what is slow in `imports_can_be_interrupted`. Training replaces
the handler while it steps (`cmp.engine.stop_signals`): there, Ctrl-C finishes the step and saves.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

INTERRUPTED_STATUS = 130  # what a shell reports for a process that SIGINT ended: 128 + 2
unfinished: list[Path] = []  # files to remove when this process ends at once


def exit_at_interrupt() -> None:
    """From now on end at once at SIGINT, with one line and status 130: for the imports, while there is nothing to undo.

    This also holds where SIGINT was ignored, as shells have it for background jobs.
    """
    signal.signal(signal.SIGINT, _ExitAtOnce("interrupted while it was starting; nothing was done"))


@contextmanager
def imports_can_be_interrupted() -> Iterator[None]:
    """Around the slow imports of a command: SIGINT ends the process at once, because there is nothing to undo.

    Only in a process that `run_command` runs; elsewhere nothing changes.
    """
    if not runs_a_command():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    exit_at_interrupt()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def runs_a_command() -> bool:
    """Whether `run_command` runs this process."""
    return isinstance(signal.getsignal(signal.SIGINT), _Interrupt)


def run_command(main: Callable[[], int | None], *, endless: bool = False) -> NoReturn:
    """Run a command's `main` and exit with its status; SIGINT ends it with one line and status 130.

    Args:
        main: returns the exit status.
        endless: main returns only because it was interrupted, as a server does.

    The first SIGINT ends worker processes and raises KeyboardInterrupt in `main`, so that temporary files are removed
    on the way out. A second one ends the process at once. A `main` that catches KeyboardInterrupt to say more returns
    130 itself.
    """
    interrupt = _Interrupt()
    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = interrupt.unraisable
    try:
        status: int | str | None
        try:
            status = main()
        except SystemExit as error:  # argparse's
            status = error.code
        signal.signal(signal.SIGINT, _ExitAtOnce())  # what is left to do is to exit
    except BaseException:
        signal.signal(signal.SIGINT, _ExitAtOnce())
        if not interrupt.received:
            raise
        status = None  # whatever a library made of the KeyboardInterrupt
    else:
        if not interrupt.received or status == INTERRUPTED_STATUS or not (status or endless):
            sys.exit(status)
    end_children()
    _say("interrupted")
    sys.exit(INTERRUPTED_STATUS)


def end_children() -> None:
    """Kill the worker processes that `multiprocessing` started here, without a word from them or about them."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error for a loader's dead worker
    multiprocessing = sys.modules.get("multiprocessing")  # not imported: every command would wait for it
    for process in multiprocessing.active_children() if multiprocessing else ():
        with suppress(OSError, ValueError):  # it has just ended
            process.kill()


def exit_at_once(message: str | None = None, status: int = INTERRUPTED_STATUS) -> NoReturn:
    """End this process and its workers now; safe in a signal handler.

    Args:
        message: one line for standard error, after the command's name; None for no line.
        status: the exit status.
    """
    # Neither print nor sys.exit: the signal may come while something is printed, or where SystemExit is caught.
    if message is not None:
        _say(message)
    with suppress(Exception):
        end_children()
        for path in list(unfinished):
            path.unlink(missing_ok=True)
    os._exit(status)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """SIGINT waits until the end of the block; processes started in it never receive one.

    A terminal sends Ctrl-C to all processes of a job. A worker that is still importing would answer with a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda *_: came.append(1))  # it may arrive through another thread
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which new processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def child_finishes_first() -> Iterator[None]:
    """Around a blocking call that runs a child process: at SIGINT or SIGTERM the child gets SIGTERM and is waited for.

    So a training in it can save. When the block has ended, the signal takes its usual course; a second one kills the
    child and ends this process at once. The child is found by Linux's /proc; elsewhere only a terminal's Ctrl-C, which
    goes to both, reaches it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for pid in _children():
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM if len(received) == 1 else signal.SIGKILL)
        if len(received) > 1:
            exit_at_once("interrupted again: ended at once")

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        os.kill(os.getpid(), received[0])


def _children() -> list[int]:
    """Process ids of this process's children."""
    found = []
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, file.read_text().split())
    return found


class _ExitAtOnce:
    def __init__(self, message: str | None = None) -> None:
        self.message, self.owner = message, os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self.owner:  # a forked worker leaves the decision to this process
            exit_at_once(self.message)


class _Interrupt:
    """The handler while `main` runs. Attributes: received, whether SIGINT came."""

    def __init__(self) -> None:
        self.received, self._lost, self._owner = False, False, os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        if self.received and not self._lost:
            exit_at_once("interrupted again: ended at once")
        self.received, self._lost = True, False
        end_children()  # before they notice: a worker that is handing over a tensor would print a traceback
        raise KeyboardInterrupt

    def unraisable(self, what) -> None:
        """Python drops exceptions that are raised in a finalizer; raise a dropped KeyboardInterrupt again later."""
        if not isinstance(what.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(what)
            return
        self._lost = True
        again = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()


def _say(message: str) -> None:
    with suppress(OSError):
        os.write(2, f"{Path(sys.argv[0]).name}: {message}\n".encode())
