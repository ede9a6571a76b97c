"""What stands for a file of weights; needs no torch, so that preparation without a network stays small."""

from __future__ import annotations

import hashlib
import os


def weights_label(path: str | os.PathLike) -> str:
    """What stands for a file of weights in stores, wherever it lies: a hash of its content.

    Raises FileNotFoundError naming it.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file of weights")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256 {digest.hexdigest()[:16]}"
