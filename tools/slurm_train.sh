#!/usr/bin/env bash
#SBATCH --job-name=cmp
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
# Pretrain under Slurm, one task a GPU. Submit from the checkout:
#
#   sbatch --nodes 2 --ntasks-per-node 8 --gpus-per-node 8 --cpus-per-task 12 --time 24:00:00 \
#       tools/slurm_train.sh CONFIG [arguments of tools/train.py]
#
# The work dir has to be on a disk that all nodes share. 180 s before the time is up, and when the job is preempted, a
# checkpoint is saved and the job put back in the queue; it always goes on from the newest checkpoint in the work dir.
# Python is $PYTHON, else the one on PATH. MASTER_PORT overrides the port, which follows from the job's number.
set -euo pipefail
if [ "$#" -lt 1 ] || [ "$1" = "--help" ]; then
    sed -n '6,14s/^# \{0,1\}//p' "$0"
    [ "${1:-}" = "--help" ] && exit 0 || exit 2
fi
: "${SLURM_JOB_ID:?is not set: submit this with sbatch}"
root=${SLURM_SUBMIT_DIR:-$PWD}  # sbatch runs a copy of this file
if [ ! -f "$root/tools/train.py" ]; then
    echo "slurm_train.sh: $root is not the checkout: submit from there" >&2
    exit 2
fi
export PYTHON=${PYTHON:-$(command -v python || command -v python3)}
export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}

forward() {  # a preempted job's SIGTERM may reach the batch script alone
    interrupted=1
    kill -TERM "$srun" 2>/dev/null || true
}
trap forward TERM
# Slurm's numbers under the names that torch reads.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    export TORCHELASTIC_RESTART_COUNT=${SLURM_RESTART_COUNT:-0}  # back from the queue: a --resume PATH is done with
    exec "$PYTHON" "$@"' task "$root/tools/train.py" "$1" --resume "${@:2}" &
srun=$! interrupted=1
while [ "$interrupted" = 1 ]; do  # a trapped signal ends wait before srun has ended
    interrupted=0 status=0
    wait "$srun" || status=$?
done
if [ "$status" -eq 75 ]; then  # stopped by a signal after saving
    echo "slurm_train.sh: job $SLURM_JOB_ID saved its state and goes back in the queue"
    scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$status"
