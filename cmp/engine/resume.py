"""Which checkpoint a run goes on from."""

import os
from collections.abc import Callable
from pathlib import Path

from cmp.engine.provenance import last_origin
from cmp.weights import read_weight_file


def checkpoint_to_resume(
    asked: str | None, work_dir: str, *, restarted: bool = False, warn: Callable[[str], None] = print
) -> str | None:
    """The checkpoint to go on from: the one asked for, or with "auto" the newest whole one; None to start anew.

    Where torchrun has started the processes again, they go on from the folder's newest, whatever was asked for, or from
    the one asked for if the folder has none. No file names what is opened: only the caller does, and the folder.

    Args:
        asked: a path, "auto", or None where no checkpoint is asked for.
        work_dir: the run's folder.
        restarted: whether torchrun has started this run's processes before.
        warn: receives one line for each newer checkpoint that cannot be read and is therefore passed over.

    Returns:
        An absolute path, or None.

    Raises:
        FileNotFoundError, ValueError: the one asked for is missing or broken; the folder has checkpoints of another run
            or branch, which a later --resume would take for this run's; or, with "auto", it has none and its last start
            went on from a checkpoint elsewhere, which must be given again.
    """
    if asked is None and not restarted:
        earlier = sorted(Path(work_dir).glob("iter_*.pth"))
        if earlier:
            raise ValueError(f"{earlier[0]} is of an earlier run: --resume goes on, another --work-dir starts anew")
        return None
    newest, broken = newest_checkpoint(work_dir)
    for reason in broken:
        warn(f"passed over: {reason}")
    if newest and asked not in (None, "auto") and not restarted and newest.resolve() != Path(asked).resolve():
        raise ValueError(
            f"{work_dir} has {newest.name}, from which a later --resume would go on, and not from what followed "
            f"{asked}: --resume without a path goes on from {newest.name}, another --work-dir branches off"
        )
    if newest:
        return os.path.abspath(newest)
    if asked == "auto":
        origin = last_origin(work_dir)
        if origin is not None:
            raise ValueError(
                f"{work_dir} has no checkpoint yet, and its last start went on from {shown_path(origin)}: give that "
                "path to --resume again, or start anew in another --work-dir"
            )
        return None
    if asked is None:
        return None
    read_weight_file(asked).state_dict()
    return os.path.abspath(asked)


def last_checkpoint(work_dir: str | os.PathLike) -> Path | None:
    """The checkpoint in a run's folder that its file `last_checkpoint` names, by its name alone; None if it names none.

    Whether it exists is not looked at. The file contains a path, as mmengine writes it. A folder that was moved or
    copied still has its own checkpoint, and a stranger's folder names no file elsewhere.
    """
    try:
        name = (Path(work_dir) / "last_checkpoint").read_text().strip()
    except (OSError, ValueError):
        return None
    path = Path(work_dir) / os.path.basename(name.replace("\\", "/"))
    return path if path.suffix == ".pth" and path.name.isprintable() else None


def shown_path(path: str) -> str:
    """A path from a file as part of a message of one line: at most 200 characters, escaped where it is not plain."""
    path = path if len(path) <= 200 else path[:200] + "..."
    return path if path.isprintable() else repr(path)


def newest_checkpoint(work_dir: str | os.PathLike) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a run that can be read, whatever happened while the last one was being written.

    Args:
        work_dir: folder with `iter_N.pth` files.

    Returns:
        Its path, None if there is none; and for every newer name why it cannot be read: damaged, a folder, a link to
        nothing.
    """
    numbered = {}
    for path in Path(work_dir).glob("iter_*.pth"):
        number = path.stem.removeprefix("iter_")
        if number.isascii() and number.isdecimal():
            numbered[int(number)] = path
    broken = []
    for _, path in sorted(numbered.items(), reverse=True):
        try:
            read_weight_file(path).state_dict()
        except (OSError, ValueError) as error:
            broken.append(str(error))
        else:
            return path, broken
    return None, broken
