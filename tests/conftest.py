"""What every test may ask for: the optional reference data beside the checkout."""

import importlib
import importlib.util
import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Commands that a test starts use this checkout's packages, whichever are installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

# Begun first, so that at the end no process works on a long file while the others have nothing left to do.
LONG_FILES = (
    "tests/baselines/test_training.py",
    "tests/robustness/test_faults.py",
    "tests/test_doc_commands.py",
    "tests/tools/test_interrupts.py",
    "tests/tools/test_prepare_flow.py",
    "tests/tools/test_train.py",
)


def pytest_collection_modifyitems(items):
    """Put the tests of long files first, otherwise in their order."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG_FILES))


@pytest.fixture(scope="session", autouse=True)
def format_each_config_once():
    """Keep what yapf made of a config's text: a run formats the same text seven times, longer than a test trains."""
    if importlib.util.find_spec("mmengine") is None:
        yield
        return
    module = importlib.import_module("mmengine.config.config")
    plain, formatted = module.FormatCode, {}

    def format_once(text, **options):
        key = text, repr(sorted(options.items(), key=str))
        if key not in formatted:
            formatted[key] = plain(text, **options)
        return formatted[key]

    module.FormatCode = format_once
    yield
    module.FormatCode = plain


@pytest.fixture(autouse=True)
def signals_as_before():
    """Undo what a test leaves ignored or blocked, as a stopped run does; its child processes would ignore it too."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def prepared_in_this_process():
    """Videos are prepared here, without worker processes, for tests of what is made and not of how it is made."""
    from data_prep import estimate, job
    from tests.in_this_process import InThisProcess

    with pytest.MonkeyPatch.context() as patch:
        for module in (estimate, job):
            patch.setattr(module, "LocalExecutor", InThisProcess)
        yield


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Reference data (real videos, ground-truth flow, golden outputs) that lies beside some checkouts, or a skip."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("no reference data: ../shared is not beside this checkout")
    return folder
