"""Being asked to stop: SIGTERM (preemption, a shutdown) and SIGUSR1 (Slurm's warning before the time is up)."""

import os
import signal
import threading
from collections.abc import Callable
from functools import partial

STOPPED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, start it again
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopSignals:
    """Within `with`, a stop signal is remembered instead of ending the process, so that a step can be finished.

    After a stop was asked for, further ones are ignored on leaving: what is left to do is to exit, and launchers send
    the signal again to the processes that are slower at it. Outside the main thread nothing is caught.

    Attributes:
        received: the name of the first signal, None before it.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            if handler is _exit_at_once:  # what it says would not be true any more
                handler = signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if self.received else handler)

    def _remember(self, number: int, _) -> None:
        self.received = self.received or signal.Signals(number).name


def exit_at_stop_signals() -> None:
    """Until `StopSignals` take over, end at once with STOPPED_STATUS at a stop signal: there is nothing to save."""
    for number in STOP_SIGNALS:
        signal.signal(number, _exit_at_once)


def _exit_at_once(number: int, _) -> None:
    # Neither print nor sys.exit: the signal may come while something is printed, or where SystemExit is caught.
    line = f"stopped by {signal.Signals(number).name} before the first step: nothing had begun yet, start it again\n"
    os.write(2, line.encode())
    os._exit(STOPPED_STATUS)


def leave_stopping_to_the_run(init: Callable[[int], None] | None) -> Callable[[int], None]:
    """A data loader's `worker_init_fn` that does what `init` does and makes its process survive the stop signals.

    They often go to all processes of a job at once; a loader whose worker has died takes the run down while it saves.
    The run itself can still end its workers by SIGTERM.
    """
    return partial(_init_worker, init)


def _init_worker(init: Callable[[int], None] | None, worker_id: int) -> None:
    for number in set(STOP_SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where a SIGTERM to all processes therefore ends the run at once
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_the_parent_alone, daemon=True).start()
    if init is not None:
        init(worker_id)


def _obey_the_parent_alone() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
