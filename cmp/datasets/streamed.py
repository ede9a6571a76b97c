"""Pairs from shards that are read from front to back: for stores that are larger than the disk.

The tar shards of a pair store are opened through fsspec (a path, s3://, gs://, https://, ...) and read by the package
webdataset. `PropagationDataset` over a `PairStore` is better where the store is on a disk. What a stream loses:

- The order is only nearly random. Shards are permuted, and pairs are shuffled within a buffer, so pairs of one video
  come near each other. A buffer of 1,000 pairs of 416 px takes about 0.5 GB per worker.
- A resumed run does not go on behind the last pair: it begins another order, which follows from the seed and the step.
  Some pairs come again sooner, others later.
- Shards are divided among processes and workers, not pairs: those with short shards begin their next epoch earlier.
- New thresholds have no effect. A shard contains what was kept when it was written.
- A pair that is damaged is left out, with a line on stderr. Checksums are compared where the record of a shard is next
  to it (`shard_members`); of tar files alone damage is found only where a pair can then not be decoded.
- A stream cannot supply the image of another video, and it has no list of paths, so no `val_list`. Use it for training,
  and validate on a store.
"""

import random
import sys
import zlib
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import PurePosixPath

import numpy as np
import torch
from mmengine.dist import get_dist_info

from cmp.addresses import open_address
from cmp.datasets.pair_store.format import parse_object
from cmp.datasets.propagation import PropagationDataset
from cmp.datasets.shard_members import Unusable, stream_members
from cmp.datasets.splits import split_positions
from cmp.flow import FlowField
from cmp.flow.codec import open_flow
from cmp.images import decode_image


def list_shards(root: str, *, part: str = "all", val_share: float = 0.1) -> list[str]:
    """List the shards of a pair store, one per video.

    Args:
        root: the store: a path, or an address that fsspec knows, such as s3://bucket/store.
        part: "train" and "val": the videos of `split_positions`; "all".
        val_share: share of the videos that are kept for validation. A store with so few videos that `split_positions`
            divides each of them cannot be divided by shards.

    Returns:
        Addresses, sorted.

    Raises:
        FileNotFoundError: there are no shards.
        ValueError: the store has too few videos for a part, or val_share is out of range.
    """
    system, folder = open_address(root)
    shards = sorted(system.unstrip_protocol(path) for path in system.glob(f"{folder}/shards/*.tar"))
    if not shards:
        raise FileNotFoundError(f"{root}: contains no shards (shards/*.tar)")
    if part == "all":
        return shards
    videos = [PurePosixPath(shard).stem for shard in shards]
    train, val = (split_positions(videos, name, val_share=val_share).tolist() for name in ("train", "val"))
    chosen = {"train": train, "val": val}.get(part)
    if chosen is None:
        raise ValueError(f"part must be 'train', 'val' or 'all', got {part!r}")
    if set(train) & set(val) or not train or not val:
        raise ValueError(f"{root}: {len(shards)} shards cannot be divided into training and validation")
    return [shards[i] for i in chosen]


def expand_shards(names: Sequence[str], *, part: str = "all", val_share: float = 0.1) -> list[str]:
    """The shards that paths and addresses name.

    Args:
        names: of shards or of stores. The name of a shard ends in .tar; {a,b}, {00..31} or * in it name several shards,
            which are all taken, whatever the part is. Of a store, `list_shards` takes a part.
        part, val_share: as for `list_shards`.

    Raises:
        FileNotFoundError: a store has no shards, or no file fits a name with *.
        ValueError: as `list_shards`.
    """
    from braceexpand import braceexpand

    shards = []
    for name in names:
        if not name.endswith(".tar"):
            shards += list_shards(name, part=part, val_share=val_share)
            continue
        for one in braceexpand(name):
            system, path = open_address(one)
            found = sorted(map(system.unstrip_protocol, system.glob(path))) if "*" in one else [one]
            if not found:
                raise FileNotFoundError(f"{one}: no such shards")
            shards += found
    return shards


def to_stream(settings: MutableMapping, names: Sequence[str]) -> None:
    """Change the arguments of a `PropagationDataset` in a config to those of a `StreamedPairs` over these shards.

    Raises:
        ValueError: the config asks for what a stream cannot do.
    """
    for key in ("val_list", "max_pairs", "other_images"):
        if settings.pop(key, None):
            raise ValueError(f"train_dataloader.dataset.{key} does not go with shards that are streamed")
    settings.pop("source", None)
    settings.update(type="cmp.datasets.streamed.StreamedPairs", shards=list(names))


class _CurrentPair:
    """A source of one pair, which is exchanged between two reads."""

    pair_videos: Sequence[str] = ("stream",)

    def __init__(self) -> None:
        self.pair: tuple[np.ndarray, FlowField, np.ndarray] | None = None

    def __len__(self) -> int:
        return 1

    def read_pair(self, index: int) -> tuple[np.ndarray, FlowField, np.ndarray]:
        assert self.pair is not None
        return self.pair


class StreamedPairs(torch.utils.data.IterableDataset):
    """Samples as those of `PropagationDataset`, without end, from shards that are read one after the other.

    A sample has "key", the name of its pair, and no "index". The order follows from the seed, the epoch, and the
    numbers of processes and workers; the randomness of a sample from (seed, epoch, key) alone.

    Args:
        shards: what `expand_shards` takes, one name or several.
        transforms: see `PropagationDataset`.
        part, val_share: of stores among `shards`, see `list_shards`.
        buffer_pairs: how many pairs (as stored, not decoded) are shuffled among each other; 1 keeps the order.
        seed: seed of order and samples.
        **sampling: strategies, grid_stride_px, ... of `PropagationDataset`.

    Raises:
        FileNotFoundError, ValueError: no shards, a number below 1, or as `PropagationDataset`.
        ModuleNotFoundError: webdataset, or what opens the addresses, is not installed (the extra `stream`).

    Attributes:
        start: number of draws that a resumed run has made; the order follows from it too.
    """

    metainfo: dict = {}  # without it mmengine logs a warning

    def __init__(
        self,
        shards: str | Sequence[str],
        transforms: Sequence,
        *,
        part: str = "all",
        val_share: float = 0.1,
        buffer_pairs: int = 1000,
        seed: int = 0,
        **sampling,
    ) -> None:
        try:
            import webdataset  # noqa: F401  # an optional package: missing it is found now, not in a worker
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{error}: pip install 'cmp-motion[stream]'") from error

        names = [shards] if isinstance(shards, str) else list(shards)
        self.start = 0
        self.shards = expand_shards(names, part=part, val_share=val_share)
        if not self.shards:
            raise ValueError("shards must name at least one shard")
        if buffer_pairs < 1:
            raise ValueError(f"buffer_pairs must be at least 1, got {buffer_pairs}")
        self.buffer_pairs, self.seed = buffer_pairs, seed
        self._said: set[str] = set()
        self._source = _CurrentPair()
        self._samples = PropagationDataset(self._source, transforms, part="all", seed=seed, **sampling)

    def __len__(self) -> int:
        """The largest number there is: a stream has no end, but mmengine asks each loader for its length."""
        return sys.maxsize

    def check_readers(self, processes: int, workers: int) -> None:
        """Raise ValueError if there are fewer shards than readers: workers in each process."""
        if len(self.shards) < processes * workers:
            raise ValueError(
                f"{len(self.shards)} shards cannot be divided among {processes} process(es) with {workers} worker(s) "
                "each: use fewer workers"
            )

    def __iter__(self) -> Iterator[dict]:
        rank, processes = get_dist_info()
        worker = torch.utils.data.get_worker_info()
        number, readers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        first, step = rank * readers + number, processes * readers
        self.check_readers(processes, readers)
        epoch = 0
        while True:
            drawn = (self.seed, epoch, self.start) if self.start else (self.seed, epoch)
            order = np.random.default_rng(drawn).permutation(len(self.shards))
            mine = [self.shards[i] for i in order[first::step]]
            count = 0
            for stored in self._stored(mine, random.Random(f"{drawn} {first} {step}")):
                try:
                    sample = self._sample(stored, epoch)
                except ValueError as error:
                    self._say_left_out(str(error))
                    continue
                count += 1
                yield sample
            if not count:
                raise ValueError(f"no pairs that can be used in {len(mine)} shards, such as {mine[0]}")
            epoch += 1

    def _say_left_out(self, problem: str) -> None:
        """Print a line, once in each process and worker."""
        if problem not in self._said:
            self._said.add(problem)
            print(f"left out: {problem}", file=sys.stderr, flush=True)

    def _stored(self, shards: Sequence[str], rng: random.Random) -> Iterator[dict]:
        """The members of each pair of these shards, in shuffled order."""
        from webdataset.filters import _shuffle
        from webdataset.tariterators import group_by_keys

        pairs = group_by_keys(stream_members(shards))
        yield from _shuffle(pairs, bufsize=self.buffer_pairs, initial=self.buffer_pairs, rng=rng)

    def _sample(self, stored: dict, epoch: int) -> dict:
        key, place = stored["__key__"], f"{stored['__url__']}: {stored['__key__']}"
        for name, content in stored.items():
            if isinstance(content, Unusable):
                raise ValueError(f"{place}.{name}: {content}")
        try:
            meta = parse_object(stored["json"], place)
            flow = open_flow(stored["flow.bin"], meta["flow"])
            image = decode_image(stored["first.jpg"], place, upright=False)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{place} cannot be decoded ({error!r})") from error
        if image.shape[:2] != flow.shape[:2]:
            raise ValueError(f"{place} is {image.shape[:2]} and its flow {flow.shape[:2]}")
        self._source.pair = image, flow, np.ones(flow.shape[:2], bool)
        # The dataset seeds a sample by (seed, epoch, position): here by the key too.
        sample = self._samples[0, (epoch << 32) | zlib.crc32(key.encode())]
        del sample["index"]
        return dict(sample, key=key, video=PurePosixPath(stored["__url__"]).stem)
