#!/usr/bin/env bash
# Make the starter network again from scratch: pairs, training, evaluation, and the file in float16.
#
#   bash tools/starter.sh TRAIN_VIDEOS HELD_OUT_VIDEOS OUT_DIR [STEPS]
#
# TRAIN_VIDEOS     folder with one folder of clips per scene; scenes are drawn equally often
# HELD_OUT_VIDEOS  the same, with other scenes; only evaluated
# OUT_DIR          where everything goes; run again with the same one, and it goes on where it stopped
# STEPS            of training (default: 32000, the recipe's; 16 images each)
#
# Needs about a day on two CPU cores. The result is OUT_DIR/cmp_r18_starter.safetensors with its SHA-256, and
# OUT_DIR/evaluation with the table and pictures of held-out pairs.
set -euo pipefail
cd "$(dirname "$0")/.."
caller=$OLDPWD
case "${1:-}" in
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' tools/starter.sh && exit 0 ;;
esac
if [ "$#" -lt 3 ] || [ "$#" -gt 4 ]; then
    echo "starter.sh: expected TRAIN_VIDEOS HELD_OUT_VIDEOS OUT_DIR [STEPS], got $# arguments; see --help" >&2
    exit 2
fi
absolute() { case "$1" in /*) printf '%s' "$1" ;; *) printf '%s' "$caller/$1" ;; esac; }
train=$(absolute "$1") held_out=$(absolute "$2") out=$(absolute "$3") steps=${4:-32000}
for folder in "$train" "$held_out"; do
    [ -d "$folder" ] || { echo "starter.sh: no such folder: $folder" >&2; exit 2; }
done
case "$steps" in *[!0-9]* | "" | 0*) echo "starter.sh: STEPS must be a whole number above 0, got $steps" >&2; exit 2 ;; esac

echo "== 1/5 packages"
. tools/environment.sh clips
mkdir -p "$out"

echo "== 2/5 pairs"
prepare() {
    "$python" tools/prepare_flow.py "$1" "$2" --interval-seconds 0.15 --pairs-per-video "$3" --short-side 192 --max-flow 60
}
prepare "$train" "$out/pairs" 40
prepare "$held_out" "$out/pairs_held_out" 12

echo "== 3/5 training"
config=configs/pretrain/cmp_r18_clips_1xb16_32k.py
"$python" tools/train.py "$config" --work-dir "$out/run" --resume --steps "$steps" --cfg-options \
    train_dataloader.dataset.part=all "train_dataloader.dataset.source.paths=['$out/pairs']" \
    val_dataloader.dataset.part=all "val_dataloader.dataset.source.paths=['$out/pairs_held_out']"

echo "== 4/5 the file"
starter=$out/cmp_r18_starter.safetensors
"$python" tools/convert_checkpoint.py "$out/run/iter_$steps.pth" "$starter" --ema --half

echo "== 5/5 evaluation"
"$python" tools/evaluate.py propagation "$config" "$starter" --data "$out/pairs_held_out" \
    --points 1 2 4 8 all --interpolations nearest inverse_distance fading --out "$out/evaluation"
sha256sum "$starter"
