"""The format of a pair store on disk, and what its readers and writers share.

    OUT/
      store.json            format, version, and every setting the samples were made with
      manifest.jsonl        one line per video, sorted by id: done, skipped (why) or failed (why), counts, checksum
      index.npz             the place of every member of every sample: random access without unpacking
      shards/<video_id>.tar the samples of one video, in the WebDataset layout
      videos/<video_id>.json  the record of one video: its kept and its rejected pairs, with scores, reasons and places
      parts/<i>-of-<n>/     stores of the tasks of an array job, until they are merged (data_prep.parts)
    .lock                 the job that is writing (see cmp.folder_lock); a killed job leaves this file behind

A sample is a run of tar members that share a key, `<video_id>-<first frame>-<second frame>` (no dots):

    <key>.first.jpg    frame t, JPEG
    <key>.second.jpg   frame t+k; only in stores made with it
    <key>.flow.bin     flow from t to t+k in pixels of the stored frame; payload of `cmp.flow.encode_flow`
    <key>.guides.npy   only in stores of earlier versions, where it was asked for: points that nothing reads
    <key>.json         video, frame numbers, time stamps, sizes, estimator, quality scores, and the flow's header
                       ("flow": codec, bound, step, measured error), which decodes the payload

A rejected pair is stored as well, because other thresholds may accept it later; jobs that ran with --forget-dropped
leave it out. Its members are in the folder `__rejected__/` of the shard. The webdataset package skips that name, so it
reads only the pairs that were kept. Shards never change: after new thresholds (`data_prep.decisions`) the records and
the index state what is kept, and the folder states what was kept when the shard was written.

Rules:
  - A record has two lists, "samples" (kept) and "dropped" (rejected). Their rows are {"frames", "quality" (scores),
    "members" (offset, size, crc32 of each of `MEMBERS`; null if not stored), "folder" (before their names)}; rejected
    rows also have "reasons".
  - A record in videos/ is the commit point of its video. It is written (temporary file, fsync, rename, fsync of the
    folder) after the shard, so the shard of a record that says "done" is whole. A shard without a record is a leftover
    of a killed job.
  - Nothing in the store depends on time, host, process or order: the same videos and settings give the same bytes,
    however often the job was killed in between.
  - store.json is written first. `finish_store` derives manifest.jsonl and index.npz from the records. Both are removed
    when a job starts to change the store: a store without index.npz is unfinished, and can still be read.
  - Names are built from video ids of letters, digits, "_" and "-", so nothing read from a file can lead out of the
    folder. Writers refuse a store whose folders are links.
  - A store may come from an untrusted source: what its files claim is checked (`records.check_record`, `index`) before
    it is used, and before memory is allocated. A member has at most `MAX_MEMBER_BYTES`, a record `MAX_RECORD_BYTES`.

index.npz (no pickles; V videos with samples, N samples, M = 5 members in the order of `MEMBERS`):
    format_version () int64; members (M,) str; video_ids (V,) str, sorted; shard_bytes (V,) int64;
    video (N,) int32 row of video_ids; frames (N, 2) int64; offset (N, M) int64 of the payload in its shard;
    size (N, M) int32, -1 where a sample lacks the member; crc32 (N, M) uint32 of the payload;
    store_json (bytes,) uint8 copy of store.json

store.json and the records contain a hash of themselves ("sha256"), and each record a hash of its shard; manifest and
index can be derived again. `check.check_store` therefore finds any flipped bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from cmp.flow.bounded import read_plain_file

FORMAT_NAME = "cmp-pairs"
FORMAT_VERSION = 1
MEMBERS = ("first.jpg", "second.jpg", "flow.bin", "guides.npy", "json")
REQUIRED = [MEMBERS.index(name) for name in ("first.jpg", "flow.bin", "json")]  # every sample has these
MAX_MEMBER_BYTES = 2**30  # of one file of a sample
MAX_RECORD_BYTES = 2**30  # of a record, store.json or the manifest: some million pairs
MAX_NUMBER = 2**62  # of what a record or an index counts: their sums fit in 64 bits
TAR_BLOCK_BYTES = 512
REJECTED_FOLDER = "__rejected__/"  # inside a shard
TEMPORARY_FOLDER = ".tmp"  # inside the store; emptied when a job starts
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def read_about(root: str | os.PathLike) -> dict:
    """Read store.json: "format", "format_version", "settings", "about".

    Raises FileNotFoundError if there is none, ValueError if this version cannot read it.
    """
    path = Path(root) / "store.json"
    try:
        content = parse_object(read_plain_file(path, MAX_RECORD_BYTES), path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{root}: no pair store here (no store.json)") from error
    if content.get("format") != FORMAT_NAME:
        raise ValueError(f"{path}: not a {FORMAT_NAME} store")
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path}: format version {content.get('format_version')}, this package reads {FORMAT_VERSION}")
    for name in ("settings", "about"):
        if not isinstance(content.get(name), dict):
            raise ValueError(f"{path}: {name} must be an object, got {content.get(name)!r:.80}")
    return content


def parse_object(data: bytes, name: str | os.PathLike) -> dict:
    """Parse the bytes of a JSON object; ValueError, starting with `name`, for anything else."""
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name}: must be a JSON object, got {type(content).__name__}")
    return content


def sealed_json(content: Mapping, indent: int | None = None) -> bytes:
    """Write an object as JSON with a hash of the rest under "sha256" (an old hash is replaced).

    Equal content gives equal bytes.
    """
    dump = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
    parts = {key: f"{dump(key)}:{dump(value)}" for key, value in sorted(content.items()) if key != "sha256"}
    digest = hashlib.sha256(f"{{{','.join(parts.values())}}}".encode()).hexdigest()
    if indent is None:
        parts["sha256"] = f'"sha256":"{digest}"'
        text = f"{{{','.join(parts[key] for key in sorted(parts))}}}"
    else:
        text = json.dumps({**content, "sha256": digest}, sort_keys=True, indent=indent)
    return (text + "\n").encode()


def sample_key(video_id: str, first_frame: int, second_frame: int) -> str:
    """The key of a sample. Keys sort by video, then by frame."""
    return f"{check_video_id(video_id)}-{first_frame:08d}-{second_frame:08d}"


def shard_path(root: str | os.PathLike, video_id: str) -> Path:
    """The path of a video's tar shard; ValueError for an id that could lead out of the store."""
    return Path(root) / "shards" / f"{check_video_id(video_id)}.tar"


def record_path(root: str | os.PathLike, video_id: str) -> Path:
    """The path of a video's record; ValueError as for `shard_path`."""
    return Path(root) / "videos" / f"{check_video_id(video_id)}.json"


def check_video_id(video_id: str) -> str:
    """Return the id of a video, or raise ValueError if it could lead out of the store."""
    if not isinstance(video_id, str) or not _VIDEO_ID.fullmatch(video_id):
        raise ValueError(f"not a video id (letters, digits, '_' and '-', at most 64): {video_id!r}")
    return video_id


def member_header(name: str, size: int) -> bytes:
    """The 512 bytes of tar header before a member. Owner and date are zero, so equal samples give equal bytes."""
    text = name.encode("ascii")
    if len(text) > 100 or size >= 8**11:  # such a name is split over two fields, such a size is refused
        return _whole_header(name, size)
    header = bytearray(_whole_header("", 0))  # filling in name, size and checksum takes a quarter of tarfile's time
    header[: len(text)] = text
    header[124:135] = b"%011o" % size
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    return bytes(header)


@lru_cache(maxsize=1)
def _whole_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def not_a_plain_file(path: str | os.PathLike) -> str | None:
    """State in words what is wrong with a path that should be a file of a store; None if nothing is."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    if stat.S_ISLNK(mode):
        return f"is a link (to {os.readlink(os.fspath(path))!r}); a store has plain files: copy what it points to"
    if stat.S_ISDIR(mode):
        return "is a folder, not a file; move it out of the store"
    return None if stat.S_ISREG(mode) else "is a pipe or a device, not a file; remove it"


def foreign_entries(root: str | os.PathLike) -> list[tuple[str, str]]:
    """List what is in the folders of a store but does not belong to it: (path inside the store, problem), sorted.

    These are links, including links in place of the folders, and files whose names cannot be those of a video. A shard
    without a record is not listed: killed jobs leave such shards.
    """
    root, found = Path(root), []
    for folder, suffix in (("shards", ".tar"), ("videos", ".json")):
        if (root / folder).is_symlink():
            found.append((folder, f"is a link (to {os.readlink(root / folder)!r}); a store has plain folders: copy it"))
        for entry in os.scandir(root / folder) if (root / folder).is_dir() else ():
            name = entry.name
            if not name.endswith(suffix) or not _VIDEO_ID.fullmatch(name.removesuffix(suffix)):
                found.append((f"{folder}/{name}", "is not a file of the store; move it away"))
            elif not entry.is_file(follow_symlinks=False) and (problem := not_a_plain_file(entry.path)):
                found.append((f"{folder}/{name}", problem))
    return sorted(found)
