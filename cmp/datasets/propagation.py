"""The dataset of Conditional Motion Propagation, and the description of its samples."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from mmengine.registry import DATASETS, TRANSFORMS

from cmp.datasets.splits import number_scenes, number_videos, split_by_list, split_positions
from cmp.datasets.transforms import FlowPair, ResizedCrop
from cmp.flow import FlowField
from cmp.guidance import guidance_tensors, sample_guidance

MAX_LOOKED_FOR = 20_000  # pairs whose files are looked for at the start, spread evenly: network drives can be slow


class PairSource(Protocol):
    """A source of pairs: `PairStore`, `PairList`, or any class with these members.

    A source may also have `names_for_lists() -> dict`, the names that a line of a `val_list` may use for each video,
    and `check_files(indices)`, which raises FileNotFoundError if files of these pairs are missing.
    """

    @property
    def pair_videos(self) -> Sequence[str]:
        """The video of every pair, in order."""

    def __len__(self) -> int: ...

    def read_pair(self, index: int) -> tuple[np.ndarray, FlowField, np.ndarray]:
        """Read one pair.

        Returns:
            image: (H, W, 3) uint8 RGB.
            flow: (H, W, 2) px; see `cmp.flow.FlowField`. `cmp.flow.DenseFlow` makes one of an array.
            valid: (H, W) bool, where the flow is known.
        """


class PropagationDataset(torch.utils.data.Dataset):
    """A map-style dataset of pairs with guidance points chosen on them.

    Guidance points (points in short) are the pixels whose flow is given to the network. A sample is a dict:
        image: (3, H, W) uint8 RGB, the first frame.
        flow: (2, H, W) float32, px, the motion of each pixel; 0 where it is not valid.
        valid: (1, H, W) bool, where the flow is known.
        guidance: (2, H, W) float32, px, the flow at the points and 0 elsewhere.
        mask: (1, H, W) float32, 1 at the points. Points are only where the flow is known.
            guidance and mask are there only if strategies are given; otherwise `cmp.models.DeviceGuidance` adds them to
            whole batches.
        other_image: (3, H, W) uint8 RGB, the first frame of a pair of another video, for the control "image of another
            video". It is there only with other_images, and not if all pairs come from one video. See
            `choose_other_videos`.
        index: position of the pair in its source.
        video: name of its video.

    All randomness of a sample follows from (seed, epoch, index) alone: not from workers, processes or earlier draws.
    Ask for `dataset[index]` (epoch 0) or `dataset[index, epoch]`, as `EpochSampler` does.

    Args:
        source: a pair source, or a dict with its class under "type".
        transforms: callables (pair, rng) -> pair, or config dicts of such, applied in order; the last decides H and W.
        strategies, grid_stride_px, nms_kernel, max_points, normalizer, thinning: see `cmp.guidance.sample_guidance`.
            With strategies None no guidance is chosen here, and the others are ignored.
        point_counts: how many of the chosen points a sample keeps. One entry is drawn per sample, each equally often;
            the entry None keeps all. With (0, 1, 2, None) a quarter of the samples has one point. Default: all.
        sets_per_image: S, sets of points drawn for each image. If it is above 1, guidance is (S, 2, H, W) and mask
            (S, 1, H, W): the image is decoded, augmented and encoded once for S predictions.
        part: "train" or "val" of a fixed split of the source (see `split_positions`), or "all".
        val_share: share of the source that the split keeps for validation.
        val_list: text file that names the videos kept for validation instead, one per line. A line is the end of a
            video's path as it was when the store was made, or of the folder of a list file's frames. A line that
            matches no video is an error; see `cmp.datasets.list_file.find_in_list`.
        max_pairs: use at most this many pairs, spread evenly over the part; None uses all.
        other_images: whether samples have an other_image; validation asks for it (`bring_other_images`).
        seed: seed of all randomness.

    Raises:
        FileNotFoundError: val_list does not exist, or files that a list names are missing (up to 20,000 pairs are
            looked for).
        ValueError: the part is empty, an argument is out of range, or a line of val_list matches no video.
    """

    metainfo: dict = {}  # without it mmengine logs a warning
    to_stream = "cmp.datasets.streamed.to_stream"  # changes a config of this dataset to one that streams shards

    def __init__(
        self,
        source: PairSource | dict,
        transforms: Sequence,
        *,
        strategies: Sequence[str] | None = ("grid", "watershed"),
        grid_stride_px: int | None = None,
        nms_kernel: int | None = None,
        max_points: int | None = None,
        normalizer: str = "max",
        thinning: str = "authors",
        point_counts: Sequence[int | None] | None = None,
        sets_per_image: int = 1,
        part: str = "all",
        val_share: float = 0.1,
        val_list: str | os.PathLike | None = None,
        max_pairs: int | None = None,
        other_images: bool = False,
        seed: int = 0,
    ) -> None:
        self.source = DATASETS.build(source) if isinstance(source, dict) else source
        self.transforms = [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in transforms]
        self._decodes_windows = bool(self.transforms) and isinstance(self.transforms[0], ResizedCrop)
        self.sampling: dict[str, Any] | None = (
            None
            if strategies is None
            else dict(
                strategies=tuple(strategies),
                grid_stride_px=grid_stride_px,
                nms_kernel=nms_kernel,
                max_points=max_points,
                normalizer=normalizer,
                thinning=thinning,
            )
        )
        if point_counts is not None and not (
            len(point_counts) and all(count is None or count >= 0 for count in point_counts)
        ):
            raise ValueError(f"point_counts must be numbers of at least 0, or None for all, got {point_counts!r}")
        self.point_counts = None if point_counts is None else tuple(point_counts)
        if sets_per_image < 1:
            raise ValueError(f"sets_per_image must be at least 1, got {sets_per_image}")
        self.sets_per_image = sets_per_image
        self.seed = seed
        videos = self.source.pair_videos
        called = self.source.names_for_lists() if hasattr(self.source, "names_for_lists") else {}
        positions = _positions_of(videos, part, val_share=val_share, val_list=val_list, called=called)
        if max_pairs is not None and len(positions) > max_pairs:
            if max_pairs < 1:
                raise ValueError(f"max_pairs must be at least 1, got {max_pairs}")
            positions = _evenly_spaced(positions, max_pairs)
        if not len(positions):
            raise ValueError(f"part {part!r} of {len(videos)} pairs is empty")
        self.positions = positions
        if hasattr(self.source, "check_files"):  # now, not after hours of training
            self.source.check_files(_evenly_spaced(positions, min(len(positions), MAX_LOOKED_FOR)))
        self._number_videos(videos, called)
        self.others: np.ndarray | None = None
        if other_images:
            self.bring_other_images()

    def _number_videos(self, videos: Sequence[str], called: Mapping[str, Sequence[str]]) -> None:
        """Set the video and the scene of every position, as numbers, and the videos' names."""
        names, ids = number_videos(videos)
        used, self.video_ids = np.unique(ids[self.positions], return_inverse=True)
        # Python strings would be copied into every worker, as their reference counts change. Bytes take a quarter of
        # the memory of numpy's characters.
        self.video_names = np.array([os.fsencode(names[i]) for i in used])
        paths = {video: also[0] for video, also in called.items()}
        self.scene_ids = number_scenes([names[i] for i in used], paths)[self.video_ids]

    def bring_other_images(self) -> None:
        """Add an other_image to every sample from now on.

        It is of another scene if there are several, otherwise of another video. Nothing is added if all pairs come from
        one video.
        """
        ids = self.scene_ids if self.scene_ids.any() else self.video_ids
        if ids.any():
            self.others = choose_other_videos(ids)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        index, epoch = index if isinstance(index, tuple) else (index, 0)
        position = int(self.positions[index])
        pair, rng = self._transformed(position, epoch)
        sample = dict(
            image=torch.from_numpy(_channels_first(pair.image)),
            flow=torch.from_numpy(np.ascontiguousarray(np.asarray(pair.flow).transpose(2, 0, 1))),
            valid=torch.from_numpy(np.ascontiguousarray(pair.valid[None])),
            index=position,
            video=os.fsdecode(bytes(self.video_names[self.video_ids[index]])),
        )
        if self.others is not None:
            other = self._transformed(int(self.positions[self.others[index]]), epoch)[0].image
            height, width = pair.image.shape[:2]
            if other.shape[:2] != (height, width):  # transforms that keep each pair's own size
                other = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA)
            sample["other_image"] = torch.from_numpy(_channels_first(other))
        if self.sampling is not None:
            if self.sets_per_image == 1:
                drawn = self._draw_guidance(pair, rng)
            else:
                guidance, masks = zip(*(self._draw_guidance(pair, rng) for _ in range(self.sets_per_image)))
                drawn = np.stack(guidance), np.stack(masks)
            sample["guidance"], sample["mask"] = map(torch.from_numpy, drawn)
        return sample

    def _draw_guidance(self, pair: FlowPair, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One set of points: (2, H, W) float32 guidance, px, and (1, H, W) float32 mask."""
        flow = np.asarray(pair.flow)
        points_yx = sample_guidance(flow, rng=rng, **(self.sampling or {}))
        points_yx = points_yx[pair.valid[points_yx[:, 0], points_yx[:, 1]]]  # elsewhere the zero would be invented
        if self.point_counts is not None:  # they are in random order
            points_yx = points_yx[: self.point_counts[rng.integers(len(self.point_counts))]]
        return guidance_tensors(flow, points_yx)

    def _transformed(self, position: int, epoch: int) -> tuple[FlowPair, np.random.Generator]:
        """The pair at a position of the source after all transforms, and the generator for what is drawn next."""
        rng = np.random.default_rng((self.seed, epoch, position))
        image, field, valid = self.source.read_pair(position)
        if not valid.all():
            pair = FlowPair(image, np.where(valid[..., None], np.asarray(field), np.float32(0)), valid)
        else:
            pair = FlowPair(image, field if self._decodes_windows else np.asarray(field), valid)
        for transform in self.transforms:
            pair = transform(pair, rng)
        return pair, rng


def _channels_first(image: np.ndarray) -> np.ndarray:
    """Copy (H, W, 3) uint8 to (3, H, W)."""
    if image.strides[1:] != (3, 1):  # each channel in one piece already, or mirrored
        return np.ascontiguousarray(image.transpose(2, 0, 1))
    channels = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(image, list(channels))  # half the time of numpy's copy
    return channels


def _positions_of(
    videos: Sequence[str],
    part: str,
    *,
    val_share: float,
    val_list: str | os.PathLike | None,
    called: Mapping[str, Sequence[str]],
) -> np.ndarray:
    """The positions of the pairs of one part, by the list if there is one, else by the fixed rule."""
    if part not in ("train", "val", "all"):
        raise ValueError(f"part must be 'train', 'val' or 'all', got {part!r}")
    if val_list is not None:
        return split_by_list(videos, part, val_list, called)
    return np.arange(len(videos)) if part == "all" else split_positions(videos, part, val_share=val_share)


def _evenly_spaced(positions: np.ndarray, count: int) -> np.ndarray:
    """Choose `count` of (N,) positions, evenly spaced, with the first and the last; count is at most N."""
    return positions[np.linspace(0, len(positions) - 1, count).round().astype(int)]


def choose_other_videos(video_ids: np.ndarray) -> np.ndarray:
    """Choose for each pair a pair of another video, by a fixed rule that does not depend on batches or processes.

    The k-th pair of a video gets the k-th pair of the next video, so the pairs of a video get different ones. If the
    next video has fewer pairs, counting starts over; after the last video comes the first.

    Args:
        video_ids: (N,) int, numbers of the videos (or of scenes), from 0; at least two, none left out.

    Returns:
        (N,) int64, the position of the chosen pair.
    """
    places = np.argsort(video_ids, kind="stable")  # by video, pairs of one in their order
    counts = np.bincount(video_ids)
    starts = np.cumsum(counts) - counts
    ranks = np.empty(len(video_ids), np.int64)
    ranks[places] = np.arange(len(video_ids)) - np.repeat(starts, counts)
    following = (video_ids + 1) % len(counts)
    return places[starts[following] + ranks % counts[following]]
