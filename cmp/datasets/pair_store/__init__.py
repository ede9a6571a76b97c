"""The pair store: frame pairs with flow on disk, written video by video and read by position.

| module | contents |
| --- | --- |
| `format` | the description of the folder, and what readers and writers share: names, paths, sealed JSON, tar headers |
| `records` | the record of a video: reading it, and refusing one that no writer of this package made |
| `index` | the index of all samples: building it from the records, and checking one that was read |
| `reader` | `PairStore`, which reads samples by position |
| `writer` | shards, records and the finished store; one writing job at a time |
| `check` | `check_store`, which finds any flipped bit and what is missing |
"""

from cmp.datasets.pair_store.check import Damage, check_store
from cmp.datasets.pair_store.format import (
    FORMAT_NAME,
    FORMAT_VERSION,
    MAX_MEMBER_BYTES,
    MAX_RECORD_BYTES,
    MEMBERS,
    REJECTED_FOLDER,
    foreign_entries,
    member_header,
    not_a_plain_file,
    parse_object,
    read_about,
    record_path,
    sample_key,
    sealed_json,
    shard_path,
)
from cmp.datasets.pair_store.index import IndexBuilder
from cmp.datasets.pair_store.reader import PairSample, PairStore
from cmp.datasets.pair_store.records import (
    check_record,
    iterate_records,
    read_manifest,
    read_record,
    read_records,
    recorded_videos,
    stored_rows,
    summarize,
)
from cmp.datasets.pair_store.writer import (
    ShardWriter,
    StoreWriteError,
    begin_store,
    commit_record,
    discard_index,
    finish_store,
    lock_store,
    write_file,
)

__all__ = [
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "MAX_MEMBER_BYTES",
    "MAX_RECORD_BYTES",
    "MEMBERS",
    "REJECTED_FOLDER",
    "Damage",
    "IndexBuilder",
    "PairSample",
    "PairStore",
    "ShardWriter",
    "StoreWriteError",
    "begin_store",
    "check_record",
    "check_store",
    "commit_record",
    "discard_index",
    "finish_store",
    "foreign_entries",
    "lock_store",
    "member_header",
    "not_a_plain_file",
    "parse_object",
    "iterate_records",
    "read_about",
    "read_manifest",
    "read_record",
    "read_records",
    "record_path",
    "recorded_videos",
    "sample_key",
    "sealed_json",
    "shard_path",
    "stored_rows",
    "summarize",
    "write_file",
]
