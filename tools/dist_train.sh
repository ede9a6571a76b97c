#!/usr/bin/env bash
# Pretrain in several processes, one a GPU, or on CPUs (gloo) where there is none.
#
#   bash tools/dist_train.sh CONFIG NUM_PROCS [arguments of tools/train.py]
#   bash tools/dist_train.sh configs/pretrain/cmp_r50_yfcc_16xb10_42k.py 8 --work-dir work_dirs/r50
#
# Several machines: the same line on each, NUM_PROCS being those of one machine, the work dir on a shared disk, and
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=first-machine MASTER_PORT=29500 bash tools/dist_train.sh ...
# MAX_RESTARTS (default 3): how often torchrun starts the processes again when one dies; they go on from the newest
# checkpoint. SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint and exit with 75 (see tools/train.py); torchrun gives them 30 s
# for that, or TORCH_ELASTIC_SHUTDOWN_TIMEOUT. MASTER_PORT (or PORT) names a port on one machine too, where the free one
# that torchrun finds by itself will not do.
set -euo pipefail
if [ "$#" -lt 2 ] || [ "$1" = "--help" ]; then
    sed -n '2,13s/^# \{0,1\}//p' "$0"
    [ "${1:-}" = "--help" ] && exit 0 || exit 2
fi
config=$1 procs=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$(command -v python || command -v python3)}
nodes=${NNODES:-1} port=${MASTER_PORT:-${PORT:-}}
if [ "$nodes" -gt 1 ]; then
    : "${NODE_RANK:?is needed with NNODES: 0 on the first machine, then 1, 2, ...}"
    : "${MASTER_ADDR:?is needed with NNODES: the first machine}" "${port:=29500}"
    rendezvous=(--nnodes "$nodes" --rdzv-backend c10d --rdzv-endpoint "$MASTER_ADDR:$port" --rdzv-id "cmp-$port"
        --rdzv-conf "is_host=$([ "$NODE_RANK" -eq 0 ] && echo 1 || echo 0)")
elif [ -n "$port" ]; then
    rendezvous=(--master-port "$port")
else
    rendezvous=(--standalone)
fi
CMP_STATUS_FILE=$(mktemp)  # torchrun answers 1 whatever its processes' statuses are
# torchrun's own store outlives a restart, and its processes would look for each other where the dead ones were.
export CMP_STATUS_FILE TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
unset MASTER_ADDR MASTER_PORT
torchrun="" told=0 asked=0
stop() {
    interrupted=1 asked=1
    if [ -n "$torchrun" ] && [ "$told" = 0 ]; then
        told=1
        kill -TERM "$torchrun" 2>/dev/null || true
    fi
}
trap stop TERM INT USR1  # before there is anything to stop: a signal in between must not be lost
set -m  # a process group of its own: a signal to ours reaches torchrun once, through the trap
"$python" -m torch.distributed.run --nproc-per-node "$procs" --max-restarts "${MAX_RESTARTS:-3}" "${rendezvous[@]}" \
    "$here/train.py" "$config" "$@" &
torchrun=$!
[ "$asked" = 0 ] || stop
interrupted=1
while [ "$interrupted" = 1 ]; do  # a trapped signal ends wait before torchrun has ended
    interrupted=0 status=0
    wait "$torchrun" || status=$?
done
if [ -s "$CMP_STATUS_FILE" ]; then
    status=$(cat "$CMP_STATUS_FILE")
elif [ "$asked" = 1 ] && [ "$status" -ne 0 ]; then
    echo "dist_train.sh: stopped by a signal before the run could save a checkpoint" >&2
    status=75
fi
rm -f "$CMP_STATUS_FILE" "$CMP_STATUS_FILE.started"
exit "$status"
