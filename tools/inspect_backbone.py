"""`cmp-motion checkpoint inspect` of this checkout."""

from cmp.cli.inspect import main
from cmp.interrupts import run_command

if __name__ == "__main__":
    run_command(main)
