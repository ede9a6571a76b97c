"""What a run was started from, kept in its folder."""

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path

import torch

from cmp.version import __version__

FILE = "starts.jsonl"


def record_start(work_dir: str | PathLike, *, resumed_from: str | None, num_processes: int) -> dict:
    """Append one line about this start to `starts.jsonl` in the run's folder; a resumed run has several.

    Returns:
        What was written: time (UTC), command, commit and whether the checkout differs from it (None where the code is
        not in a git checkout), versions, processes, and the checkpoint it goes on from.
    """
    start = dict(
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=list(sys.argv),
        **commit(),
        cmp_motion=__version__,
        torch=torch.__version__,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        processes=num_processes,
        resumed_from=resumed_from,
    )
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(work_dir) / FILE, "a") as file:
        file.write(json.dumps(start) + "\n")
    return start


def last_origin(work_dir: str | PathLike) -> str | None:
    """The checkpoint from elsewhere that the last start of a run's folder went on from; None if there was none.

    Raises:
        ValueError: `starts.jsonl` cannot be read; it is named.
    """
    file = Path(work_dir) / FILE
    if not file.is_file():
        return None
    try:
        origin = json.loads(file.read_text().splitlines()[-1])["resumed_from"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{file} does not say in its last line what the run went on from: {error}") from error
    own = origin is None or Path(origin).resolve().parent == Path(work_dir).resolve()
    return None if own else origin


def commit() -> dict:
    """The checkout's commit and whether files differ from it (changed); None where the code is in no git checkout."""
    checkout = Path(__file__).resolve().parents[2]
    changes = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return dict(commit=_git(checkout, "rev-parse", "HEAD"), changed=None if changes is None else bool(changes))


def _git(checkout: Path, *arguments: Sequence[str]) -> str | None:
    if not (checkout / ".git").exists():  # installed: a repository further up is somebody else's
        return None
    try:
        process = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None
