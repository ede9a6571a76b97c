"""What the playground keeps of its open pages: their results on the disk, their images in memory, and uploads.

Sessions, folders and uploads have random names; what a browser sends is a key of a map and nothing else.
"""

import contextlib
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_SESSIONS = 16  # open pages
MAX_SESSION_BYTES = 256 << 20  # results of one page on the disk
MAX_ALL_BYTES = 1 << 30  # results of all pages on the disk
MAX_SCENE_BYTES = 2 << 30  # encoded images of all pages in memory
IDLE_S = 600  # a page without a connection is forgotten after this
KEEP_S = 3600  # and one with a connection, but without an arrow
MAX_UPLOADS = 8  # images that were sent and not opened yet
UPLOAD_S = 120  # and are forgotten after this
RESULTS = {  # file name: media type, and whether the browser shows it
    "flow.png": ("image/png", "inline"),
    "confidence.png": ("image/png", "inline"),
    "mask.png": ("image/png", "inline"),
    "motion.mp4": ("video/mp4", "inline"),
    "motion.gif": ("image/gif", "inline"),
    "motion.flo": ("application/octet-stream", "attachment"),
    "arrows.json": ("application/json", "attachment"),
}
_FILE = re.compile(r"page-[0-9a-f]{32}/(draw|motion)-[0-9]{8}/([a-z.0-9]+)")


class RefusedError(Exception):
    """A request that is not let in: the status and the line of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(eq=False)
class Session:
    """One open page."""

    folder: Path  # of its results, under a random name
    scene: Any = None  # the image that arrows are drawn on
    motion: Any = None  # the last arrows, and what was made of them
    upload: np.ndarray | None = None  # an image that was sent and is opened next
    scene_bytes: int = 0
    used: float = 0.0  # time.monotonic()
    connections: int = 0
    num_results: int = 0
    closed: bool = False


class Sessions:
    """The open pages by the names that browsers give them, and where their results are.

    A name is a key of a map and nothing else. Safe to use from several threads.

    Args:
        folder: where the results of all pages are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sessions: dict[str, Session] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, name: str | None) -> Session | None:
        """The page of that name, if it is open."""
        with self._lock:
            session = self._sessions.get(name or "")
            if session is not None:
                session.used = time.monotonic()
            return session

    def enter(self, name: str) -> Session:
        """The page of that name; opened if need be, in place of one without a connection if there are too many.

        Raises:
            RefusedError: MAX_SESSIONS pages are open, with a connection each.
        """
        with self._lock:
            if name not in self._sessions:
                while len(self._sessions) >= MAX_SESSIONS:
                    idle = [other for other, session in self._sessions.items() if not session.connections]
                    if not idle:
                        raise RefusedError(503, f"at most {MAX_SESSIONS} pages are open at once; close one of them")
                    self.drop(min(idle, key=lambda other: self._sessions[other].used))
                self._sessions[name] = Session(self.folder / f"page-{secrets.token_hex(16)}")
            session = self._sessions[name]
            session.used = time.monotonic()
            return session

    def drop(self, name: str | None) -> None:
        """Forget a page and remove its results."""
        with self._lock:
            session = self._sessions.pop(name or "", None)
            if session is not None:
                session.closed = True
                session.scene = session.motion = session.upload = None
                shutil.rmtree(session.folder, ignore_errors=True)

    def drop_stale(self) -> None:
        """Forget pages that nobody uses any more."""
        now = time.monotonic()
        with self._lock:
            for name, session in list(self._sessions.items()):
                if now - session.used > (KEEP_S if session.connections else IDLE_S):
                    self.drop(name)

    def names(self) -> set[str]:
        """Of the open pages."""
        with self._lock:
            return set(self._sessions)

    def set_scene(self, session: Session, scene: Any, num_bytes: int) -> None:
        """Give a page a new image; the pages that were used least recently lose theirs if memory is short."""
        with self._lock:
            if session.closed:
                return
            session.scene, session.motion, session.scene_bytes = scene, None, num_bytes
            with_scene = [s for s in self._sessions.values() if s.scene is not None and s is not session]
            with_scene.sort(key=lambda s: s.used, reverse=True)
            total = num_bytes
            for other in with_scene:
                total += other.scene_bytes
                if total > MAX_SCENE_BYTES:
                    other.scene = other.motion = None

    def results_folder(self, session: Session, kind: str, num_bytes: int) -> Path:
        """A new folder for results of a kind, "draw" or "motion"; the last one of that kind stays, older ones go.

        Args:
            num_bytes: that the results may take.

        Raises:
            FileNotFoundError: the page was closed meanwhile.
            ValueError: this page or all of them would take too many bytes.
        """
        with self._lock:
            if session.closed:
                raise FileNotFoundError("the page was closed")
            for older in sorted(session.folder.glob(f"{kind}-*"))[:-1]:
                shutil.rmtree(older, ignore_errors=True)
            for folder, limit, what in (
                (session.folder, MAX_SESSION_BYTES, "one page"),
                (self.folder, MAX_ALL_BYTES, "all open pages"),
            ):
                if _bytes_below(folder) + num_bytes > limit:
                    raise ValueError(
                        f"the results of {what} take at most {limit >> 20} MiB (asked for {num_bytes / 2**20:.0f} MiB "
                        "more); take fewer frames, a smaller image, or close other pages"
                    )
            session.num_results += 1
            out = session.folder / f"{kind}-{session.num_results:08d}"
            out.mkdir(parents=True)
            return out

    def result(self, path: str) -> Path | None:
        """The file of an open page that a path names; None for every other path."""
        prefix = f"{self.folder}/"
        match = _FILE.fullmatch(path.removeprefix(prefix)) if path.startswith(prefix) else None
        if match is None or match[2] not in RESULTS:
            return None
        file = Path(path)
        with self._lock:
            known = any(session.folder == file.parents[1] for session in self._sessions.values())
        return file if known and file.is_file() and not file.is_symlink() else None


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total


class Uploads:
    """Images that were sent and are not opened yet, in memory, by random tokens.

    Args:
        read: makes an image (H, W, 3) uint8 of a file, or raises ValueError.
        folder: a file is in it while it is read.
        max_bytes: larger files are refused.
    """

    def __init__(self, read: Callable[[Path], np.ndarray], folder: Path, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._read, self._folder = read, folder
        self._images: dict[str, tuple[float, np.ndarray]] = {}
        self._decoding = threading.Lock()  # a large image takes much memory while it is decoded

    def __len__(self) -> int:
        return len(self._images)

    def add(self, file: Any, name: str) -> str:
        """Decode a file and keep the image; returns its token.

        Raises:
            ValueError: it is too large, broken or not an image.
        """
        name = re.sub(r"[^\w. ()-]", "_", name.replace("\\", "/").rsplit("/", 1)[-1])[-60:].lstrip(". ") or "image"
        with self._decoding, tempfile.TemporaryDirectory(prefix="upload-", dir=self._folder) as folder:
            path = Path(folder) / name
            with open(path, "wb") as out:
                shutil.copyfileobj(file, out, 1 << 20)
            image = self._read(path)
        while len(self._images) >= MAX_UPLOADS:
            del self._images[next(iter(self._images))]
        token = f"upload-{secrets.token_hex(16)}"
        self._images[token] = (time.monotonic(), image)
        return token

    def take(self, token: str) -> np.ndarray | None:
        """The image of a token, once."""
        self.drop_stale()
        return self._images.pop(token, (0, None))[1]

    def drop_stale(self) -> None:
        """Forget images that nobody opened."""
        oldest = time.monotonic() - UPLOAD_S
        for token in [token for token, (since, _) in list(self._images.items()) if since < oldest]:
            self._images.pop(token, None)
