#!/usr/bin/env bash
# Check style, types and spelling, then run the tests. Makes and fills .venv where needed. Arguments go to pytest.
#
#   bash tools/test.sh                  the whole default suite
#   bash tools/test.sh -m slow          the long checks
#   bash tools/test.sh tests/flow -k wheel
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then
    sed -n '2,6s/^# \{0,1\}//p' tools/test.sh
    exit 0
fi
. tools/environment.sh test
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
"$python" -m codespell_lib
# One test process per core, each with one thread. The tests of a file stay together because they share what they made.
# Long files first, as tests/conftest.py sorts them: xdist would sort by number of tests, and long files have few.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$python" -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations=10 "$@"
