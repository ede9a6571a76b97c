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
# Files in the order of their names: sorted by number of tests, long files of few tests would come last, for one process.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$python" -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations=10 "$@"
