"""A pair store at an address: what preparation reads and writes there. Formats and order are those of a local store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmp.addresses import network_errors, open_address
from cmp.datasets.pair_store import (
    MAX_RECORD_BYTES,
    IndexBuilder,
    StoreWriteError,
    check_record,
    parse_object,
    read_about,
    sealed_json,
)

_DERIVED = ("index.npz", "manifest.jsonl")


class RemoteStore:
    """The files of a store at an address.

    A shard is uploaded before its record, and store.json first, so a job that was killed leaves whole videos, and
    perhaps a shard without a record, which the next job writes again. There is no lock: one job at a time may write.

    Args:
        address: such as s3://bucket/store.

    Raises:
        ModuleNotFoundError, ValueError: as `open_address`.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._system, root = open_address(address)
        self._root = root.rstrip("/")

    def place(self, name: str) -> str:
        """The path of a file of the store in its file system."""
        return f"{self._root}/{name}"

    def read_about(self, folder: Path) -> dict | None:
        """Copy store.json to a folder and read it; None where the address has none.

        Raises:
            OSError: the address cannot be read.
            ValueError: it is not the store.json of a store, or there are other files at the address.
        """
        data = self._read("store.json")
        if data is None:
            if names := self._names(""):
                raise ValueError(f"{self.address}: not empty and not a pair store (holds {sorted(names)[0]!r})")
            return None
        (folder / "store.json").write_bytes(data)
        return read_about(folder)

    def read_records(self) -> dict[str, dict]:
        """The records of the videos that are whole, by video id: the record is valid, and its shard has its size.

        Raises:
            OSError: the address cannot be read.
        """
        shards = self._names("shards")
        records = {}
        for name in sorted(self._names("videos")):
            data = self._read(f"videos/{name}")
            try:
                record = parse_object(data or b"", name)
                if sealed_json(record) != data:
                    continue  # cut, or changed: the video is done again
                check_record(record)
            except ValueError:
                continue
            whole = record["shard"] is None or shards.get(f"{record['video_id']}.tar") == record["shard"]["bytes"]
            if whole and name == f"{record['video_id']}.json":
                records[record["video_id"]] = record
        return records

    def put_about(self, folder: Path) -> None:
        """Upload store.json of a local store."""
        self._put(folder / "store.json", "store.json")

    def discard_index(self) -> None:
        """Remove index and manifest, which marks the store as unfinished. Call it before the store changes."""
        for name in _DERIVED:
            if self._exists(name):
                self._system.rm_file(self.place(name))

    def put_video(self, folder: Path, record: Mapping) -> None:
        """Upload the shard of a video, if it has one, and then its record, from a local store."""
        video_id = record["video_id"]
        if record["shard"] is not None:
            self._put(folder / "shards" / f"{video_id}.tar", f"shards/{video_id}.tar")
        self._put(folder / "videos" / f"{video_id}.json", f"videos/{video_id}.json")

    def finish(self, folder: Path, records: Mapping[str, dict]) -> None:
        """Derive manifest and index from all records, and upload them; `folder` has the store.json."""
        builder = IndexBuilder()
        for _, record in sorted(records.items()):
            builder.add(record)
        for name, data in builder.files(folder)[1].items():
            (folder / name).write_bytes(data)
            self._put(folder / name, name)

    def is_finished(self) -> bool:
        """Whether manifest and index are there."""
        return all(self._exists(name) for name in _DERIVED)

    def _exists(self, name: str) -> bool:
        self._system.invalidate_cache()
        return bool(self._system.exists(self.place(name)))

    def _read(self, name: str) -> bytes | None:
        try:
            with self._system.open(self.place(name), "rb") as file:
                data = file.read(MAX_RECORD_BYTES + 1)
        except FileNotFoundError:
            return None
        if len(data) > MAX_RECORD_BYTES:
            raise ValueError(f"{self.address}/{name}: larger than {MAX_RECORD_BYTES} bytes")
        return data

    def _names(self, folder: str) -> dict[str, int | None]:
        """Names in a folder of the store, each with its size in bytes; empty where there is no folder."""
        self._system.invalidate_cache()
        try:
            entries = self._system.ls(self.place(folder).rstrip("/"), detail=True)
        except FileNotFoundError:
            return {}
        found = {entry["name"].rstrip("/").rpartition("/")[2]: entry.get("size") for entry in entries}
        found.pop("", None)
        return found

    def _put(self, local: Path, name: str) -> None:
        place = self.place(name)
        try:
            self._system.makedirs(place.rpartition("/")[0], exist_ok=True)
            self._system.put_file(str(local), place)
        except network_errors(NotImplementedError) as error:
            raise StoreWriteError(
                f"{self.address}/{name}: cannot be written ({error or type(error).__name__})"
            ) from error
