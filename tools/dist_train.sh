#!/usr/bin/env bash
# Pretrain in several processes on one machine: one a GPU, or on CPUs (gloo) where there is none.
#
#   bash tools/dist_train.sh CONFIG NUM_PROCS [arguments of tools/train.py]
#   bash tools/dist_train.sh configs/pretrain/cmp_r50_yfcc_16xb10_42k.py 8 --work-dir work_dirs/r50
#
# PORT names a port where the free one that torchrun finds by itself will not do.
set -euo pipefail
if [ "$#" -lt 2 ] || [ "$1" = "--help" ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    [ "${1:-}" = "--help" ] && exit 0 || exit 2
fi
config=$1 procs=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$(command -v python || command -v python3)}
rendezvous=(--standalone)
[ -z "${PORT:-}" ] || rendezvous=(--master-port "$PORT")
exec "$python" -m torch.distributed.run --nproc-per-node "$procs" "${rendezvous[@]}" "$here/train.py" "$config" "$@"
