"""The console script `cmp-motion`: it finds the subcommand and hands the other arguments to it.

To add a subcommand, write a module with `main(argv, *, prog)` that returns the exit status, and add a line to
`COMMANDS`.
"""

import difflib
import importlib
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from cmp.interrupts import run_command
from cmp.version import __version__

NAME = "cmp-motion"

# Words after `cmp-motion` to (module in cmp.cli, function in it), and what it does.
COMMANDS = {
    "clips": ("clips:main", "copy three sample clips to a folder"),
    "prepare": ("prepare:main", "make a pair store from a folder of videos"),
    "browse": ("browse:main", "write a page that shows a pair store"),
    "store verify": ("store_verify:main", "check every byte of a pair store"),
    "store repair": ("store_repair:main", "do the damaged videos of a pair store again"),
    "store merge": ("store_merge:main", "merge the parts of an array job into one pair store"),
    "store refilter": ("store_refilter:main", "decide again which pairs of a store are dropped"),
    "train": ("train:main", "pretrain, or train one of the baselines"),
    "plot": ("plot:main", "draw the curves of training runs"),
    "evaluate": ("evaluate:main", "measure a network or a backbone"),
    "evaluate discover": ("evaluate_discover:main", "measure the objects that poking finds"),
    "evaluate rigidity": ("evaluate_rigidity:main", "measure whether rigid parts move as wholes"),
    "points": ("points:main", "count the guidance points that a recipe chooses per crop"),
    "ablate": ("ablate:main", "compare variants of pretraining in one table"),
    "compare": ("compare:main", "compare systems that predict frames"),
    "export": ("export_backbone:main", "the same as export backbone"),
    "export backbone": ("export_backbone:main", "write the image encoder for another library"),
    "export propagator": ("export_propagator:main", "write the whole network as a graph (ONNX, torch.export)"),
    "animate": ("animate:main", "arrows on an image to a video"),
    "annotate": ("annotate:main", "clicks on an image to a mask"),
    "discover": ("discover:main", "find objects by poking an image"),
    "playground": ("playground:main", "draw arrows in the browser"),
    "checkpoint convert": ("checkpoint_convert:main", "a checkpoint of Zhan et al. to ours, or back"),
    "checkpoint check": ("checkpoint_check:main", "run all that reads checkpoints on a file of Zhan et al."),
    "checkpoint inspect": ("inspect:main", "draw what a backbone computes"),
    "coco": ("coco:main", "polygon labels of the YOLO kind to COCO's layout"),
}
ENDLESS = ("playground",)  # they run until they are interrupted

HELP = f"""usage: {NAME} COMMAND [arguments]

Self-supervised pretraining from video by Conditional Motion Propagation: videos in, a backbone out.

{{commands}}

  {NAME} COMMAND --help explains a command; {NAME} --version prints the version.

Example:
  {NAME} prepare VIDEO_DIR my_pairs
  {NAME} train r18_quickstart --data my_pairs --work-dir work_dirs/mine
  {NAME} export backbone work_dirs/mine/iter_300.pth backbone.pth

Exit status: 0; 1 a job that failed; 2 wrong usage or input; 75 a training that a signal stopped after it had saved: run
it again with --resume; 130 Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    for length in (2, 1):
        name = " ".join(words[:length])
        if len(words) >= length and name in COMMANDS:
            module, _, function = COMMANDS[name][0].partition(":")
            command = getattr(importlib.import_module(f"cmp.cli.{module}"), function)
            return command(words[length:], prog=f"{NAME} {name}")
    return _other(words)


def _other(words: list[str]) -> int:
    """Answer arguments that name no command."""
    first = words[0] if words else ""
    if first in ("-h", "--help"):
        print(HELP.format(commands=_listed(COMMANDS)))
        return 0
    if first == "--version":
        print(f"{NAME} {__version__}")
        return 0
    group = [name for name in COMMANDS if name.startswith(f"{first} ")]
    if group and words[1:] in (["-h"], ["--help"]):
        print(f"usage: {NAME} {first} COMMAND [arguments]\n\n{_listed(group)}")
        return 0
    if group:
        first, wrong = f" {first}", " ".join(words[1:2])
        hint = f"; its commands are {', '.join(name.split()[1] for name in group)}"
    else:
        known = [name.split()[0] for name in COMMANDS]
        wrong, near = first, difflib.get_close_matches(first, known, n=1)
        hint, first = f"; did you mean {near[0]!r}?" if near else "; --help lists the commands", ""
    what = f"there is no command {wrong!r}" if wrong else "a command is missing"
    print(f"{NAME}{first}: {what}{hint}", file=sys.stderr)
    return 2


def _listed(names: Iterable[str]) -> str:
    """One line per command."""
    return "\n".join(f"  {name:20} {COMMANDS[name][1]}" for name in names)


def run() -> NoReturn:
    """The console script: run a subcommand and exit; Ctrl-C ends it with one line and status 130."""
    run_command(main, endless=sys.argv[1:2] == [*ENDLESS])
