"""`cmp-motion export backbone` of this checkout."""

from cmp.cli.export_backbone import main
from cmp.interrupts import run_command

if __name__ == "__main__":
    run_command(main)
