"""`cmp-motion playground` of this checkout."""

from cmp.cli.playground import main
from cmp.interrupts import run_command

if __name__ == "__main__":
    run_command(main, endless=True)
