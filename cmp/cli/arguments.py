"""What the commands share: a parser without abbreviations, errors in one line, exit statuses."""

import argparse
import sys
from typing import NoReturn

from cmp.engine.errors import error_status

IMAGE_HELP = "any image that Pillow reads; or a photograph of scikit-image: astronaut, cat, coffee, rocket"
CHECKPOINT_HELP = "network: ours or Zhan et al.'s, torch file or safetensors (default: the starter network)"


class Parser(argparse.ArgumentParser):
    """argparse's parser, where names of options cannot be shortened and an error is one line, with status 2.

    Parsers of subcommands are of this class too.
    """

    def __init__(self, **kwargs) -> None:
        kwargs = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **kwargs}
        super().__init__(**kwargs)

    def error(self, message: str) -> NoReturn:
        """Print `NAME: what is wrong` and exit with status 2."""
        self.exit(2, f"{self.prog}: {printable(message)}; --help explains the arguments\n")


def numbers(text: str, names: str, what: str) -> list[float]:
    """The numbers of an argument such as "120,80", for argparse.

    Args:
        text: numbers, separated by commas.
        names: of the numbers, for the error, such as "x,y"; there must be as many.
        what: the argument is, for the error, such as "a click".
    """
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    if len(values) != names.count(",") + 1:
        raise argparse.ArgumentTypeError(f"{what} is {names}, got {text!r}")
    return values


def click(text: str) -> list[float]:
    """A click "x,y", px."""
    return numbers(text, "x,y", "a click")


def say(prog: str, message: object) -> None:
    """Print a line to standard error, after the command's name."""
    print(f"{prog}: {printable(str(message), keep=chr(10))}", file=sys.stderr)


def fail(prog: str, error: Exception) -> int:
    """Print an error; returns the exit status: 2 for wrong input, 1 where the job failed.

    A job fails by errors of the machine, such as a full disk, and by RuntimeError and MemoryError.
    """
    say(prog, error)
    return error_status(error)


def printable(text: str, *, keep: str = "") -> str:
    """One line for a terminal: what a file says, or how it is named, may contain control characters.

    Args:
        text: any text.
        keep: control characters that stay, such as line ends of a message with several lines.
    """
    return "".join(letter if letter.isprintable() or letter in keep else ascii(letter)[1:-1] for letter in text)
