"""Weights by an address: a file on the Hugging Face Hub, or a URL together with the SHA-256 of its content.

Nothing is downloaded without a line on stderr that states what and where to. A file gets its name in the cache only
when it is whole and has the right hash, so what an interrupted download left is never used.
"""

import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from os import PathLike
from pathlib import Path

from cmp.files import NewFile
from cmp.version import __version__

MAX_BYTES = 8 << 30  # of a file; the published networks have 0.1 to 0.4 GB
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0  # without any data
SCHEMES = ("hf", "http", "https")


def can_be_downloaded(path: object) -> bool:
    """Whether a path is an address that `download_weights` takes; text only, since a `Path` changes the slashes."""
    return isinstance(path, str) and path.partition("://")[0].lower() in SCHEMES and "://" in path


def cache_folder() -> Path:
    """Where downloads by URL are kept: $CMP_CACHE, or cmp-motion in $XDG_CACHE_HOME (default: ~/.cache)."""
    named = os.environ.get("CMP_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmp-motion"


def download_weights(address: str, *, sha256: str | None = None, max_bytes: int = MAX_BYTES) -> Path:
    """Download a file of weights, unless it is in the cache.

    Args:
        address: `hf://OWNER/REPO/FILE` or `hf://OWNER/REPO@REVISION/FILE` (by the package huggingface_hub, in its own
            cache); or a URL with http or https. `#sha256=HEX` may follow.
        sha256: of the content, 64 hexadecimal digits; as the fragment. A URL needs one of the two: who serves the file
            could change it. For the Hub it is optional; with it the file is compared, whatever the Hub says.
        max_bytes: larger files are refused, before or while they are downloaded.

    Returns:
        The file in the cache.

    Raises:
        ValueError: the address or the hash is malformed, a URL has no hash, the file is too large, is not there, or
            has another hash; the Hub does not state its size; or huggingface_hub is missing. The address is named.
        OSError: the download broke off, or the cache cannot be written.
    """
    address, _, fragment = address.partition("#")
    if fragment and not fragment.startswith("sha256="):
        raise ValueError(f"{address}: after # only sha256=HEX is understood, got {fragment!r}")
    stated = [value.lower() for value in (sha256, fragment.removeprefix("sha256=")) if value]
    for value in stated:
        if not re.fullmatch("[0-9a-f]{64}", value):
            raise ValueError(f"{address}: sha256 must be 64 hexadecimal digits, got {value!r}")
    if len(set(stated)) > 1:
        raise ValueError(f"{address}: sha256 and the address state two hashes")
    wanted = stated[0] if stated else None
    is_hub = address.lower().startswith("hf://")
    if wanted is None and not is_hub:
        raise ValueError(f"{address}: a URL needs the SHA-256 of its content: append #sha256=HEX, or pass sha256")
    try:
        return _from_hub(address, wanted, max_bytes) if is_hub else _from_url(address, wanted or "", max_bytes)
    except ValueError as error:  # the libraries' own do not name the address
        if str(error).startswith(address):
            raise
        raise ValueError(f"{address}: {_first_line(error)}") from error


def file_sha256(path: str | PathLike) -> str:
    """The SHA-256 of a file's content, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _from_url(url: str, wanted: str, max_bytes: int) -> Path:
    parts = urllib.parse.urlsplit(url)
    name = Path(urllib.parse.unquote(parts.path)).name
    if not parts.hostname or name in ("", "..") or len(os.fsencode(name)) > 200 or not name.isprintable():
        raise ValueError(f"{url}: does not end in the name of a file on a server")
    path = cache_folder() / "weights" / wanted / name
    if path.is_file():
        if file_sha256(path) == wanted:
            return path
        _say(f"{path}: has another SHA-256 than when it was downloaded; downloading it again")
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")  # letters beyond ASCII and spaces are escaped
    request = urllib.request.Request(plain, headers={"User-Agent": f"cmp-motion/{__version__}"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response, NewFile(path, stop_at_once=True) as file:
            stated = response.headers.get("Content-Length")
            size = int(stated) if stated and stated.isdecimal() else None
            _check_size(url, size or 0, max_bytes)
            _say(f"downloading {url} ({_megabytes(size)}) to {path}")
            digest, received = hashlib.sha256(), 0
            while chunk := response.read(CHUNK_BYTES):
                received += len(chunk)
                _check_size(url, received, max_bytes)
                digest.update(chunk)
                file.write(chunk)
            if size is not None and received != size:
                raise OSError(f"{url}: the download broke off after {received} of {size} bytes; try again")
            if digest.hexdigest() != wanted:
                raise ValueError(
                    f"{url}: its content has the SHA-256 {digest.hexdigest()}, expected {wanted}; nothing was kept"
                )
    except urllib.error.HTTPError as error:
        raise ValueError(f"{url}: the server answers {error.code} ({error.reason})") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(f"{url}: the download broke off ({reason}); try again") from error
    return path


def _from_hub(address: str, wanted: str | None, max_bytes: int) -> Path:
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+?)(?:@([^/]+))?/(.+)", address, re.IGNORECASE)
    if match is None or {".", ".."} & {match[2], *match[3].split("/")} or not address.isprintable():
        raise ValueError(f"{address}: expected hf://OWNER/REPO/FILE or hf://OWNER/REPO@REVISION/FILE")
    repo, revision, name = match.groups()
    try:
        import huggingface_hub as hub
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise ValueError(f"{address}: needs the package huggingface_hub; pip install 'cmp-motion[hub]'") from error
    cached = hub.try_to_load_from_cache(repo, name, revision=revision)
    if isinstance(cached, str) and revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        path = Path(cached)  # a commit does not change
    else:
        try:
            size = hub.get_hf_file_metadata(hub.hf_hub_url(repo, name, revision=revision)).size
            if size is None:
                raise ValueError(f"{address}: the Hub does not state its size, so it is not downloaded")
            _check_size(address, size, max_bytes)
            if not isinstance(cached, str):
                _say(f"downloading {address} ({_megabytes(size)}) to {hub.constants.HF_HUB_CACHE}")
            path = Path(hub.hf_hub_download(repo, name, revision=revision))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            if not isinstance(cached, str):
                raise OSError(f"{address}: cannot be downloaded ({_first_line(error)})") from error
            _say(f"{address}: the Hub cannot be asked ({_first_line(error)}); using {cached}")
            path = Path(cached)
    _check_size(address, path.stat().st_size, max_bytes)
    if wanted is not None and (found := file_sha256(path)) != wanted:
        raise ValueError(f"{address}: its content has the SHA-256 {found}, expected {wanted}")
    return path


def _check_size(address: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ValueError(f"{address}: is larger than {max_bytes} bytes, and no more is downloaded")


def _megabytes(size: int | None) -> str:
    return "of unknown size" if size is None else f"{size / 1e6:.1f} MB"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
