"""`python -m cmp` is `cmp-motion`."""

from cmp.cli.main import run

if __name__ == "__main__":
    run()
