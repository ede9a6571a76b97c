#!/usr/bin/env bash
# Run the tests in .venv, which is made and filled where needed. Arguments go to pytest.
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
# One test process a core, each with one thread; a file's tests stay together, since they share what they have made.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$python" -m pytest --numprocesses auto --dist loadfile "$@"
