"""One training sample of Conditional Motion Propagation, described once, and the dataset that makes it."""

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from mmengine.registry import DATASETS, TRANSFORMS

from cmp.datasets.splits import number_videos, split_positions
from cmp.datasets.transforms import FlowPair, ResizedCrop, join_resize_and_crop
from cmp.guidance import guidance_tensors, sample_guidance


class PairSource(Protocol):
    """Where pairs come from: `PairStore`, `PairList`, or anything else that can say this much."""

    pair_videos: Sequence[str]  # for every pair, in order, the video it was taken from

    def __len__(self) -> int: ...

    def read_pair(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8 RGB, flow (H, W, 2) float32 px or not yet decoded, valid (H, W) bool."""


class PropagationDataset(torch.utils.data.Dataset):
    """Pairs with guidance chosen on them, map-style.

    A sample is a dict:
        image: (3, H, W) uint8 RGB, the first frame.
        flow: (2, H, W) float32, px, where its pixels go; 0 where not valid.
        valid: (1, H, W) bool, where the flow is known.
        guidance: (2, H, W) float32, px, the flow at the guides and 0 elsewhere.
        mask: (1, H, W) float32, 1 at the guides; a guide lies only where the flow is known.
            Both only with strategies; without, `cmp.models.DeviceGuidance` adds them to whole batches.
        index: position of the pair in its source. video: name of the video it is from.

    Everything random in a sample follows from (seed, epoch, index) and nothing else: not from workers, processes or
    what was drawn before. Ask for `dataset[index]` (epoch 0) or `dataset[index, epoch]`, as `PairSampler` does.

    Args:
        source: a pair source, or a dict with its class under "type".
        transforms: callables (pair, rng) -> pair, or dicts of such, applied in order; the last decides H and W.
        strategies, grid_stride_px, nms_kernel, max_points, normalizer, thinning: see `cmp.guidance.sample_guidance`.
            strategies None: no guidance is chosen here, and the others are not looked at.
        part: "train" or "val" of a fixed split of the source (see `split_positions`), or "all".
        val_share: share of the source that the split keeps for validation.
        max_pairs: use at most so many pairs, spread evenly over the part; None is all.
        seed: where all randomness starts.

    Raises:
        ValueError: the part is empty, or an argument is out of range.
    """

    metainfo: dict = {}  # mmengine warns where a dataset has none

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
        part: str = "all",
        val_share: float = 0.1,
        max_pairs: int | None = None,
        seed: int = 0,
    ) -> None:
        self.source = DATASETS.build(source) if isinstance(source, dict) else source
        # Joined is the same, faster.
        self.transforms = join_resize_and_crop(TRANSFORMS.build(t) if isinstance(t, dict) else t for t in transforms)
        self._decodes_windows = bool(self.transforms) and isinstance(self.transforms[0], ResizedCrop)
        self.sampling = (
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
        self.seed = seed
        videos = self.source.pair_videos
        if part not in ("train", "val", "all"):
            raise ValueError(f"part must be 'train', 'val' or 'all', got {part!r}")
        positions = np.arange(len(videos)) if part == "all" else split_positions(videos, part, val_share=val_share)
        if max_pairs is not None and len(positions) > max_pairs:
            if max_pairs < 1:
                raise ValueError(f"max_pairs must be at least 1, got {max_pairs}")
            positions = positions[np.linspace(0, len(positions) - 1, max_pairs).round().astype(int)]
        if not len(positions):
            raise ValueError(f"part {part!r} of {len(videos)} pairs is empty")
        self.positions = positions
        names, ids = number_videos(videos)
        used, self.video_ids = np.unique(ids[positions], return_inverse=True)
        # Not Python strings, which would be copied into every worker as their reference counts are touched; and bytes,
        # which take a quarter of numpy's characters.
        self.video_names = np.array([os.fsencode(names[i]) for i in used])

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        index, epoch = index if isinstance(index, tuple) else (index, 0)
        position = int(self.positions[index])
        rng = np.random.default_rng((self.seed, epoch, position))
        image, flow, valid = self.source.read_pair(position)
        if not valid.all():
            flow = np.where(valid[..., None], flow, np.float32(0))
        elif not self._decodes_windows:
            flow = np.asarray(flow)
        pair = FlowPair(image, flow, valid)
        for transform in self.transforms:
            pair = transform(pair, rng)
        sample = dict(
            image=torch.from_numpy(np.ascontiguousarray(pair.image.transpose(2, 0, 1))),
            flow=torch.from_numpy(np.ascontiguousarray(pair.flow.transpose(2, 0, 1))),
            valid=torch.from_numpy(np.ascontiguousarray(pair.valid[None])),
            index=position,
            video=os.fsdecode(bytes(self.video_names[self.video_ids[index]])),
        )
        if self.sampling is not None:
            points_yx = sample_guidance(pair.flow, rng=rng, **self.sampling)
            points_yx = points_yx[pair.valid[points_yx[:, 0], points_yx[:, 1]]]  # elsewhere the zero would be made up
            sample["guidance"], sample["mask"] = map(torch.from_numpy, guidance_tensors(pair.flow, points_yx))
        return sample
