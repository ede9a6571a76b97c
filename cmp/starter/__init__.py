"""The starter network: a small trained network inside the package, used wherever no checkpoint is named.

What it was trained on, how good it is and where it fails: cmp/starter/README.md.
"""

import hashlib
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("cmp_r18_starter.safetensors")
SHA256 = "2b7d367450e786083514d08900e35686883f7592ba9b1a051801b1d71d7dede5"
STARTER = "starter"  # its name in place of the path of a checkpoint


@cache
def starter_path() -> Path:
    """The file of the starter network, after comparing its content with the hash in the source code.

    Raises:
        FileNotFoundError: the installation lacks the file.
        ValueError: the file's content is not what was published.
    """
    try:
        content = FILE.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{FILE}: this installation lacks the starter network; install cmp-motion again, or name a checkpoint"
        ) from None
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"{FILE}: the starter network is damaged (its SHA-256 differs); install cmp-motion again")
    return FILE
