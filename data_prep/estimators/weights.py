"""Name a file of weights by its content. This module does not import torch, so that preparation by DIS stays small."""

from __future__ import annotations

import hashlib
import os


def weights_label(path: str | os.PathLike) -> str:
    """The name of a file of weights in stores: a hash of its content, independent of its path.

    Raises FileNotFoundError, naming the file, if it does not exist.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file of weights")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256 {digest.hexdigest()[:16]}"
