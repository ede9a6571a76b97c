"""Signals that stop a run: SIGTERM (preemption, a shutdown), SIGUSR1 (Slurm's warning) and SIGINT (Ctrl-C)."""

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from cmp.interrupts import exit_at_once

STOPPED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: not an error, start the run again
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))


class StopSignals:
    """Remember a stop signal instead of ending the process, so that a step can be finished; a context manager.

    Later signals are ignored, also after the block: launchers repeat the signal to processes that are slow to exit.
    Only a second Ctrl-C ends the process at once, with status 130, unless a launcher (torchrun, srun) started it.
    Outside the main thread no signal is caught.

    Attributes:
        received: the name of the first signal, None before it.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}
        self._owner = os.getpid()

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            if handler is _exit_at_once:  # its message would not be true any more
                handler = signal.SIG_DFL
            if self.received and (number != signal.SIGINT or _launched()):
                handler = signal.SIG_IGN
            elif self.received:
                handler = self._remember  # still ends the process at once
            signal.signal(number, handler)

    def _remember(self, number: int, _) -> None:
        if os.getpid() != self._owner:  # a worker that was just forked does not decide
            return
        if self.received and number == signal.SIGINT and not _launched():
            exit_at_once("interrupted again: ended at once; --resume goes on from the newest checkpoint")
        self.received = self.received or signal.Signals(number).name


def _launched() -> bool:
    """Whether torchrun or srun started this process: they repeat the Ctrl-C that the terminal sends to all."""
    return "RANK" in os.environ


def exit_at_stop_signals() -> None:
    """Until `StopSignals` take over, end at once with STOPPED_STATUS at SIGTERM or SIGUSR1: there is nothing to save.

    SIGINT is left to `cmp.interrupts`.
    """
    for number in set(STOP_SIGNALS) - {signal.SIGINT}:
        signal.signal(number, _exit_at_once)


def _exit_at_once(number: int, _) -> None:
    # Neither print nor sys.exit: the signal may come while something is printed, or where SystemExit is caught.
    line = f"stopped by {signal.Signals(number).name} before the first step: nothing had begun yet, start it again\n"
    os.write(2, line.encode())
    exit_at_once(status=STOPPED_STATUS)


def ignoring_stop_signals(init: Callable[[int], None] | None) -> Callable[[int], None]:
    """A data loader's `worker_init_fn` that calls `init` and makes the worker ignore stop signals.

    The signals often go to all processes of a job at once, and a loader whose worker has died ends the run while it
    saves. The run itself can still end its workers by SIGTERM.
    """
    return partial(_init_worker, init)


def _init_worker(init: Callable[[int], None] | None, worker_id: int) -> None:
    for number in set(STOP_SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where a SIGTERM to all processes therefore ends the run at once
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_only_the_parent, daemon=True).start()
    if init is not None:
        init(worker_id)


def _obey_only_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
