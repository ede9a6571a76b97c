"""`cmp-motion clips` of this checkout."""

from cmp.cli.clips import main
from cmp.interrupts import run_command

if __name__ == "__main__":
    run_command(main)
