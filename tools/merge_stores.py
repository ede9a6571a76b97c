"""`cmp-motion store merge` of this checkout."""

from cmp.cli.store_merge import main
from cmp.interrupts import run_command

if __name__ == "__main__":
    run_command(main)
