"""The settings of a preparation job: which pairs, how they are stored, which are dropped.

Importing it imports nothing slow, because the command reads its defaults here.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from data_prep.estimators import DEFAULT_ESTIMATOR, check_estimator, create_estimator
from data_prep.thresholds import Thresholds

if TYPE_CHECKING:
    import numpy as np

    from data_prep.estimators import FlowEstimator, PrecomputedFlow


@dataclass(frozen=True)
class PrepareSettings:
    """Everything that the samples of a store depend on; kept in its store.json.

    interval_*, pairs_per_video, stride_*: see `choose_pairs`; 5 frames and 50 pairs per video where nothing is given.
    short_side_px: larger frames are resized to this short side (area filter); 0 keeps their size.
    enlarge: smaller frames are resized to it too (bicubic).
    estimator, codec: names, see `data_prep.estimators` and `cmp.flow.encode_flow`.
    estimator_weights: a local file of weights, for RAFT and ptlflow; None for the weights of the library.
    estimator_device: where RAFT and ptlflow run: "cpu", "cuda", "cuda:1", ... or "auto".
    jpeg_quality: of the stored frames, 1 to 100.
    store_second: store frame t+k too.
    forget_dropped: do not store rejected pairs; looser thresholds cannot bring them back.
    max_flow_px: range of the training bins at stored size, for the score beyond_share.
    reader: for files; a name of `cmp.video.readers.FILE_BACKENDS`.
    folder_fps: frames per second assumed for folders of frames.
    """

    interval_frames: int | None = None
    interval_s: float | None = None
    pairs_per_video: int | None = None
    stride_frames: int | None = None
    stride_s: float | None = None
    short_side_px: int = 416
    enlarge: bool = False
    estimator: str = DEFAULT_ESTIMATOR
    estimator_weights: str | None = None
    estimator_device: str = "auto"
    codec: str = "half16"
    jpeg_quality: int = 92
    store_second: bool = False
    forget_dropped: bool = False
    max_flow_px: float = 50.0
    thresholds: Thresholds = field(default_factory=Thresholds)
    reader: str = "auto"
    folder_fps: float = 25.0

    def __post_init__(self) -> None:
        import numpy as np

        from cmp.flow.codec import CODECS
        from cmp.video.readers import FILE_BACKENDS, check_backend

        if self.interval_frames is None and self.interval_s is None:
            object.__setattr__(self, "interval_frames", 5)
        if self.pairs_per_video is None and self.stride_frames is None and self.stride_s is None:
            object.__setattr__(self, "pairs_per_video", 50)
        self.choose(np.arange(3) / 25)  # checks intervals and strides
        check_estimator(self.estimator, self.estimator_weights)
        if self.codec not in CODECS:
            raise ValueError(f"codec must be one of {', '.join(CODECS)}, got {self.codec!r}")
        if self.reader not in FILE_BACKENDS:
            raise ValueError(f"reader must be one of {', '.join(FILE_BACKENDS)}, got {self.reader!r}")
        check_backend(self.reader)
        if self.short_side_px != 0 and self.short_side_px < 16:
            raise ValueError(f"short_side_px must be 0 (keep) or at least 16, got {self.short_side_px}")
        if self.enlarge and self.short_side_px == 0:
            raise ValueError("enlarge needs a short_side_px to enlarge to")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must lie in 1 .. 100, got {self.jpeg_quality}")
        for name in ("folder_fps", "max_flow_px"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")

    def choose(self, times_s: np.ndarray) -> np.ndarray:
        """(N, 2) int64 positions of the pairs; see `choose_pairs`."""
        from data_prep.pairs import choose_pairs

        return choose_pairs(
            times_s,
            interval_frames=self.interval_frames,
            interval_s=self.interval_s,
            pairs_per_video=self.pairs_per_video,
            stride_frames=self.stride_frames,
            stride_s=self.stride_s,
        )

    def as_stored(self) -> dict:
        """The settings in store.json, with which a later job must agree: without paths of this machine and the device.

        A file of weights is kept as a hash of its content, a folder of flow files as "files".
        """
        from data_prep.estimators.weights import weights_label

        kept = asdict(self)
        del kept["estimator_device"]
        if self.estimator_weights is not None:
            kept["estimator_weights"] = weights_label(self.estimator_weights)
        if self.estimator.startswith("files:"):
            kept["estimator"] = "files"
        return kept

    def anywhere(self) -> PrepareSettings:
        """The same with absolute paths, for processes that run in other folders."""
        weights, estimator = self.estimator_weights, self.estimator
        if estimator.startswith("files:"):
            estimator = f"files:{os.path.abspath(estimator.removeprefix('files:'))}"
        return replace(
            self, estimator=estimator, estimator_weights=None if weights is None else os.path.abspath(weights)
        )

    @classmethod
    def from_stored(cls, kept: dict, estimator_weights: str | None = None) -> PrepareSettings:
        """The settings that a store was made with. It keeps a hash of a file of weights, so the file is given again.

        Raises:
            ValueError: they are of another version of this package, or the flow came from files.
        """
        if str(kept.get("estimator")).partition(":")[0] == "files":
            raise ValueError("the flow of this store came from files: run prepare with its flags instead")
        kept = dict(kept)
        if kept.pop("candidates_kernel", None) is not None:
            raise ValueError("this store has candidates for guidance points, which are not written any more")
        try:
            thresholds = Thresholds(**kept["thresholds"])
            return cls(**kept | {"thresholds": thresholds, "estimator_weights": estimator_weights})
        except (AttributeError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"settings of another version of this package ({error})") from error

    def stored_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width at which frames of this size are stored, px."""
        from cmp.pixels import size_at_short_side

        short = min(size_hw)
        if self.short_side_px == 0 or (short < self.short_side_px and not self.enlarge):
            return size_hw
        return size_at_short_side(size_hw, self.short_side_px)

    def create_estimator(self, video: str = "") -> FlowEstimator | PrecomputedFlow:
        """The estimator, or the flow files, of a video given by its path ("" for what all videos share)."""
        from data_prep.estimators import PrecomputedFlow

        if self.estimator.startswith("files:"):
            return PrecomputedFlow(self.estimator.removeprefix("files:"), video)
        return create_estimator(self.estimator, weights=self.estimator_weights, device=self.estimator_device)
