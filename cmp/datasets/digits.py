"""Reads the MNIST digits from their four files."""

import gzip
import io
import zlib
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.datasets import MNIST

from cmp.flow.bounded import read_plain_file

PARTS = {"train": "train", "test": "t10k"}
MAX_BYTES = 2**30  # limit for the values of one file, unpacked; MNIST's largest has 47 MB
_CHUNK = 1 << 20


def read_digits(folder: str | PathLike, part: str, *, download: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Read a part of MNIST.

    Args:
        folder: with the files under their published names, as `.gz` or unpacked, or torchvision's copy (`MNIST/raw`).
        part: "train" or "test".
        download: download torchvision's copy to the folder if it is not there.

    Returns:
        Images (N, 28, 28) uint8 and labels (N,) uint8.

    Raises:
        FileNotFoundError: a file is missing, or cannot be downloaded.
        ValueError: the part is unknown; or a file is damaged, has another size than its header states, or has over
            1 GiB of values; the message names the file.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {sorted(PARTS)}, got {part!r}")
    if download:
        try:
            MNIST(str(folder), download=True)
        except RuntimeError as error:  # torchvision's, where no mirror answers
            raise FileNotFoundError(f"{folder}: MNIST could not be fetched: {error}") from error
    images = _read_idx(_find(Path(folder), f"{PARTS[part]}-images-idx3-ubyte"), ndim=3)
    labels = _read_idx(_find(Path(folder), f"{PARTS[part]}-labels-idx1-ubyte"), ndim=1)
    if len(images) != len(labels):
        raise ValueError(f"{folder}: {len(images)} images of part {part!r}, but {len(labels)} labels")
    return images, labels


class Digits(Dataset):
    """MNIST digits, one per sample.

    A sample is a dict: `image` (1, 28, 28) float32 in 0..1, `label` int.

    Args:
        paths: one folder, see `read_digits`.
        part: "train" or "test".
        binarize: "none": gray values; "random": each pixel is 1 with its gray value as probability, drawn again in each
            epoch; "fixed": the same, drawn once for all epochs.
        max_digits: use only the first digits, at most this many; None uses all.
        seed: of all random numbers.
        download: see `read_digits`.

    Raises:
        FileNotFoundError, ValueError: see `read_digits`.
        ValueError: an argument is out of range.
    """

    metainfo: dict = {}  # mmengine warns where a dataset has none

    def __init__(
        self,
        paths: list[str],
        *,
        part: str = "train",
        binarize: str = "none",
        max_digits: int | None = None,
        seed: int = 0,
        download: bool = False,
    ) -> None:
        if len(paths) != 1:
            raise ValueError(f"want one folder with the digits, got {paths}")
        if binarize not in ("none", "random", "fixed"):
            raise ValueError(f"binarize must be 'none', 'random' or 'fixed', got {binarize!r}")
        if max_digits is not None and max_digits < 1:
            raise ValueError(f"max_digits must be at least 1, got {max_digits}")
        images, labels = read_digits(paths[0], part, download=download)
        self.images, self.labels = images[:max_digits], labels[:max_digits]
        self.binarize, self.seed = binarize, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        index, epoch = index if isinstance(index, tuple) else (index, 0)
        image = self.images[index].astype(np.float32) / 255
        if self.binarize != "none":
            rng = np.random.default_rng((self.seed, epoch if self.binarize == "random" else 0, index))
            image = (rng.random(image.shape, dtype=np.float32) < image).astype(np.float32)
        return dict(image=torch.from_numpy(image[None]), label=int(self.labels[index]))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name, folder / "MNIST" / "raw" / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder}: neither {name}(.gz) nor MNIST/raw/{name} found: the digits are not there")


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes: a magic number, `ndim` sizes as big-endian 32-bit integers, the values."""
    head = 4 * (1 + ndim)
    magic = bytes((0, 0, 8, ndim))
    try:
        packed = read_plain_file(path, MAX_BYTES + head)
        with gzip.open(io.BytesIO(packed)) if path.suffix == ".gz" else io.BytesIO(packed) as file:
            start = file.read(head)
            if start[:4] != magic or len(start) < head:
                raise ValueError(
                    f"{path} is not an IDX file of {ndim} dimensions: it begins with {start[:4]!r}, not {magic!r}"
                )
            shape = tuple(int(size) for size in np.frombuffer(start, ">u4", ndim, offset=4))
            claimed = int(np.prod(shape, dtype=object))
            if claimed > MAX_BYTES:
                raise ValueError(f"{path} claims {shape}, {claimed} bytes of values; at most {MAX_BYTES} are read")
            values = bytearray()
            # One byte more than claimed, to notice files that are too long.
            while block := file.read(min(_CHUNK, claimed + 1 - len(values))):
                values += block
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is broken: {error}") from error
    if len(values) != claimed:
        what = "is cut short" if len(values) < claimed else "is too long"
        raise ValueError(f"{path} {what}: {len(values)} bytes of values or more, but its header states {shape}")
    return np.frombuffer(values, np.uint8).reshape(shape)
