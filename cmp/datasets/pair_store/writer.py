"""Write a pair store: shards, records and what is derived from them, by one job at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from cmp import files
from cmp.datasets.pair_store.format import (
    FORMAT_NAME,
    FORMAT_VERSION,
    MEMBERS,
    REJECTED_FOLDER,
    REQUIRED,
    TAR_BLOCK_BYTES,
    TEMPORARY_FOLDER,
    check_video_id,
    foreign_entries,
    member_header,
    read_about,
    sample_key,
    sealed_json,
    shard_path,
)
from cmp.datasets.pair_store.index import IndexBuilder
from cmp.datasets.pair_store.records import iterate_records
from cmp.files import NewFile
from cmp.folder_lock import hold_folder


class StoreWriteError(OSError):
    """The store itself cannot be written (disk full, no permission). The job must stop: no video is the cause."""


@contextmanager
def lock_store(root: str | os.PathLike) -> Iterator[None]:
    """Lock the store for one writing job; the folder is made if it does not exist.

    The lock ends with the process, however that ends.

    Raises:
        FolderInUse (a RuntimeError): another job has locked it; the message names its host and process id.
        ValueError: a folder in it is a link, so that files outside of the store would be written and deleted.
        StoreWriteError: the folder cannot be made or written.
    """
    root = Path(root)
    for name in ("shards", "videos", "parts", TEMPORARY_FOLDER, ".lock"):
        if (root / name).is_symlink():
            raise ValueError(
                f"{root / name}: is a link (to {os.readlink(root / name)!r}); a store has plain folders: copy it"
            )
    with ExitStack() as held:
        with _writing(root):
            root.mkdir(parents=True, exist_ok=True)
            held.enter_context(hold_folder(root, refusal="another job is writing this store"))
        yield


def begin_store(root: str | os.PathLike, settings: Mapping, about: Mapping) -> None:
    """Prepare a store for writing. Call it inside `lock_store`.

    Args:
        root: the store's folder; made if it does not exist.
        settings: JSON values that every sample depends on. They must equal those of a store that exists already.
        about: further JSON values kept for the reader (versions); not compared.

    Raises:
        ValueError: the folder contains other files, or a store made with other settings (the message names them).
        StoreWriteError: it cannot be written.
    """
    root = Path(root)
    settings = json.loads(json.dumps(settings))
    if (root / "store.json").is_file():
        before, now = _flat(read_about(root)["settings"]), _flat(settings)
        names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        if names:
            changes = ", ".join(f"{name} was {before.get(name)!r} and is now {now.get(name)!r}" for name in names)
            raise ValueError(f"{root}: begun with other settings: {changes}. Use the old ones, or another folder")
    else:
        foreign = sorted(
            entry.name for entry in root.iterdir() if entry.name not in (".lock", TEMPORARY_FOLDER, "parts")
        )
        if foreign:
            raise ValueError(f"{root}: not empty and not a pair store (holds {foreign[0]!r}); choose another folder")
    with _writing(root):
        shutil.rmtree(root / TEMPORARY_FOLDER, ignore_errors=True)
    if not (root / "store.json").is_file():  # written first: folders without it would be taken for other files
        content = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, "settings": settings, "about": dict(about)}
        write_file(root, Path("store.json"), sealed_json(content, indent=1))
    with _writing(root):
        for name in ("shards", "videos"):
            (root / name).mkdir(exist_ok=True)


def _flat(settings: Mapping) -> dict:
    """Bring nested settings to one level ("outer.inner"), so that a message can name the ones that differ."""
    inner = {f"{name}.{k}": v for name, value in settings.items() if isinstance(value, dict) for k, v in value.items()}
    return {name: value for name, value in settings.items() if not isinstance(value, dict)} | inner


def commit_record(root: str | os.PathLike, record: Mapping) -> None:
    """Write the record of a video. Its shard, if it has one, must be there already."""
    write_file(root, Path("videos") / f"{check_video_id(record['video_id'])}.json", sealed_json(record))


def discard_index(root: str | os.PathLike) -> None:
    """Remove index and manifest, which marks the store as unfinished. Call it before the store changes."""
    with _writing(root):
        for name in ("index.npz", "manifest.jsonl"):
            (Path(root) / name).unlink(missing_ok=True)


def finish_store(root: str | os.PathLike) -> dict[str, np.ndarray]:
    """Derive manifest.jsonl and index.npz from the records, and remove shards that no record names.

    Files that do not belong to the store (`foreign_entries`) stay. Returns the index (see
    `cmp.datasets.pair_store.format`).
    """
    root = Path(root)
    builder, wanted = IndexBuilder(), set()
    for record in iterate_records(root):
        builder.add(record)
        if record["shard"] is not None:
            wanted.add(f"{record['video_id']}.tar")
    index, derived = builder.files(root)
    with _writing(root):
        foreign = {name for name, _ in foreign_entries(root)}
        for name in sorted(os.listdir(root / "shards")):
            if name not in wanted and f"shards/{name}" not in foreign:
                os.unlink(root / "shards" / name)
    for name, data in derived.items():
        write_file(root, Path(name), data)
    with _writing(root):
        shutil.rmtree(root / TEMPORARY_FOLDER, ignore_errors=True)
    return index


class ShardWriter:
    """Write the tar shard of one video. `close` syncs it to the disk and gives it its name.

    As a context manager it discards the shard unless `close` was called. Every method raises StoreWriteError if the
    disk refuses a write.
    """

    def __init__(self, root: str | os.PathLike, video_id: str) -> None:
        self._root, self._video_id = Path(root), video_id
        self._path = shard_path(root, video_id)
        self._sha256 = hashlib.sha256()
        self._position = 0
        self.rows: list[dict] = []  # for the video's record, without scores
        with _writing(self._path):
            (self._root / TEMPORARY_FOLDER).mkdir(exist_ok=True)
            self._new = NewFile(self._path, folder=self._root / TEMPORARY_FOLDER, stop_at_once=True)
        self._closed = False

    def add(self, first_frame: int, second_frame: int, members: Mapping[str, bytes], *, rejected: bool = False) -> dict:
        """Append a sample.

        Args:
            first_frame, second_frame: positions of its frames in the video.
            members: bytes by name, of `MEMBERS`; first.jpg, flow.bin and json are required.
            rejected: whether the members go to the folder of rejected pairs.

        Returns:
            Its row for the video's record: {"frames", "members", "folder"}.

        Raises:
            ValueError: another name, a missing member, or frames that do not follow those of the last sample.
        """
        unknown = [name for name in members if name not in MEMBERS]
        missing = [MEMBERS[i] for i in REQUIRED if MEMBERS[i] not in members]
        if unknown or missing:
            raise ValueError(f"a sample needs {', '.join(missing) or 'nothing more'}; not known: {unknown}")
        if self.rows and [first_frame, second_frame] <= self.rows[-1]["frames"]:
            raise ValueError(f"pairs must rise, got {first_frame, second_frame} after {self.rows[-1]['frames']}")
        folder = REJECTED_FOLDER if rejected else ""
        key = folder + sample_key(self._video_id, first_frame, second_frame)
        places = []
        for name in MEMBERS:
            data = members.get(name)
            if data is None:
                places.append([0, -1, 0])
                continue
            self._write(member_header(f"{key}.{name}", len(data)))
            places.append([self._position, len(data), zlib.crc32(data)])
            self._write(data + bytes(-len(data) % TAR_BLOCK_BYTES))
        self.rows.append({"frames": [first_frame, second_frame], "members": places, "folder": folder})
        return dict(self.rows[-1])

    def close(self) -> dict:
        """Finish the shard and give it its name. Returns {"bytes", "sha256"}."""
        self._write(bytes(2 * TAR_BLOCK_BYTES))  # tar's end mark
        with _writing(self._path):
            self._closed = True
            self._new.commit()
        return {"bytes": self._position, "sha256": self._sha256.hexdigest()}

    def _write(self, data: bytes) -> None:
        with _writing(self._path, self._position + len(data)):
            self._new.file.write(data)
        self._sha256.update(data)
        self._position += len(data)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._closed:
            self._new.discard()


def write_file(root: str | os.PathLike, relative: Path, data: bytes) -> None:
    """Write a file of the store. It is there whole or not at all, also after a power failure."""
    root = Path(root)
    with _writing(root / relative):
        (root / TEMPORARY_FOLDER).mkdir(exist_ok=True)
        files.write_file(root / relative, data, folder=root / TEMPORARY_FOLDER)


@contextmanager
def _writing(path: str | os.PathLike, size: int | None = None) -> Iterator[None]:
    """Turn an OSError into a StoreWriteError that names the file and, on a full disk, the bytes needed so far."""
    try:
        yield
    except StoreWriteError:
        raise
    except OSError as error:
        named = error if error.strerror is None else files.name_write_error(error, path, size, is_whole=False)
        raise StoreWriteError(str(named)) from error
