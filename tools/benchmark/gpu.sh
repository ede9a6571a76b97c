#!/usr/bin/env bash
# Check and measure everything that needs a GPU, and write every table to one folder. Ends within 8 minutes on one card.
#
#   bash tools/benchmark/gpu.sh [--device cuda|cpu] [--videos DIR] [--weights NAME=FILE] [--limit-s N] [OUT_DIR]
#
# --device   cuda (default), or cpu: small sizes, which show that the script works
# --videos   folder of videos to prepare; without it, the clips that come with an installed package
# --weights  weights of RAFT, such as raft-small=FILE; without them RAFT is not measured
# --limit-s  all steps together end after this many seconds (default: 480); the limit of each step grows with it
# OUT_DIR    one file per step, and all tables in tables.txt (default: gpu_out)
#
# Nothing is downloaded. PYTHON names the interpreter (default: .venv/bin/python of the checkout, else python3). Each
# step has a time limit, and one that fails costs only its own table. The exit status is 1 if any step failed.
set -uo pipefail
caller=$PWD
cd "$(dirname "$0")/../.." || exit 2
device=cuda videos='' weights='' limit_s=480 out=''
usage() { echo "gpu.sh: $1; see --help" >&2; exit 2; }
while [ "$#" -gt 0 ]; do
    case "$1" in
        -h | --help) sed -n '2,13s/^# \{0,1\}//p' tools/benchmark/gpu.sh; exit 0 ;;
        --device | --videos | --weights)
            [ "$#" -ge 2 ] || usage "$1 needs a value"
            declare "${1#--}=$2"
            shift 2 ;;
        --limit-s)
            [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || usage "--limit-s takes whole seconds, got ${2:-nothing}"
            limit_s=$2
            shift 2 ;;
        -*) usage "unknown option $1" ;;
        *) [ -z "$out" ] || usage "want one OUT_DIR, got $out and $1"; out=$1; shift ;;
    esac
done
case "$device" in cuda | cpu) ;; *) usage "--device takes cuda or cpu, got $device" ;; esac
absolute() { case "$1" in /*) printf '%s' "$1" ;; *) printf '%s' "$caller/$1" ;; esac; }
out=$(absolute "${out:-gpu_out}")
[ -z "$videos" ] || videos=$(absolute "$videos")
[ -z "$videos" ] || [ -d "$videos" ] || usage "--videos: no such folder: $videos"
case "$weights" in '') ;; *=*) weights=${weights%%=*}=$(absolute "${weights#*=}") ;; *) usage "--weights takes NAME=FILE, got $weights" ;; esac
python=${PYTHON:-}
[ -n "$python" ] || { [ -x .venv/bin/python ] && python=.venv/bin/python || python=python3; }
if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu.sh: --device cuda needs a CUDA GPU, and torch of $python finds none; --device cpu tries the script" >&2
    exit 2
fi
mkdir -p "$out" || exit 2
: >"$out/tables.txt"
failed=''

# step NAME SECONDS COMMAND...: run a command with a time limit; its output goes to the screen and into the folder
step() {
    local name=$1 limit=$(($2 * limit_s / 480 + 1)) started=$SECONDS left=$((limit_s - SECONDS)) status
    shift 2
    limit=$((limit < left ? limit : left))
    printf '\n== %s\n' "$name" | tee -a "$out/tables.txt"
    if [ "$limit" -lt 1 ]; then
        failed="$failed $name"
        echo "$name: left out, because the $limit_s s of --limit-s are over" | tee -a "$out/tables.txt"
        return
    fi
    timeout --kill-after=10 "$limit" "$@" 2>"$out/$name.err" | tee "$out/$name.txt" | tee -a "$out/tables.txt"
    status=${PIPESTATUS[0]}
    if [ "$status" -ne 0 ]; then
        failed="$failed $name"
        local reason="failed with status $status"
        [ "$status" -ne 124 ] || reason="stopped after its limit of $limit s"
        { echo "$name: $reason; the end of $out/$name.err:"; tail -n 5 "$out/$name.err"; } | tee -a "$out/tables.txt"
    fi
    echo "($name took $((SECONDS - started)) s)" | tee -a "$out/tables.txt"
}

if [ "$device" = cuda ]; then
    cores=$(nproc)
    workers=$((cores > 1 ? cores - 1 : 1))
    tests=(-m gpu tests) batches=(32 64 128) rounds=3 sizes=384x384 num=64 steps=60 pairs=60 short=416
    published=(--recipe resnet50 --batch 64) rows=all threads=2
else
    workers=1
    tests=(-m "not gpu" tests/gpu -k "edges or points or value") batches=(1) rounds=1 sizes=96x96 num=2 steps=3 pairs=6 short=416
    published=(--recipe resnet50 --batch 1) rows=last threads=1  # two threads wait for each other on a busy machine
fi

{
    timeout 60 "$python" -c 'import torch, platform; print("torch", torch.__version__, "python", platform.python_version(), torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine())'
    echo "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(nproc) cores, device $device"
} | tee -a "$out/tables.txt"

step tests 150 "$python" -m pytest -q -p no:cacheprovider "${tests[@]}"
step guidance 45 "$python" tools/benchmark/guidance.py --sizes "$sizes" --device "$device" --batch "$num" --rounds "$((rounds * 3))"
step train_step 110 "$python" tools/benchmark/train_step.py "${published[@]}" --device "$device" --rounds "$rounds" \
    --variants "$rows" --threads "$threads" --profile
for batch in "${batches[@]}"; do
    step "memory_batch_$batch" 40 "$python" tools/benchmark/train_step.py --recipe resnet50 --batch "$batch" \
        --device "$device" --rounds 1 --only step --variants last --threads "$threads"
done
[ "$device" = cpu ] || step compile 80 "$python" tools/benchmark/train_step.py "${published[@]}" --device cuda --rounds 2 \
    --only step --compile --variants last

if [ -z "$videos" ]; then
    videos=$out/clips
    step clips 30 "$python" tools/sample_clips.py "$videos"
fi
step prepare 60 "$python" tools/prepare_flow.py "$videos" "$out/pairs" --short-side "$short" --pairs-per-video "$pairs"
step loader 60 "$python" tools/benchmark/train_step.py "${published[@]}" --device "$device" --only none --data "$out/pairs" \
    --workers "$workers" --data-steps "$steps" --threads "$threads"
step starter 60 "$python" tools/train.py configs/pretrain/cmp_r18_quickstart_1xb16_300.py --data "$out/pairs" \
    --work-dir "$out/starter" --cfg-options log_level=WARNING train_cfg.max_iters="$steps" train_cfg.val_interval="$steps" \
    default_hooks.logger.interval=1 train_dataloader.num_workers="$workers"
step starter_rate 20 "$python" - "$out/starter" <<'END'
import json, pathlib, statistics, sys

logs = sorted(pathlib.Path(sys.argv[1]).glob("*/vis_data/scalars.json"))
rows = [json.loads(line) for line in logs[-1].read_text().splitlines()] if logs else []
times = [row["train/time"] for row in rows if "train/time" in row] or [row["time"] for row in rows if "time" in row]
if not times:
    sys.exit("the run of the starter left no times")
half = times[len(times) // 2 :]  # the first steps warm up
print(f"starter recipe: {16 / statistics.median(half):.1f} samples/s (batch 16, median of {len(half)} steps)")
END
if [ "$device" = cuda ]; then
    step inference 40 "$python" tools/benchmark/inference.py --device cuda --rounds 3
else
    step inference 60 "$python" tools/benchmark/inference.py --device cpu --decoder plain --sets 2 --size 64x64 --rounds 1
fi
if [ -n "$weights" ]; then
    step raft 60 "$python" tools/prepare_flow.py "$videos" "$out/pairs_raft" --short-side "$short" \
        --pairs-per-video "$pairs" --estimator "${weights%%=*}" --estimator-weights "${weights#*=}" --estimator-device "$device"
fi

summary=${failed:+failed:$failed}
printf '\n%s in %d s; tables: %s\n' "${summary:-every step ended well}" "$SECONDS" "$out/tables.txt"
[ -z "$failed" ]
