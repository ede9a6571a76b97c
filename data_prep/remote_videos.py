"""Videos at an address: listing them, and downloading one to a local file with a bound on its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cmp.addresses import network_errors, open_address
from cmp.video.find import VIDEO_SUFFIXES, VideoSource

_BLOCK_BYTES = 1 << 20


class DownloadError(OSError):
    """A video could not be downloaded; `reason` is "download" or "too_large"."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class RemoteVideo:
    """A video file at an address: its path below the address, and its size in bytes where the server tells."""

    source: VideoSource
    size: int | None


class RemoteVideos:
    """The video files below an address, such as s3://bucket/videos or https://host/folder/ (a listing in HTML).

    Files are found by their suffix; folders of frames are not looked for. Hidden files and folders are skipped.

    Raises:
        ModuleNotFoundError, ValueError: as `open_address`.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._system, root = open_address(address)
        self._root = root.rstrip("/")

    def find(self) -> list[RemoteVideo]:
        """All videos, sorted by path.

        Raises:
            FileNotFoundError: there is nothing at the address.
            OSError: the address cannot be read.
            ValueError: two videos get the same id.
        """
        try:
            entries = self._system.find(self._root + "/", detail=True)
        except network_errors() as error:
            raise OSError(f"{self.address}: cannot be listed ({error or type(error).__name__})") from error
        found: dict[str, RemoteVideo] = {}
        for place, entry in entries.items():
            path = self._path_of(place)
            if path is None or not path.lower().endswith(VIDEO_SUFFIXES):
                continue
            video = RemoteVideo(VideoSource(path, "file"), entry.get("size"))
            other = found.setdefault(video.source.video_id, video)
            if other.source != video.source:
                raise ValueError(f"{path!r} and {other.source.path!r} get the same id; rename one")
        if not entries:
            raise FileNotFoundError(f"{self.address}: nothing there")
        return sorted(found.values(), key=lambda video: video.source.path.encode("utf-8", "surrogateescape"))

    def download(self, video: RemoteVideo, folder: Path, *, max_bytes: int) -> int:
        """Download a video to its path below a folder; returns its bytes.

        Raises:
            DownloadError: it is larger than max_bytes, the connection broke off, or there are more or fewer bytes than
                the listing says. No file is left then.
        """
        path = folder / video.source.path
        if video.size is not None and video.size > max_bytes:
            raise DownloadError("too_large", f"{video.size} bytes; the limit is {max_bytes}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._system.open(f"{self._root}/{video.source.path}", "rb") as remote, open(path, "wb") as local:
                count = 0
                while block := remote.read(_BLOCK_BYTES):
                    count += len(block)
                    if count > max_bytes:
                        raise DownloadError("too_large", f"more than {max_bytes} bytes, the limit")
                    local.write(block)
            if video.size is not None and count != video.size:
                raise DownloadError("download", f"{count} of {video.size} bytes came")
        except DownloadError:
            path.unlink(missing_ok=True)
            raise
        except network_errors(ValueError) as error:  # fsspec: ValueError for a server that knows no size
            path.unlink(missing_ok=True)
            raise DownloadError("download", f"{error or type(error).__name__}") from error
        return count

    def _path_of(self, place: str) -> str | None:
        """The path below the address; None for what is not below it, or hidden: a listing may claim anything."""
        if not place.startswith(self._root + "/"):
            return None
        path = place[len(self._root) + 1 :]
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or "\0" in path or "\\" in path or any(p.startswith(".") for p in parts):
            return None
        return path if "/".join(parts) == path else None
