"""Which pairs are kept for validation: a fixed rule, so that training and validation never need to agree on a list."""

from collections.abc import Iterable

import numpy as np

FEWEST_VIDEOS = 5  # below this, whole videos can't be spared: the end of each is kept instead
FEWEST_HELD_OUT = 2  # videos: with one alone there is no image of another video to mislead the network with
FEWEST_PAIRS = 3  # one for each part and one between them
GUARD = 0.04  # share of a video's pairs left out between its two parts, whose frames would overlap


def number_videos(videos: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Number the videos that pairs are taken from.

    Args:
        videos: for every pair the name of its video.

    Returns:
        The different names, sorted, and (N,) int32 for every pair the place of its name among them. Made without an
        array of all names: of some million paths it would take gigabytes.
    """
    places: dict[str, int] = {}
    seen = np.fromiter((places.setdefault(video, len(places)) for video in videos), np.int32)
    names = sorted(places)
    ranks = np.empty(len(names), np.int32)
    ranks[[places[name] for name in names]] = np.arange(len(names))
    return [str(name) for name in names], ranks[seen]


def split_positions(videos: Iterable[str], part: str, *, val_share: float) -> np.ndarray:
    """Positions of the pairs that belong to one part.

    With 5 videos or more, whole videos are kept for validation: the last ones in sorted order, as many as it takes to
    hold val_share of the videos, at least two. Neighbouring names are often one scene, and a run of neighbours cuts
    through fewest.

    With fewer videos, the last val_share of each video's pairs is kept (at least one), and 4 % before it belongs to
    neither part; the picture is then familiar from training, only its motion is not: an easier test, and one to name as
    such. Of these a video of fewer than 3 pairs is only trained on.

    Args:
        videos: for every pair the video it was taken from; pairs of a video in rising time.
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
        raise ValueError(f"val_share must lie between 0 and 1, got {val_share}")
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
