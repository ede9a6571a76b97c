"""`cmp-motion animate` of this checkout."""

from cmp.cli.animate import main
from cmp.interrupts import run_command

if __name__ == "__main__":
    run_command(main)
