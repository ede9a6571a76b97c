"""Short clips of videos: a few frames at an interval, cut out alike."""

import logging
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from cmp.datasets.clip_cache import CachedVideo, cache_video, map_frames
from cmp.datasets.splits import split_positions
from cmp.video.find import VIDEO_SUFFIXES, VideoSource, find_videos

logger = logging.getLogger(__name__)


class Clips(Dataset):
    """Clips of num_frames frames, each interval_frames after the one before.

    A sample is a dict:
        frames: (T, 3, H, W) uint8 RGB, H = W = size_px.
        video: position of its video in `videos`. start: the frame of the video that the clip begins with.

    A clip may begin at every frame from which it ends within its video, and where something moves: the mean absolute
    change of grey values from one of its frames to the next, at a short side of 32 px, averaged over the clip, reaches
    least_change. Starts are dealt into groups of neighbours, a clip's length each, and a group is one item: in training
    it gives a random one of its starts, a random cut and, one time in two if flip is set, its mirror image; otherwise
    its first start and the middle. All frames of a clip are cut and mirrored alike. What is random follows from
    (seed, epoch, index) alone: ask for `dataset[index]` (epoch 0) or `dataset[index, epoch]`, as `PairSampler` does.

    Frames come from a cache (`cmp.datasets.clip_cache`), which is filled when the dataset is built.

    Args:
        paths: videos, folders of frames, or folders that are searched for both, with all below them: `class/video.avi`.
        num_frames: T, at least 2.
        interval_frames: frames of the video from one of the clip to the next.
        short_side_px: frames are brought to it.
        size_px: side of the square that is cut out.
        part: "train" or "val" of a fixed split of what can be read (see `split_positions`), or "all". The split does
            not depend on the clips' length, interval or motion. Where videos are divided, no clip lies in both parts.
        val_share: share of the videos kept for validation.
        val_list: text file that names them instead, a line each: the end of a video's path, as
            `Archery/v_Archery_g01_c01.avi`. A number after it is passed over: UCF-101's lists have classes there.
        training: whether clips are drawn at random; None is: unless part is "val".
        flip: whether to mirror half of the clips in training.
        least_change: grey levels of 255; 0 keeps all clips.
        max_clips: use so many items, spread evenly; None is all.
        cache_dir: the cache's folder, seen from where the command was started.
        cache_threads: videos decoded at a time while the cache is filled; None is one for each core.
        seed: where all randomness starts.

    Attributes:
        videos: paths of the videos that clips are taken from.
        left_out: why others were not: a line each, beginning with the path. They are logged too.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: an argument is out of range, val_list names no video, or there is no clip; the message says what was
            left out.
        OSError: the cache cannot be written.
    """

    metainfo: dict = {}  # mmengine warns where a dataset has none

    def __init__(
        self,
        paths: Sequence[str],
        *,
        num_frames: int = 8,
        interval_frames: int = 5,
        short_side_px: int = 80,
        size_px: int = 64,
        part: str = "all",
        val_share: float = 0.2,
        val_list: str | PathLike | None = None,
        training: bool | None = None,
        flip: bool = True,
        least_change: float = 1.0,
        max_clips: int | None = None,
        cache_dir: str | PathLike = "work_dirs/clip_cache",
        cache_threads: int | None = None,
        seed: int = 0,
    ) -> None:
        if part not in ("train", "val", "all"):
            raise ValueError(f"part must be 'train', 'val' or 'all', got {part!r}")
        if not 1 <= size_px <= short_side_px:
            raise ValueError(f"size_px must lie between 1 and short_side_px ({short_side_px}), got {size_px}")
        if num_frames < 2 or interval_frames < 1:
            raise ValueError(
                f"want at least 2 frames at an interval of at least 1, got {num_frames}, {interval_frames}"
            )
        if max_clips is not None and max_clips < 1:
            raise ValueError(f"max_clips must be at least 1, got {max_clips}")
        self.num_frames, self.interval_frames, self.size_px = num_frames, interval_frames, size_px
        self.training = part != "val" if training is None else training
        self.flip, self.seed = flip, seed
        span = (num_frames - 1) * interval_frames + 1
        readable, self.left_out = _cache_all(paths, cache_dir, short_side_px, cache_threads)
        counts = [video.shape[0] for _, video in readable]
        if val_list is None:
            ranges = _frames_of_part(counts, part, val_share)
        else:
            kept = _named_in([path for path, _ in readable], val_list)
            ranges = [(0, n if part == "all" or named == (part == "val") else 0) for n, named in zip(counts, kept)]
        self.videos, self._files, groups, group_videos = [], [], [], []
        for (path, video), (first, end) in zip(readable, ranges):
            if video.shape[0] < span:
                self.left_out.append(f"{path}: has {video.shape[0]} frames, a clip needs {span}")
                continue
            changes = clip_changes(video.grey, num_frames, interval_frames)
            if changes.max() < least_change:
                self.left_out.append(f"{path}: hardly moves, {changes.max():.2f} grey levels at most")
                continue
            starts = np.flatnonzero(changes >= least_change).astype(np.int32)
            starts = starts[(starts >= first) & (starts + span <= end)]
            if len(starts):
                numbers = (starts - first) // span
                groups += np.split(starts, np.flatnonzero(np.diff(numbers)) + 1)
                group_videos += [len(self.videos)] * (len(groups) - len(group_videos))
                self.videos.append(path)
                self._files.append((video.path, video.shape))
            elif first < end:
                self.left_out.append(
                    f"{path}: no moving clip of {span} frames lies within its frames {first} to {end - 1}"
                )
        for line in self.left_out:
            logger.warning("left out: %s", line)
        if not groups:
            raise ValueError(f"part {part!r} of {list(paths)} has no clip; left out: {'; '.join(self.left_out) or '-'}")
        if max_clips is not None and len(groups) > max_clips:
            chosen = np.linspace(0, len(groups) - 1, max_clips).round().astype(int)
            groups, group_videos = [groups[i] for i in chosen], [group_videos[i] for i in chosen]
        # Arrays and no lists, which would be copied into every worker as their reference counts are touched.
        self._group_videos = np.array(group_videos)
        self._starts, self._ends = np.concatenate(groups), np.cumsum([len(group) for group in groups])

    def __len__(self) -> int:
        return len(self._group_videos)

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        index, epoch = index if isinstance(index, tuple) else (index, 0)
        video = int(self._group_videos[index])
        starts = self._starts[self._ends[index - 1] if index else 0 : self._ends[index]]
        frames = map_frames(*self._files[video])
        spare = [side - self.size_px for side in frames.shape[1:3]]
        if self.training:
            rng = np.random.default_rng((self.seed, epoch, index))
            start = int(rng.choice(starts))
            y, x = (int(rng.integers(0, s + 1)) for s in spare)
            mirrored = self.flip and rng.random() < 0.5
        else:
            start, y, x, mirrored = int(starts[0]), spare[0] // 2, spare[1] // 2, False
        stop = start + (self.num_frames - 1) * self.interval_frames + 1
        clip = frames[start : stop : self.interval_frames, y : y + self.size_px, x : x + self.size_px]
        if mirrored:
            clip = clip[:, :, ::-1]
        clip = np.array(clip.transpose(0, 3, 1, 2), order="C")  # a copy: the cache is read-only
        return dict(frames=torch.from_numpy(clip), video=video, start=start)


def clip_changes(grey: np.ndarray, num_frames: int, interval_frames: int) -> np.ndarray:
    """How much changes in each clip of a video: mean |grey difference| from a clip's frame to its next.

    Args:
        grey: (N, H, W) uint8.
        num_frames, interval_frames: of a clip, which spans S = (num_frames - 1) * interval_frames + 1 frames.

    Returns:
        (N - S + 1,) float64 grey levels, for the clip that begins at each frame.
    """
    ahead = grey[interval_frames:].astype(np.int16)
    changes = np.abs(ahead - grey[:-interval_frames]).mean(axis=(1, 2), dtype=np.float64)
    count = len(grey) - (num_frames - 1) * interval_frames
    steps = range(0, (num_frames - 1) * interval_frames, interval_frames)
    return np.mean([changes[step : step + count] for step in steps], axis=0)


def _find_all(paths: Sequence[str]) -> list[tuple[Path, VideoSource]]:
    """Folder and video for everything that the paths stand for, in an order that other folders above do not change."""
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            found += [(path, source) for source in find_videos(path)]
        elif not path.exists():
            raise FileNotFoundError(f"{path}: no such video or folder")
        elif path.name.lower().endswith(VIDEO_SUFFIXES):
            found.append((path.parent, VideoSource(path.name, "file")))
        else:
            raise ValueError(f"{path}: neither a folder nor, by its name, a video")
    if not found:
        where = ", ".join(map(str, paths))
        raise ValueError(f"{where}: holds no video (looked for video files and folders of frames, also below it)")
    return sorted(found, key=lambda pair: (pair[1].video_id, str(pair[0])))


def _cache_all(
    paths: Sequence[str], cache_dir: str | PathLike, short_side_px: int, threads: int | None
) -> tuple[list[tuple[str, CachedVideo]], list[str]]:
    """Path and frames of every video that can be read, and what is wrong with the others."""

    def cache(item: tuple[Path, VideoSource]) -> CachedVideo | str:
        try:
            return cache_video(*item, cache_dir, short_side_px=short_side_px)
        except ValueError as error:  # of the video; one of the cache is an OSError and ends it all
            return str(error)

    found = _find_all(paths)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:  # decoding and resizing leave Python to the others
        results = list(tqdm(pool.map(cache, found), "frames", len(found), unit="video", leave=False, disable=None))
    named = [(str(root / source.path), result) for (root, source), result in zip(found, results)]
    return [(path, r) for path, r in named if not isinstance(r, str)], [r for r in results if isinstance(r, str)]


def _named_in(paths: Sequence[str], list_path: str | PathLike) -> list[bool]:
    """Whether a list names each video by the end of its path; see `Clips`."""
    lines = Path(list_path).read_text().splitlines()
    listed = {re.sub(r"(\.\w+)\s+\d+$", r"\1", line.strip()) for line in lines}
    parts = [Path(path).parts for path in paths]
    named = [any(Path(*part[i:]).as_posix() in listed for i in range(len(part))) for part in parts]
    if not any(named):
        raise ValueError(f"{list_path} names none of the {len(paths)} videos, such as {', '.join(paths[:1])}")
    return named


def _frames_of_part(counts: Sequence[int], part: str, val_share: float) -> list[tuple[int, int]]:
    """First frame of a part, and the one after its last, of each video of so many frames; twice 0 where it has none."""
    if part == "all":
        return [(0, count) for count in counts]
    names = (f"{video:09}" for video, count in enumerate(counts) for _ in range(count))
    positions = split_positions(names, part, val_share=val_share)
    ranges, offset = [], 0
    for count in counts:
        inside = positions[np.searchsorted(positions, offset) : np.searchsorted(positions, offset + count)] - offset
        ranges.append((int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0))
        offset += count
    return ranges
