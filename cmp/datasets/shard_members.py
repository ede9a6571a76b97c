"""The files in the shards of pair stores, read from front to back from any address."""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from cmp.addresses import open_address
from cmp.datasets.pair_store.format import MEMBERS, REJECTED_FOLDER, parse_object, sample_key
from cmp.datasets.pair_store.records import check_record

MAX_STREAMED_BYTES = 256 << 20  # of one file in a shard: the bound for images everywhere
MAX_RECORD_BYTES = 64 << 20  # of a video's record: some hundred thousand pairs


class Unusable(Exception):
    """In place of the content of a file: what is wrong with it."""


def stream_members(shards: Sequence[str]) -> Iterator[dict]:
    """Read the files of the kept pairs of these shards, in the form that webdataset groups into samples.

    A shard at .../shards/ID.tar has its checksums in the store's record, .../videos/ID.json. Where the record is there,
    each file is compared with it; of shards without one nothing is compared.

    Yields:
        "fname": KEY.MEMBER; "data": its bytes, or an `Unusable` if it is larger than `MAX_STREAMED_BYTES` (it is not
        read into memory) or its checksum differs; "__url__": the shard. Of a shard that breaks off, the last one is
        `Unusable`.

    Raises:
        FileNotFoundError, OSError: a shard cannot be opened or read.
        ValueError: a record is damaged; it is named.
    """
    for address in shards:
        checksums = _read_checksums(address)
        system, path = open_address(address)
        with system.open(path, "rb") as stream:
            name = PurePosixPath(path).stem
            try:
                with tarfile.open(fileobj=stream, mode="r|") as tar:
                    for member in tar:
                        name = member.name
                        if member.isreg() and not name.startswith(REJECTED_FOLDER):
                            yield dict(fname=name, data=_read(tar, member, checksums), __url__=address)
            except tarfile.TarError as error:
                yield dict(fname=f"{name}.rest", data=Unusable(f"the shard breaks off here: {error}"), __url__=address)


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, checksums: dict[str, int]) -> bytes | Unusable:
    if member.size > MAX_STREAMED_BYTES:
        return Unusable(f"{member.size} bytes, at most {MAX_STREAMED_BYTES} are read")
    file = tar.extractfile(member)
    data = b"" if file is None else file.read()
    if checksums.get(member.name, zlib.crc32(data)) != zlib.crc32(data):
        return Unusable("damaged: its checksum differs")
    return data


def _read_checksums(address: str) -> dict[str, int]:
    """CRC-32 by name of the files of a shard; empty where its store's record is not next to it."""
    folder, _, name = address.rpartition("/")
    if folder.rpartition("/")[2] != "shards":
        return {}
    place = f"{folder.rpartition('/')[0]}/videos/{name.removesuffix('.tar')}.json"
    system, path = open_address(place)
    try:
        with system.open(path, "rb") as file:
            data = bytearray()
            while len(data) <= MAX_RECORD_BYTES and (block := file.read(1 << 20)):
                data += block
    except (FileNotFoundError, NotADirectoryError):
        return {}
    if len(data) > MAX_RECORD_BYTES:
        raise ValueError(f"{place}: at most {MAX_RECORD_BYTES} bytes are read")
    record = parse_object(bytes(data), place)
    try:
        check_record(record, whole=False)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    return {
        f"{sample_key(record['video_id'], *row['frames'])}.{member}": crc32
        for row in (*record["samples"], *record["dropped"])
        if not row["folder"] and row["members"] is not None
        for member, (_, size, crc32) in zip(MEMBERS, row["members"])
        if size >= 0
    }
