"""A record of each start of a run, in the run's folder."""

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path

import torch

from cmp.version import __version__
from cmp.weights import parse_json

FILE = "starts.jsonl"


def record_start(
    work_dir: str | PathLike,
    *,
    resumed_from: str | None,
    num_processes: int,
    loss: str | None = None,
    started_from: str | None = None,
) -> dict:
    """Append one line about this start to `starts.jsonl` in the run's folder; a resumed run has several lines.

    Args:
        work_dir: the run's folder; made if it does not exist.
        resumed_from: the checkpoint that it goes on from.
        num_processes: of the run.
        loss: name of its loss, with the unit; None where nothing is trained.
        started_from: the file whose weights it began with, at step 0; None where they were drawn.

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
    if loss is not None:
        start["loss"] = loss
    if started_from is not None:
        start["started_from"] = started_from
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(work_dir) / FILE, "a") as file:
        file.write(json.dumps(start) + "\n")
    return start


def last_origin(work_dir: str | PathLike) -> str | None:
    """The checkpoint from elsewhere that the last start of a run's folder went on from, for a message.

    The folder may be a stranger's, so the path is not opened.

    Returns:
        The path; None if the last start began anew, or went on from the folder's own checkpoint.

    Raises:
        ValueError: `starts.jsonl` cannot be read; the file is named.
    """
    file = Path(work_dir) / FILE
    if not file.is_file():
        return None
    try:
        line = file.read_text().splitlines()[-1]
        origin = parse_json(line, source="it")["resumed_from"]  # type: ignore[index]
        if not isinstance(origin, (str, type(None))):
            raise ValueError(f"resumed_from must be a path, got {type(origin).__name__}")
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{file} does not name in its last line what the run went on from: {error}") from error
    if origin is None or os.path.abspath(os.path.dirname(origin)) == os.path.abspath(work_dir):
        return None
    return origin


def commit() -> dict:
    """The checkout's commit, and whether files differ from it (changed); None outside a git checkout."""
    checkout = Path(__file__).resolve().parents[2]
    changes = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return dict(commit=_git(checkout, "rev-parse", "HEAD"), changed=None if changes is None else bool(changes))


def _git(checkout: Path, *arguments: str) -> str | None:
    if not (checkout / ".git").exists():  # installed: a repository further up is somebody else's
        return None
    try:
        process = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None
