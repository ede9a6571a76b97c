"""`cmp-motion export propagator` of this checkout."""

from cmp.cli.export_propagator import main
from cmp.interrupts import run_command

if __name__ == "__main__":
    run_command(main)
