"""Split pairs into training and validation, by a fixed rule or by a list of videos."""

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cmp.datasets.list_file import find_in_list

FEWEST_VIDEOS = 5  # with fewer, no whole video is held out, but the end of each
FEWEST_HELD_OUT = 2  # videos: the control "image of another video" needs two
FEWEST_PAIRS = 3  # of a video: one for each part and one between them
GUARD = 0.04  # share of a video's pairs left out between its two parts, because their frames overlap


def number_videos(videos: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Number the videos that pairs are taken from.

    Args:
        videos: the name of the video of every pair.

    Returns:
        The different names, sorted, and (N,) int32, for every pair the position of its name among them. No array of all
        names is made: for some million paths it would take gigabytes.
    """
    places: dict[str, int] = {}
    seen = np.fromiter((places.setdefault(video, len(places)) for video in videos), np.int32)
    names = sorted(places)
    ranks = np.empty(len(names), np.int32)
    ranks[[places[name] for name in names]] = np.arange(len(names))
    return [str(name) for name in names], ranks[seen]


def number_scenes(videos: Sequence[str], paths: Mapping[str, str]) -> np.ndarray:
    """Number the scenes of videos. Videos whose files were in one folder count as one scene.

    Args:
        videos: different names.
        paths: the path of the file of a name, relative to the folder that was prepared; a name that is missing here is
            itself the path.

    Returns:
        (V,) int64, for each name the number of its scene, from 0. A video outside of any folder is a separate scene.
    """
    folders = [os.path.dirname(paths.get(video, video)) or video for video in videos]
    return np.unique(folders, return_inverse=True)[1]


def split_positions(videos: Iterable[str], part: str, *, val_share: float) -> np.ndarray:
    """Find the positions of the pairs that belong to one part.

    The rule is fixed, so training and validation need no common list. With 5 videos or more, whole videos are held out
    for validation: the last ones in sorted order, val_share of the videos, at least two. Neighboring names often show
    one scene, and taking the last ones divides the fewest scenes.

    With fewer videos, the last val_share of each video's pairs is held out (at least one pair), and 4 % before it
    belongs to neither part. Training has then seen the same scene with other motion. That makes the test easier, which
    results should mention. A video with fewer than 3 pairs is used for training only.

    Args:
        videos: the video of every pair; pairs of a video in rising time.
        part: "train" or "val".
        val_share: between 0 and 1, both excluded.

    Returns:
        (N,) int64 rising positions.

    Raises:
        ValueError: part is unknown or val_share is out of range.
    """
    if part not in ("train", "val"):
        raise ValueError(f"part must be 'train' or 'val', got {part!r}")
    if not 0 < val_share < 1:
        raise ValueError(f"val_share must be between 0 and 1, got {val_share}")
    names, ids = number_videos(videos)
    if len(names) >= FEWEST_VIDEOS:
        first_kept = len(names) - max(FEWEST_HELD_OUT, round(val_share * len(names)))
        return np.flatnonzero(ids >= first_kept if part == "val" else ids < first_kept)
    chosen = []
    for video in range(len(names)):
        positions = np.flatnonzero(ids == video)
        if len(positions) < FEWEST_PAIRS:
            start, guard = len(positions), 0
        else:
            start = min(round((1 - val_share) * len(positions)), len(positions) - 1)
            guard = int(np.ceil(GUARD * len(positions)))
        chosen.append(positions[start:] if part == "val" else positions[: max(0, start - guard)])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def split_by_list(
    videos: Iterable[str],
    part: str,
    val_list: str | os.PathLike,
    names: Mapping[str, Sequence[str]] | None = None,
) -> np.ndarray:
    """Find the positions of the pairs of one part, where a text file names the videos held out for validation.

    Args:
        videos: the video of every pair.
        part: "train", "val", or "all": every pair (the list is checked too).
        val_list: one video per line; see `find_in_list`. Videos without pairs may be named too.
        names: the names that a line may use for each video; default: its name in `videos`. It may contain videos
            without pairs.

    Returns:
        (N,) int64 rising positions.

    Raises:
        FileNotFoundError: val_list does not exist.
        ValueError: part is unknown, or a line matches no video; file and line are named.
    """
    if part not in ("train", "val", "all"):
        raise ValueError(f"part must be 'train', 'val' or 'all', got {part!r}")
    of_pairs, ids = number_videos(videos)
    names = dict(names or {})
    known = list(dict.fromkeys([*of_pairs, *names]))
    is_listed = dict(zip(known, find_in_list(val_list, [names.get(video, (video,)) for video in known])))
    if part == "all":
        return np.arange(len(ids))
    held_out = np.array([is_listed[video] for video in of_pairs], bool)
    return np.flatnonzero(held_out[ids] == (part == "val"))
