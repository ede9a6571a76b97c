"""`cmp-motion checkpoint check` of this checkout."""

from cmp.cli.checkpoint_check import main
from cmp.interrupts import run_command

if __name__ == "__main__":
    run_command(main)
