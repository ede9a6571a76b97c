"""Measure the readers of video files on a folder of clips: which open, whether frames are equal, CPU time, memory.

    python tools/benchmark/readers.py VIDEO_DIR --readers pyav decord torchcodec --frames 20

Each reader runs in a fresh process that reads FRAMES frames of each clip, spread evenly, on one thread. A second
process compares its frames with those of pyav.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from cmp.video.find import find_videos
from cmp.video.readers import FILE_BACKENDS, check_backend, open_video


def positions(num_frames: int, count: int) -> list[int]:
    """At most count positions, evenly spread from the first frame to the last."""
    return np.unique(np.linspace(0, num_frames - 1, min(count, num_frames)).round().astype(int)).tolist()


def measure(folder: Path, reader: str, count: int, compare: bool) -> dict:
    """Read the clips of a folder with one reader.

    Returns:
        "clips": a dict per clip that opens, with frames read, CPU s and the reader's problem, and with compare the
        largest and the mean difference from pyav's frames, gray levels; "refused": the reason per clip that does not
        open; "start_mb" and "peak_mb": memory of the process before and after.
    """
    check_backend(reader)
    start_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    clips, refused = {}, {}
    for source in find_videos(folder):
        if source.kind != "file":
            continue
        path, began = folder / source.path, time.process_time()
        try:
            with open_video(path, reader) as opened:
                wanted = positions(opened.num_frames, count)
                found = {}
                frames = 0
                for frame in opened.read(wanted):
                    frames += 1
                    if compare:
                        found[frame.index] = frame.image
                clip = dict(frames=frames, wanted=len(wanted), cpu_s=time.process_time() - began)
                clip["problem"] = opened.problem
        except ValueError as error:
            refused[source.path] = str(error).replace(f"{folder}/", "")
            continue
        if compare:
            with open_video(path, "pyav") as other:
                differences = [
                    np.abs(frame.image.astype(np.int16) - found[frame.index])
                    for frame in other.read(wanted)
                    if frame.index in found and found[frame.index].shape == frame.image.shape
                ]
            clip["compared"] = len(differences)
            clip["largest"] = max((int(difference.max()) for difference in differences), default=0)
            clip["mean"] = max((float(difference.mean()) for difference in differences), default=0.0)
        clips[source.path] = clip
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return dict(clips=clips, refused=refused, start_mb=start_mb, peak_mb=peak_mb)


def main(argv=None) -> int:
    """Print one block of lines per reader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video_dir", type=Path)
    parser.add_argument("--readers", nargs="+", default=["pyav", "decord"], choices=FILE_BACKENDS)
    parser.add_argument("--frames", type=int, default=20, help="of each clip")
    parser.add_argument("--one", choices=("time", "compare"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        compare = arguments.one == "compare"
        print(json.dumps(measure(arguments.video_dir, arguments.readers[0], arguments.frames, compare)))
        return 0
    timed = {}
    for reader in arguments.readers:
        results = []
        for one in ("time", "compare"):
            command = [sys.executable, __file__, str(arguments.video_dir), "--readers", reader]
            command += ["--frames", str(arguments.frames), "--one", one]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results.append(json.loads(output))
        alone, compared = results
        clips = compared["clips"].values()
        timed[reader] = alone["clips"]
        both = timed[arguments.readers[0]].keys() & alone["clips"].keys()
        seconds = sum(alone["clips"][name]["cpu_s"] for name in both)
        first = sum(timed[arguments.readers[0]][name]["cpu_s"] for name in both)
        print(f"{reader}: opens {len(clips)} clips, refuses {len(alone['refused'])}")
        print(f"  frames read {sum(c['frames'] for c in clips)} of {sum(c['wanted'] for c in clips)}")
        equal = sum(clip["largest"] == 0 for clip in clips)
        print(f"  clips whose frames equal pyav's: {equal}; largest difference {max(c['largest'] for c in clips)},")
        print(f"  largest mean of a frame {max(c['mean'] for c in clips):.3f} gray levels")
        print(f"  CPU {seconds:.1f} s on {len(both)} clips, where {arguments.readers[0]} takes {first:.1f} s")
        print(f"  memory {alone['start_mb']} MB at the start, {alone['peak_mb']} MB at the peak")
        for name, clip in compared["clips"].items():
            if clip["largest"] or clip["frames"] < clip["wanted"]:
                print(f"    {name}: {clip}")
        for name, reason in alone["refused"].items():
            print(f"    refused {name}: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
