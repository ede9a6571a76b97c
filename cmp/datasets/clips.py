"""Data set of short clips of videos: a few frames at a fixed interval, all cropped in the same way."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from cmp.datasets.clip_cache import CachedVideo, cache_video, map_frames
from cmp.datasets.list_file import find_in_list
from cmp.datasets.splits import split_positions
from cmp.video.find import VIDEO_SUFFIXES, VideoSource, find_videos, nothing_found

logger = logging.getLogger(__name__)


class Clips(Dataset):
    """Clips of num_frames frames, each interval_frames after the previous one.

    A sample is a dict:
        frames: (T, 3, H, W) uint8 RGB, H and W as in size_px.
        video: index of its video in `videos`. start: index in the video of the clip's first frame.

    A clip can start at every frame of a video if it ends within the video and contains motion: the mean absolute change
    of gray values from one of its frames to the next, at a short side of 32 px, averaged over the clip, must reach
    least_change. Neighboring starts are grouped, each group as long as a clip, and a group is one item. In training an
    item gives a random start of its group, a random crop and, with flip, its mirror image half of the time; otherwise
    the first start and the center crop. All frames of a clip have the same crop. Random choices depend only on
    (seed, epoch, index): use `dataset[index]` (epoch 0) or `dataset[index, epoch]`, as `EpochSampler` does.

    Frames come from a cache (`cmp.datasets.clip_cache`), which is filled when the data set is built.

    Args:
        paths: videos, folders of frames, or folders that are searched for both, recursively (`class/video.avi`).
        num_frames: T, at least 2.
        interval_frames: distance between neighboring frames of a clip, in frames of the video, at least 1.
        short_side_px: frames are resized to this short side.
        size_px: side of the square crop, or its height and width. A video whose resized frames are smaller than that
            is left out.
        part: "train" or "val" of a fixed split of the readable videos (see `split_positions`), or "all". The split does
            not depend on the clips' length, interval or motion. If videos are divided, no clip is in both parts.
        val_share: share of the videos that is held out for validation.
        val_list: text file with the held-out videos instead, one line per video: the end of its path, such as
            `Archery/v_Archery_g01_c01.avi`, or the whole path. A number after it is ignored: UCF-101's lists have
            classes there. A line that names no video is an error; see `cmp.datasets.list_file.find_in_list`.
        training: whether clips are random; None means: unless part is "val".
        flip: whether to mirror half of the clips in training.
        least_change: smallest change of a clip, gray levels out of 255; 0 keeps all clips.
        drop_list: text file with categories and videos to leave out, one per line: the end of a video's path, or the
            name of a folder inside one of the paths, which means all videos below it. Read like val_list. What it
            names is neither decoded nor part of the split.
        least_category_change: smallest change of a category, gray levels out of 255; 0 keeps all. A category is the
            folder that contains a video, and its change is the mean over its videos of the mean change of a video's
            clips. It does not depend on the part, so both parts of a split leave out the same categories.
        max_clips: use at most this many items, evenly spaced; None uses all.
        cache_dir: folder of the cache, relative to the current directory.
        cache_threads: number of videos decoded in parallel while the cache is filled; None is one per core.
        seed: of all random numbers.

    Attributes:
        videos: paths of the videos that clips are taken from.
        size_hw: height and width of a clip's frames, px.
        category_changes: the change of each category by its path, gray levels, see least_category_change.
        left_out: one line per video that is not used: its path and why. The lines are also logged.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: an argument is out of range, a line of val_list names no video (all such lines are named before any
            video is decoded), or there are no clips; the message lists the videos that are not used.
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
        size_px: int | Sequence[int] = 64,
        part: str = "all",
        val_share: float = 0.2,
        val_list: str | PathLike | None = None,
        training: bool | None = None,
        flip: bool = True,
        least_change: float = 1.0,
        drop_list: str | PathLike | None = None,
        least_category_change: float = 0.0,
        max_clips: int | None = None,
        cache_dir: str | PathLike = "work_dirs/clip_cache",
        cache_threads: int | None = None,
        seed: int = 0,
    ) -> None:
        _check_ranges(part, num_frames, interval_frames, max_clips, least_change, least_category_change)
        self.size_hw = _height_and_width(size_px, short_side_px)
        self.num_frames, self.interval_frames, self.size_px = num_frames, interval_frames, size_px
        self.training = part != "val" if training is None else training
        self.flip, self.seed = flip, seed
        found = _find_all(paths)
        kept = None if val_list is None else _listed_paths(found, val_list)
        dropped = set() if drop_list is None else _listed_paths(found, drop_list, folders=True)
        found = [(root, source) for root, source in found if str(root / source.path) not in dropped]
        if not found:
            raise ValueError(f"{drop_list}: names all {len(dropped)} videos of {list(paths)}; remove some of its lines")
        readable, self.left_out = _cache_all(found, cache_dir, short_side_px, cache_threads)
        self.left_out += [f"{path}: named in {drop_list}" for path in sorted(dropped)]
        self.category_changes = _category_changes(readable, num_frames, interval_frames)
        counts = [video.shape[0] for _, video in readable]
        if kept is None:
            ranges = _frames_of_part(counts, part, val_share)
        else:
            in_part = [part == "all" or (path in kept) == (part == "val") for path, _ in readable]
            ranges = [(0, count if takes else 0) for count, takes in zip(counts, in_part)]
        groups, group_videos = self._take_videos(readable, ranges, least_change, least_category_change)
        for line in self.left_out:
            logger.warning("left out: %s", line)
        if not groups:
            raise ValueError(
                f"part {part!r} of {list(paths)} contains no clips; left out: {'; '.join(self.left_out) or '-'}"
            )
        if max_clips is not None and len(groups) > max_clips:
            chosen = np.linspace(0, len(groups) - 1, max_clips).round().astype(int)
            groups, group_videos = [groups[i] for i in chosen], [group_videos[i] for i in chosen]
        # Arrays, not lists: reading a list changes its reference counts, so every worker would get a copy.
        self._group_videos = np.array(group_videos)
        self._starts, self._ends = np.concatenate(groups), np.cumsum([len(group) for group in groups])

    def __len__(self) -> int:
        return len(self._group_videos)

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        index, epoch = index if isinstance(index, tuple) else (index, 0)
        video = int(self._group_videos[index])
        starts = self._starts[self._ends[index - 1] if index else 0 : self._ends[index]]
        frames = map_frames(*self._files[video])
        height, width = self.size_hw
        spare = [frames.shape[1] - height, frames.shape[2] - width]
        if self.training:
            rng = np.random.default_rng((self.seed, epoch, index))
            start = int(rng.choice(starts))
            y, x = (int(rng.integers(0, s + 1)) for s in spare)
            mirrored = self.flip and rng.random() < 0.5
        else:
            start, y, x, mirrored = int(starts[0]), spare[0] // 2, spare[1] // 2, False
        stop = start + (self.num_frames - 1) * self.interval_frames + 1
        clip = frames[start : stop : self.interval_frames, y : y + height, x : x + width]
        if mirrored:
            clip = clip[:, :, ::-1]
        clip = np.array(clip.transpose(0, 3, 1, 2), order="C")  # a copy: the cache is read-only
        return dict(frames=torch.from_numpy(clip), video=video, start=start)

    def _take_videos(
        self,
        readable: list[tuple[str, CachedVideo]],
        ranges: list[tuple[int, int]],
        least_change: float,
        least_category_change: float,
    ) -> tuple[list, list[int]]:
        """Set `videos`, and add the others to `left_out`; returns the groups of starts, and the video of each group."""
        self.videos, self._files, groups, group_videos = [], [], [], []
        for (path, video), frames in zip(readable, ranges):
            reason = self._unsuitable(path, video, least_category_change)
            found = []
            if reason is None:
                found, reason = _start_groups(video, frames, self.num_frames, self.interval_frames, least_change)
            if reason is not None:
                self.left_out.append(f"{path}: {reason}")
            if found:
                groups += found
                group_videos += [len(self.videos)] * len(found)
                self.videos.append(path)
                self._files.append((video.path, video.shape))
        return groups, group_videos

    def _unsuitable(self, path: str, video: CachedVideo, least_category_change: float) -> str | None:
        """Return why no clip of a video is used, whatever part it is in; None if it can be used."""
        if any(side < crop for side, crop in zip(video.shape[1:3], self.size_hw)):
            (height, width), (crop_height, crop_width) = video.shape[1:3], self.size_hw
            return f"has frames of {height} x {width} px, smaller than the crop of {crop_height} x {crop_width} px"
        change = self.category_changes.get(os.path.dirname(path), np.inf)
        if change < least_category_change:
            return f"its category hardly moves, {change:.2f} gray levels on average"
        return None


def _check_ranges(
    part: str,
    num_frames: int,
    interval_frames: int,
    max_clips: int | None,
    least_change: float,
    least_category_change: float,
) -> None:
    """Raise ValueError for an argument of `Clips` that is out of range."""
    if part not in ("train", "val", "all"):
        raise ValueError(f"part must be 'train', 'val' or 'all', got {part!r}")
    if num_frames < 2 or interval_frames < 1:
        raise ValueError(f"want at least 2 frames at an interval of at least 1, got {num_frames}, {interval_frames}")
    if max_clips is not None and max_clips < 1:
        raise ValueError(f"max_clips must be at least 1, got {max_clips}")
    if not (least_change >= 0 and least_category_change >= 0):
        raise ValueError(
            "least_change and least_category_change must be at least 0 gray levels, "
            f"got {least_change} and {least_category_change}"
        )


def clip_changes(gray: np.ndarray, num_frames: int, interval_frames: int) -> np.ndarray:
    """Compute the change of each clip of a video: mean |gray difference| between neighboring frames of the clip.

    Args:
        gray: (N, H, W) uint8.
        num_frames, interval_frames: of a clip, which spans S = (num_frames - 1) * interval_frames + 1 frames.

    Returns:
        (N - S + 1,) float64 gray levels, for the clip that begins at each frame.
    """
    ahead = gray[interval_frames:].astype(np.int16)
    changes = np.abs(ahead - gray[:-interval_frames]).mean(axis=(1, 2), dtype=np.float64)
    count = len(gray) - (num_frames - 1) * interval_frames
    steps = range(0, (num_frames - 1) * interval_frames, interval_frames)
    return np.mean([changes[step : step + count] for step in steps], axis=0)


def _find_all(paths: Sequence[str]) -> list[tuple[Path, VideoSource]]:
    """Find all videos of the paths: (folder, video), in an order that does not depend on where the folders are."""
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
        raise ValueError(nothing_found(where))
    once = {
        os.path.abspath(root / source.path): (root, source) for root, source in reversed(found)
    }  # not in both parts
    return sorted(once.values(), key=lambda pair: (pair[1].video_id, str(pair[0])))


def _cache_all(
    found: Sequence[tuple[Path, VideoSource]], cache_dir: str | PathLike, short_side_px: int, threads: int | None
) -> tuple[list[tuple[str, CachedVideo]], list[str]]:
    """Cache all videos; return the path and frames of the readable ones, and one line on each of the others."""

    def cache(item: tuple[Path, VideoSource]) -> CachedVideo | str:
        try:
            return cache_video(*item, cache_dir, short_side_px=short_side_px)
        except ValueError as error:  # an unreadable video; an OSError of the cache ends the command
            return str(error)

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:  # decoding and resizing release the GIL
        results = list(tqdm(pool.map(cache, found), "frames", len(found), unit="video", leave=False, disable=None))
    named = [(str(root / source.path), result) for (root, source), result in zip(found, results)]
    return [(path, r) for path, r in named if not isinstance(r, str)], [r for r in results if isinstance(r, str)]


def _height_and_width(size_px: int | Sequence[int], short_side_px: int) -> tuple[int, int]:
    """Check `size_px` of `Clips` and return it as height and width."""
    sides = tuple(size_px) if isinstance(size_px, Sequence) else (size_px, size_px)
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise ValueError(f"size_px must be one whole number, or a height and a width, got {size_px!r}")
    if not 1 <= min(sides) <= short_side_px:
        raise ValueError(f"size_px must lie between 1 and short_side_px ({short_side_px}), got {size_px}")
    return sides


def _category_changes(
    readable: Sequence[tuple[str, CachedVideo]], num_frames: int, interval_frames: int
) -> dict[str, float]:
    """Compute the change of each category, see `Clips`; without categories whose videos are all too short."""
    span = (num_frames - 1) * interval_frames + 1
    changes: dict[str, list[float]] = {}
    for path, video in readable:
        if video.shape[0] >= span:
            of_clips = clip_changes(video.gray, num_frames, interval_frames)
            changes.setdefault(os.path.dirname(path), []).append(float(of_clips.mean()))
    return {category: float(np.mean(values)) for category, values in changes.items()}


def _listed_paths(
    found: Sequence[tuple[Path, VideoSource]], list_path: str | PathLike, *, folders: bool = False
) -> set[str]:
    """Paths of the videos that a list names, readable or not; with `folders` also by a folder inside the root."""
    paths = [str(root / source.path) for root, source in found]
    several = [[path] for path in paths]
    if folders:
        for item, (root, source) in zip(several, found):
            item += [str(root / parent) for parent in Path(source.path).parents if parent != Path(".")]
    names = [[form(path) for path in item for form in (str, os.path.abspath, os.path.realpath)] for item in several]
    return {path for path, named in zip(paths, find_in_list(list_path, names)) if named}


def _frames_of_part(counts: Sequence[int], part: str, val_share: float) -> list[tuple[int, int]]:
    """Return the first frame of a part and the one after its last, for each video; (0, 0) if it has none there."""
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


def _start_groups(
    video: CachedVideo, frames: tuple[int, int], num_frames: int, interval_frames: int, least_change: float
) -> tuple[list[np.ndarray], str | None]:
    """Group the starts of a video's clips, see `Clips`.

    Args:
        video: the video.
        frames: the first frame that clips may use, and the one after the last; equal if the part has none.
        num_frames, interval_frames, least_change: see `Clips`.

    Returns:
        One int32 array of starts per group; and why the video has no clips, None if it has some or is not in the part.
    """
    span = (num_frames - 1) * interval_frames + 1
    if video.shape[0] < span:
        return [], f"has {video.shape[0]} frames, a clip needs {span}"
    changes = clip_changes(video.gray, num_frames, interval_frames)
    if changes.max() < least_change:
        return [], f"hardly moves, {changes.max():.2f} gray levels at most"
    first, end = frames
    starts = np.flatnonzero(changes >= least_change).astype(np.int32)
    starts = starts[(starts >= first) & (starts + span <= end)]
    if len(starts):
        return np.split(starts, np.flatnonzero(np.diff((starts - first) // span)) + 1), None
    return [], f"no moving clip of {span} frames lies within its frames {first} to {end - 1}" if first < end else None
