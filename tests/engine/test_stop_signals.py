import os
import signal
import threading

import pytest
import torch

from cmp.engine.stop_signals import (
    STOP_SIGNALS,
    STOPPED_STATUS,
    StopSignals,
    exit_at_stop_signals,
    ignoring_stop_signals,
)


@pytest.fixture(autouse=True)
def handlers_as_before():
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ("SIGTERM", "SIGUSR1", "SIGINT"))
def test_a_signal_is_remembered_and_later_ones_ignored(name):
    with StopSignals() as stop:
        assert stop.received is None
        os.kill(os.getpid(), getattr(signal, name))
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == name
    os.kill(os.getpid(), signal.SIGTERM)  # would end this process


def test_without_a_signal_everything_is_as_before():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with StopSignals():
        assert [signal.getsignal(number) for number in STOP_SIGNALS] != before
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_once_steps_have_begun_nothing_says_that_they_have_not():
    exit_at_stop_signals()
    others = [number for number in STOP_SIGNALS if number != signal.SIGINT]
    assert signal.SIG_DFL not in [signal.getsignal(number) for number in others]
    with StopSignals():
        pass
    assert [signal.getsignal(number) for number in others] == [signal.SIG_DFL] * 2


def test_the_ctrl_c_that_torchrun_passes_on_after_the_terminals_is_ignored(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with StopSignals() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == "SIGINT"
    os.kill(os.getpid(), signal.SIGINT)  # would raise KeyboardInterrupt, or end this process


def test_outside_the_main_thread_nothing_is_caught():
    seen = []

    def work():
        with StopSignals():
            seen.append([signal.getsignal(number) for number in STOP_SIGNALS])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [[signal.getsignal(number) for number in STOP_SIGNALS]]


class WorkerSays(torch.utils.data.Dataset):
    started = None

    def __len__(self):
        return 2

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGINT)
        return index, WorkerSays.started


def note(worker_id):
    WorkerSays.started = worker_id


def test_a_loaders_worker_survives_the_signals_and_runs_the_loaders_own_start():
    loader = torch.utils.data.DataLoader(
        WorkerSays(), batch_size=None, num_workers=1, worker_init_fn=ignoring_stop_signals(note)
    )
    assert list(loader) == [[0, 0], [1, 0]]
    assert ignoring_stop_signals(None)(0) is None


def test_a_loader_can_still_end_its_worker():
    """What Python does at exit with a worker that is left; one that refused would keep the run from ending."""
    loader = torch.utils.data.DataLoader(
        torch.arange(3), num_workers=1, persistent_workers=True, worker_init_fn=ignoring_stop_signals(None)
    )
    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    worker.terminate()
    worker.join(timeout=20)
    assert worker.exitcode == 0
    batches._workers_status[0] = False  # it is known to be gone


def test_the_status_is_no_shells_or_pythons_own():
    assert STOPPED_STATUS == 75
