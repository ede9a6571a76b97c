# Sourced by quickstart.sh and test.sh: makes or reuses .venv in the checkout, installs the project into it with the
# extras named as arguments, and sets $python. An unchanged pyproject.toml is installed once.
if [ "$0" = "${BASH_SOURCE[0]}" ]; then
    echo "environment.sh is sourced by quickstart.sh and test.sh, not run" >&2
    exit 2
fi
base=${PYTHON:-python3}
if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "Python 3.10 or newer is needed; $base is $("$base" --version 2>&1 || true). PYTHON=/path/to/python names another." >&2
    exit 2
fi
python=$PWD/.venv/bin/python
stamp=.venv/installed-$1-$(cksum <pyproject.toml | cut -d' ' -f1)
if [ ! -f "$stamp" ]; then
    if [ ! -x "$python" ]; then
        "$base" -m venv .venv
    fi
    echo "installing packages into .venv (a few minutes the first time) ..."
    "$python" -m pip install --quiet --disable-pip-version-check -e ".[$1]"
    touch "$stamp"
fi
# Threads that wait at a barrier sleep instead of spinning: next to any other job, training is several times faster.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
