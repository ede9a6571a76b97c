"""The MNIST digits from their four files."""

import gzip
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.datasets import MNIST

PARTS = {"train": "train", "test": "t10k"}


def read_digits(folder: str | PathLike, part: str, *, download: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Read a part of MNIST.

    Args:
        folder: holds the files under their published names, as `.gz` or unpacked, or torchvision's copy (`MNIST/raw`).
        part: "train" or "test".
        download: fetch torchvision's copy into the folder if it has none.

    Returns:
        Images (N, 28, 28) uint8 and labels (N,) uint8.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: another part, or a file that is broken; the file is named.
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
    """MNIST digits one by one.

    A sample is a dict: `image` (1, 28, 28) float32 in 0..1, `label` int.

    Args:
        paths: one folder, see `read_digits`.
        part: "train" or "test".
        binarise: "none": grey values; "random": each pixel is 1 with its grey value as probability, drawn anew each
            epoch; "fixed": the same with one draw for all epochs.
        max_digits: use the first so many; None is all.
        seed: where the draws start.
        download: see `read_digits`.

    Raises:
        FileNotFoundError, ValueError: see `read_digits`, or an argument is out of range.
    """

    metainfo: dict = {}  # mmengine warns where a dataset has none

    def __init__(
        self,
        paths: list[str],
        *,
        part: str = "train",
        binarise: str = "none",
        max_digits: int | None = None,
        seed: int = 0,
        download: bool = False,
    ) -> None:
        if len(paths) != 1:
            raise ValueError(f"want one folder with the digits, got {paths}")
        if binarise not in ("none", "random", "fixed"):
            raise ValueError(f"binarise must be 'none', 'random' or 'fixed', got {binarise!r}")
        if max_digits is not None and max_digits < 1:
            raise ValueError(f"max_digits must be at least 1, got {max_digits}")
        images, labels = read_digits(paths[0], part, download=download)
        self.images, self.labels = images[:max_digits], labels[:max_digits]
        self.binarise, self.seed = binarise, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        index, epoch = index if isinstance(index, tuple) else (index, 0)
        image = self.images[index].astype(np.float32) / 255
        if self.binarise != "none":
            rng = np.random.default_rng((self.seed, epoch if self.binarise == "random" else 0, index))
            image = (rng.random(image.shape, dtype=np.float32) < image).astype(np.float32)
        return dict(image=torch.from_numpy(image[None]), label=int(self.labels[index]))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name, folder / "MNIST" / "raw" / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} has no {name}(.gz), nor MNIST/raw/{name}: the digits are not there")


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """The array in a file of unsigned bytes: a magic number, `ndim` sizes as big-endian 32-bit integers, the values."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is broken: {error}") from error
    head = 4 * (1 + ndim)
    magic = bytes((0, 0, 8, ndim))
    if content[:4] != magic or len(content) < head:
        raise ValueError(f"{path} is no IDX file of {ndim} dimensions: it begins with {content[:4]!r}, not {magic!r}")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", ndim, offset=4))
    if len(content) - head != np.prod(shape):
        raise ValueError(f"{path} is cut short: {len(content) - head} bytes of values, {shape} was announced")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)
