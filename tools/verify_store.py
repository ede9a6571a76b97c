"""`cmp-motion store verify` of this checkout."""

from cmp.cli.store_verify import main
from cmp.interrupts import run_command

if __name__ == "__main__":
    run_command(main)
