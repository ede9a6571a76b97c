"""Addresses such as s3://bucket/folder, which the optional package fsspec opens."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import fsspec

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*(?:::[A-Za-z][A-Za-z0-9+.-]*)*)://")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}


def is_address(path: object) -> bool:
    """Whether a value is an address; text only, since a `Path` changes the slashes."""
    return isinstance(path, str) and _ADDRESS.match(path) is not None and not os.path.lexists(path)


def names_shards(path: object) -> bool:
    """Whether a value names what is streamed: an address, or tar files (a path or pattern that ends in .tar)."""
    return is_address(path) or isinstance(path, str) and path.endswith(".tar")


def open_address(address: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of an address and the path in it; nothing is read yet.

    Raises:
        ModuleNotFoundError: fsspec, or the package that opens addresses of this kind, is not installed.
        ValueError: no package opens addresses of this kind.
    """
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{address}: fsspec is not installed: pip install 'cmp-motion[stream]'") from error
    scheme = address.partition("://")[0].rpartition("::")[2].lower()
    try:
        return fsspec.url_to_fs(address)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        advice = f": pip install {package}" if package else ""
        raise ModuleNotFoundError(f"{address}: {error}{advice}") from error
    except ValueError as error:
        raise ValueError(f"{address}: {error}") from error


def network_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """What file systems raise where a network or a server fails, and the given others."""
    found: list[type[Exception]] = [OSError, TimeoutError, *others]
    try:
        from aiohttp import ClientError

        found.append(ClientError)
    except ModuleNotFoundError:
        pass
    try:
        from botocore.exceptions import BotoCoreError

        found.append(BotoCoreError)
    except ModuleNotFoundError:
        pass
    return tuple(found)
